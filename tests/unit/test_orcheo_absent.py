"""What someone without Orcheo sees of its integration."""

from __future__ import annotations

import subprocess
import sys

import pytest

from orcheo_agentensor.errors import MissingExtra


def test_the_integration_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("orcheo", "agentensor"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "orcheo_agentensor.integrations.orcheo", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'orcheo-agentensor\[orcheo\]'") as raised:
        import orcheo_agentensor.integrations.orcheo  # noqa: F401
    assert isinstance(raised.value, MissingExtra)


def test_the_package_never_imports_orcheo() -> None:
    seen = """
import sys
from orcheo_agentensor import *
from orcheo_agentensor.nodes import *
print([name for name in sys.modules if name.split(".")[0] in ("orcheo", "agentensor")])
"""
    done = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
