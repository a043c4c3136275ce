"""Who calls a route or asks for a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orcheo_agentensor.callers import NOBODY_ASKED, Caller, caller_known_as


def caller_of(scope: Mapping[str, Any]) -> Caller:
    """The caller of a request, as the server's authentication left it in the ASGI scope.

    A request of the server to itself carries the caller in a context variable; without one it is
    this process that asks.
    """
    user, auth = scope.get("user"), scope.get("auth")
    if user is not None:
        return caller_known_as(user, getattr(auth, "scopes", ()))
    from langgraph_api.utils import get_auth_ctx

    context = get_auth_ctx()
    if context is None:
        return NOBODY_ASKED
    return caller_known_as(context.user, context.permissions)
