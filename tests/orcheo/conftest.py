"""These tests run inside real Orcheo (`make test-orcheo`) and are not collected without it."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("orcheo.plugins") else ["test_*.py"]
