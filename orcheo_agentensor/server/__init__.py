"""What a LangGraph server needs: routes, review of run requests, auth, and graphs to serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orcheo_agentensor.lazy import lazily
from orcheo_agentensor.targets.served import serve

if TYPE_CHECKING:
    from orcheo_agentensor.server.auth import create_auth

__all__ = ["create_auth", "serve"]

__getattr__ = lazily(__name__, {"auth": ("create_auth",)})
