"""What a job may name: code that the operator's modules define, and nothing that they only hold."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import orcheo_agentensor.demo
from orcheo_agentensor import Settings, aevaluate, atrain
from orcheo_agentensor.entrypoints import OWN_NAMES
from orcheo_agentensor.errors import BadInput, EntrypointNotAllowed

MODULE = '''
import functools, operator, os, subprocess
from pathlib import Path
from os import environ, getenv
from orcheo_agentensor import Settings, Store
from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, StateGraph
from shop_admin import MACHINE, closed, delete_everything, retried
from shop_admin import graph as borrowed
from shop_admin import *

CASES = []

class Helper:
    """No evaluator, no proposer and no target."""

    made = 0

    def __init__(self, *args, **kwargs):
        Helper.made += 1

    def work(self, inputs, config=None):
        return inputs

class Scorer:
    """An evaluator."""

    def evaluate(self, ctx):
        return 1.0

class Callable:
    def __call__(self, inputs, config=None):
        return {"said": inputs}

def target(inputs, config):
    return {"said": inputs}

def score(ctx):
    return 1.0

def made():
    def scorer(ctx):
        return 1.0
    return scorer

def traced(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper

imported = getenv
shell = functools.partial(subprocess.run, shell=True)
inner = functools.partial(functools.partial(os.getenv), "HOME")
bound = Path("/etc/passwd").read_text
of_class = Path.home
environment = os.environ.get
getter = operator.itemgetter("x")
call = operator.methodcaller("upper")
cached = functools.lru_cache(os.getenv)
wrapped = traced(subprocess.check_output)
as_runnable = RunnableLambda(os.getenv)
settings = Settings()
store_url = Store.from_url
borrowed_method = MACHINE.run_it
half = functools.partial(score)
own_bound = Helper().work
own_wrapped = traced(target)
own_lambda = lambda inputs, config: {"said": inputs}
own_runnable = RunnableLambda(target)
own_instance = Callable()
scorer = made()
state = StateGraph(dict).add_node("one", lambda state: {"said": 1}).add_edge(START, "one")
'''
ADMIN = """
import functools
from langchain_core.runnables import RunnableLambda

class Machine:
    def run_it(self, *args):
        raise AssertionError("ran")
    def __call__(self, *args):
        raise AssertionError("ran")
    def invoke(self, *args):
        raise AssertionError("ran")

def delete_everything(*args, **kwargs):
    raise AssertionError("ran")

def _made():
    def inside(*args, **kwargs):
        raise AssertionError("ran")
    return inside

MACHINE = Machine()
closed = _made()
retried = functools.wraps(delete_everything)(lambda *a, **k: delete_everything(*a, **k))
starred = _made()
graph = RunnableLambda(_made())
"""
HOSTILE = [
    "getenv", "environ", "Settings", "Store", "StateGraph", "Path", "imported", "shell", "inner",
    "bound", "of_class", "environment", "getter", "call", "cached", "wrapped", "as_runnable",
    "settings", "store_url", "borrowed_method", "delete_everything", "MACHINE", "closed",
    "retried", "starred", "borrowed", "Helper", "subprocess",
]  # fmt: skip
FRIENDLY = {
    "target": ["target", "own_bound", "own_wrapped", "own_lambda", "own_runnable",
               "own_instance", "state"],
    "evaluator": ["score", "half", "scorer", "Scorer"],
}  # fmt: skip


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "shop.py").write_text(MODULE)
    (tmp_path / "shop_admin.py").write_text(ADMIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("shop")
    for name in ("shop", "shop_admin"):
        sys.modules.pop(name, None)


def job(**changes: Any) -> dict[str, Any]:
    return {
        "target": "shop:target",
        "dataset": [{"inputs": "HOME"}],
        "evaluators": ["shop:score"],
        "settings": Settings(allowed_modules=("shop",)),
        **changes,
    }


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_an_allowed_module_only_holds_is_no_target_and_no_evaluator(
    shop: Any, name: str
) -> None:
    before = shop.Helper.made
    for place in (
        {"target": f"shop:{name}"},
        {"target": {"entrypoint": f"shop:{name}", "output": "said"}},
        {"evaluators": [f"shop:{name}"]},
        {"evaluators": [{"entrypoint": f"shop:{name}", "params": {"x": 1}}]},
    ):
        with pytest.raises(BadInput) as caught:
            await aevaluate(**job(**place))
        assert "ran" not in str(caught.value)
        assert "AGENTENSOR_" not in str(caught.value.value)
    assert shop.Helper.made == before


@pytest.mark.parametrize("name", ["getenv", "closed", "Helper", "Scorer", "delete_everything"])
async def test_neither_are_they_proposers(shop: Any, name: str) -> None:
    optimizer = {"name": "reflective", "proposer": f"shop:{name}"}
    with pytest.raises(EntrypointNotAllowed):
        await atrain(**job(prompts={"p": "a"}, optimizer=optimizer))


@pytest.mark.parametrize(("what", "name"), [(w, n) for w in FRIENDLY for n in FRIENDLY[w]])
async def test_what_it_defines_or_makes_is_taken(shop: Any, what: str, name: str) -> None:
    place = {"target": f"shop:{name}"} if what == "target" else {"evaluators": [f"shop:{name}"]}
    if name == "state":
        place["dataset"] = [{"inputs": {"said": 0}}]
    report = await aevaluate(**job(**place))
    assert report.summary["n_ok"] == 1


@pytest.mark.parametrize("name", ["shop:target", "shop:score"])
async def test_a_name_in_the_list_allows_that_name_alone(shop: Any, name: str) -> None:
    settings = Settings(allowed_modules=("shop:target", "shop:score"))
    assert (await aevaluate(**job(settings=settings))).summary["n_ok"] == 1
    only = Settings(allowed_modules=(name,))
    with pytest.raises(EntrypointNotAllowed, match="is not under"):
        await aevaluate(**job(settings=only))


async def test_of_the_bundled_demo_only_its_own_names_are_anybodys() -> None:
    """With nothing allowed, no other name in any module of the demo is loaded."""
    folder = Path(orcheo_agentensor.demo.__file__).parent
    tried = 0
    for file in folder.rglob("*.py"):
        module = ".".join(["orcheo_agentensor", *file.relative_to(folder.parent).parts])
        module = module.removesuffix(".py").removesuffix(".__init__")
        tree = ast.parse(file.read_text())
        bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        bound |= {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for name in {f"{module}:{one}" for one in bound if one.isidentifier() and one[0] != "_"}:
            if name in OWN_NAMES:
                continue
            tried += 1
            with pytest.raises(EntrypointNotAllowed, match="none is set"):
                await aevaluate(**job(target=name, settings=Settings(allowed_modules=())))
    assert tried > 100
