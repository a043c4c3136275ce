"""Orcheo's own loader finds the plugin in a plugin environment, and registers its node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
LOAD = """
import json
import orcheo.nodes
from orcheo.nodes.base import TaskNode
from orcheo.nodes.registry import registry
from orcheo.plugins import DesiredPluginRecord, LockedPluginRecord, build_storage_paths
from orcheo.plugins import invalidate_plugin_loader, load_enabled_plugins
from orcheo.plugins import save_desired_state, save_lock_state
from orcheo.plugins.manager import _load_plugin_manifests, _site_packages
from pathlib import Path

NAME = "orcheo_agentensor.AgentensorNode"
paths = build_storage_paths()
[(manifest, sha)] = _load_plugin_manifests(_site_packages(Path(paths.install_dir)))
save_desired_state(Path(paths.state_file), [DesiredPluginRecord(manifest.name, "wheel")])
save_lock_state(Path(paths.lock_file), [LockedPluginRecord(
    name=manifest.name, version=manifest.version, location=paths.install_dir,
    plugin_api_version=manifest.plugin_api_version, orcheo_version=manifest.orcheo_version,
    wheel_sha256="", manifest_sha256=sha, exports=manifest.exports)])
theirs = registry.get_node("AgentensorNode")
[result] = load_enabled_plugins(force=True).results
node = registry.get_node(NAME)
found = {
    "loaded": result.loaded, "error": result.error, "exports": manifest.exports,
    "entry_points": manifest.entry_points,
    "is_task_node": issubclass(node, TaskNode),
    "category": registry.get_metadata(NAME).category,
    "from_plugin_environment": paths.install_dir in __import__("orcheo_agentensor").__file__,
}
invalidate_plugin_loader()
found["left_after_unloading"] = registry.get_node(NAME) is not None
found["theirs_untouched"] = registry.get_node("AgentensorNode") is theirs is not None
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def plugin_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugin environment of Orcheo's with this project's wheel in it."""
    home = tmp_path_factory.mktemp("orcheo")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    target = home / "venv" / "lib" / version / "site-packages"
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    subprocess.run([*pip, *options, str(ROOT)], check=True, capture_output=True)
    return home


def loaded(home: Path) -> dict[str, Any]:
    """What a fresh process of Orcheo says after loading its plugins."""
    environment = {**os.environ, "ORCHEO_PLUGIN_DIR": str(home), "PYTHONSAFEPATH": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_orcheo_loads_and_unloads_the_plugin(plugin_home: Path) -> None:
    assert loaded(plugin_home) == {
        "loaded": True,
        "error": None,
        "exports": ["nodes"],
        "entry_points": ["agentensor=orcheo_agentensor.integrations.orcheo"],
        "is_task_node": True,
        "category": "agentensor",
        "from_plugin_environment": True,
        "left_after_unloading": False,
        "theirs_untouched": True,
    }
