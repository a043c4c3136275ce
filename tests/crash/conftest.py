"""Makes what the tests of the store and of the graphs share importable here."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("storage", "graph", "e2e"):
    sys.path.append(str(Path(__file__).parents[1] / folder))
