"""Optimizers of third parties: by entry point, and as objects."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from orcheo_agentensor import (
    BadInput,
    RandomSearch,
    Reflective,
    Settings,
    TextGrad,
    atrain,
    get_prompt,
)
from orcheo_agentensor.errors import EntrypointNotFound
from orcheo_agentensor.optimizers import resolve_optimizer

MODULE = '''
from orcheo_agentensor.optimizers import Trial, derive_seed


class Greedy:
    """Learns from all cases at once, `tries` times."""

    name = "greedy"

    def __init__(self, tries=2, proposer=None):
        self.tries, self.proposer = tries, proposer

    def start(self, space):
        return {"left": self.tries, "best": space.baseline, "cases": list(space.case_ids),
                "names": list(space.components), "seed": space.seed}

    def ask(self, state):
        if not state["left"]:
            return []
        return [Trial(parent=state["best"], case_ids=tuple(state["cases"]),
                      components=tuple(state["names"]),
                      seed=derive_seed(state["seed"], state["left"], "try"))]

    def tell(self, state, outcomes):
        (one,) = outcomes
        best = one.child if one.status == "accepted" else state["best"]
        return {**state, "left": state["left"] - 1, "best": best}


class Strange:
    """No optimizer."""
'''
POINTS = """\
[orcheo_agentensor.optimizers]
greedy = greedy_search:Greedy
strange = greedy_search:Strange
gone = greedy_search_that_is_not_there:Greedy
"""
CASES = [
    {"id": f"{split}{i}", "split": split, "inputs": {"i": i}}
    for split in ("train", "validation", "holdout")
    for i in range(6)
]


class Better:
    """A proposer that says what helps."""

    async def propose(self, request: Any) -> dict[str, str]:
        return {component.name: "Do it well." for component in request.components}


async def target(inputs: dict[str, int]) -> dict[str, bool]:
    return {"well": "well" in get_prompt("p")}


def score(outputs: dict[str, bool]) -> bool:
    return outputs["well"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A distribution with entry points, as pip would leave it."""
    (tmp_path / "greedy_search.py").write_text(MODULE)
    info = tmp_path / "greedy_search-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greedy-search\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("greedy_search", None)


@pytest.mark.usefixtures("installed")
@pytest.mark.requirement("training.optimizers")
async def test_an_installed_optimizer_is_found_by_its_name() -> None:
    result = await atrain(
        target,
        prompts={"p": "Do."},
        dataset=CASES,
        evaluators=[score],
        optimizer={"name": "greedy", "tries": 1, "proposer": Better()},
    )
    assert result.best.prompts["p"].text == "Do it well."
    assert result.best.metadata["optimizer"] == "greedy"


@pytest.mark.usefixtures("installed")
def test_its_options_and_those_beside_it_are_said() -> None:
    settings = Settings()
    assert resolve_optimizer({"name": "greedy", "tries": 5}, settings=settings).tries == 5  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match=r"known: .*greedy.*random_search, reflective.*textgrad"):
        resolve_optimizer("greedier", settings=settings)
    with pytest.raises(BadInput, match=r"optimizer\.name.*must name an Optimizer"):
        resolve_optimizer("strange", settings=settings)
    with pytest.raises(EntrypointNotFound, match="'gone' does not import"):
        resolve_optimizer("gone", settings=settings)


@pytest.mark.usefixtures("installed")
async def test_an_optimizer_is_taken_as_an_object() -> None:
    from greedy_search import Greedy  # type: ignore[import-not-found]

    result = await atrain(
        target,
        prompts={"p": "Do."},
        dataset=CASES,
        evaluators=[score],
        optimizer=Greedy(tries=3, proposer=Better()),
    )
    assert result.best.metrics["objective"] == 1.0


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (None, Reflective),
        ("textgrad", TextGrad),
        ({"name": "random_search", "parallel": 2}, RandomSearch),
        ({"parallel": 2}, Reflective),
    ],
)
def test_bundled_optimizers_are_found_and_reflective_is_the_default(spec: Any, kind: type) -> None:
    assert isinstance(resolve_optimizer(spec, settings=Settings()), kind)


@pytest.mark.parametrize("spec", [3, object(), ["textgrad"]])
def test_anything_else_is_refused(spec: Any) -> None:
    with pytest.raises(BadInput, match="must be a name"):
        resolve_optimizer(spec, settings=Settings())
