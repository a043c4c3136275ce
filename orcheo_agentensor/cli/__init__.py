"""The command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orcheo_agentensor.lazy import lazily

if TYPE_CHECKING:
    from orcheo_agentensor.cli.errors import ExitCode
    from orcheo_agentensor.cli.run_once import RunJob

__all__ = [
    "ExitCode",
    "RunJob",
]

__getattr__ = lazily(
    __name__,
    {
        "errors": ("ExitCode",),
        "run_once": ("RunJob",),
    },
)
