"""What the first run would wait for, done when the server starts."""

from __future__ import annotations

from importlib import import_module

SLOW_TO_IMPORT = (
    "orcheo_agentensor.evaluators",
    "orcheo_agentensor.storage.engine",
    "orcheo_agentensor.storage.ledger",
    "scipy.stats",
)


def warm_up() -> None:
    """Import the modules that are otherwise imported when a run first needs them.

    Blocks for a second or two: to be called while a server loads its graphs, not in a request.
    """
    for module in SLOW_TO_IMPORT:
        import_module(module)
