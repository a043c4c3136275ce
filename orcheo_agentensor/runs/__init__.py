"""The run engine under both subgraphs: resolve a job, open its run under a lease, drive it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orcheo_agentensor.lazy import lazily

if TYPE_CHECKING:
    from orcheo_agentensor.runs.nodes import drive

__all__ = [
    "drive",
]

__getattr__ = lazily(
    __name__,
    {
        "nodes": ("drive",),
    },
)
