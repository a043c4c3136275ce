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
import asyncio, json, sys
from pathlib import Path
from orcheo.graph.builder import build_graph
from orcheo.nodes.base import TaskNode
from orcheo.nodes.registry import registry
from orcheo.plugins import DesiredPluginRecord, LockedPluginRecord, build_storage_paths
from orcheo.plugins import ensure_plugins_loaded, invalidate_plugin_loader
from orcheo.plugins import save_desired_state, save_lock_state
from orcheo.plugins.manager import _load_plugin_manifests, _site_packages

NAME, PLAIN, SOURCE = "orcheo_agentensor.AgentensorNode", "AgentensorNode", sys.argv[1]
paths = build_storage_paths()
[(manifest, sha)] = _load_plugin_manifests(_site_packages(Path(paths.install_dir)))
save_lock_state(Path(paths.lock_file), [LockedPluginRecord(
    name=manifest.name, version=manifest.version, location=paths.install_dir,
    plugin_api_version=manifest.plugin_api_version, orcheo_version=manifest.orcheo_version,
    wheel_sha256="", manifest_sha256=sha, exports=manifest.exports)])

def load(enabled):
    save_desired_state(
        Path(paths.state_file), [DesiredPluginRecord(manifest.name, "wheel", enabled=enabled)])
    invalidate_plugin_loader()
    return ensure_plugins_loaded().results

def names():
    return sorted(entry.name for entry in registry.list_metadata() if PLAIN in entry.name)

theirs = registry.get_node(PLAIN)
[result] = load(enabled=True)
node = registry.get_node(NAME)
script = build_graph({"format": "langgraph-script", "source": SOURCE}).compile()
ran = asyncio.run(script.ainvoke({"inputs": {}, "node_results": {}, "messages": []}))
found = {
    "loaded": result.loaded, "error": result.error, "exports": manifest.exports,
    "entry_points": manifest.entry_points,
    "names": names(),
    "is_task_node": issubclass(node, TaskNode),
    "category": registry.get_metadata(NAME).category,
    "objective": ran["node_results"]["evaluate"]["summary"]["objective"],
    "from_plugin_environment": paths.install_dir in __import__("orcheo_agentensor").__file__,
    "after_disabling": [load(enabled=False), names()],
}
metadata = registry.get_metadata(PLAIN)
registry.unregister(PLAIN)
load(enabled=True)
found["where_the_plain_name_is_free"] = names()
load(enabled=False)
found["and_after_disabling"] = names()
registry.register(metadata)(theirs)

import orcheo.plugins.compatibility
orcheo.plugins.compatibility.get_running_orcheo_version = lambda: "0.45.4"
[result] = load(enabled=True)
found["under_an_older_orcheo"] = [result.loaded, result.error, names()]
print(json.dumps(found))
"""
WORKFLOW = """
from langgraph.graph import END, START, StateGraph
from orcheo.graph.state import State
from orcheo.nodes import SetVariableNode
from orcheo.nodes.registry import registry

evaluate = registry.get_node("orcheo_agentensor.AgentensorNode")(
    name="evaluate",
    target=SetVariableNode(name="reply", variables={"known": "{{config.prompts.skills.text}}"}),
    dataset=[{"inputs": {}, "expected_output": "card"}],
    evaluators=["exact_match"],
    output="reply.known",
    prompts={"skills": "card"},
)

def orcheo_workflow():
    graph = StateGraph(State)
    graph.add_node("evaluate", evaluate)
    graph.add_edge(START, "evaluate")
    return graph
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
        [sys.executable, "-c", LOAD, WORKFLOW],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_orcheo_loads_runs_and_unloads_the_plugin(plugin_home: Path) -> None:
    both = ["AgentensorNode", "orcheo_agentensor.AgentensorNode"]
    assert loaded(plugin_home) == {
        "loaded": True,
        "error": None,
        "exports": ["nodes"],
        "entry_points": ["agentensor=orcheo_agentensor.integrations.orcheo"],
        "names": both,  # the plain one is Orcheo's own
        "is_task_node": True,
        "category": "agentensor",
        "objective": 1.0,
        "from_plugin_environment": True,
        "after_disabling": [[], ["AgentensorNode"]],
        "where_the_plain_name_is_free": both,
        "and_after_disabling": [],
        "under_an_older_orcheo": [
            False,
            "orcheo version 0.45.4 does not satisfy >=0.46,<1",
            ["AgentensorNode"],
        ],
    }
