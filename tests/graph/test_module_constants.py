"""Prompts that are constants of modules: each run reads its own, and the module keeps its text."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import kept_flow
import kept_prompts
import pytest
from langgraph.graph import START, StateGraph

from orcheo_agentensor import Reflective, Settings, aevaluate, atrain, configure
from orcheo_agentensor.errors import AgentensorError, ConfigError, EntrypointNotAllowed

PLANNER = kept_prompts.PLANNER
ALLOWED = Settings(allowed_modules=("kept_flow", "kept_prompts"))


def bound(text: str, bind: str = "kept_prompts:PLANNER") -> dict[str, Any]:
    return {"text": text, "bind": bind}


def cases(number: int = 1) -> list[dict[str, Any]]:
    return [{"id": str(n), "inputs": {"place": f"P{n}"}} for n in range(number)]


async def evaluated(target: Any, **options: Any) -> Any:
    options = {"dataset": cases(), "evaluators": [{"type": "length", "at_least": 1}], **options}
    return await aevaluate(target, **options)


def seen(text: str, place: str) -> dict[str, str]:
    """What every reader sees of a planner with this text."""
    filled = text.format(place=place)
    plain = ("f-string", "attribute", "late", "pool", "thread")
    return {"format": filled, "method": filled, **dict.fromkeys(plain, text), "argument": "mine"}


async def test_candidates_at_once_read_their_own_text_wherever_a_project_reads_it() -> None:
    texts = ["See {place} first.", "Leave {place} last.", "Both {place} and more."]
    reports = await asyncio.gather(
        *(
            evaluated(kept_flow.graph, prompts={"planner": bound(text)}, dataset=cases(6))
            for text in texts
        )
    )
    made = {"alias": "Write it down.", "made at import": "Write it down. Yours, Ada."}
    for text, report in zip(texts, reports, strict=True):
        read = [case.output["read"] for case in report.cases]
        assert read == [{**seen(text, f"P{n}"), **made} for n in range(6)]
    assert kept_flow.graph.invoke({"place": "P0"})["read"] == {**seen(PLANNER, "P0"), **made}
    assert (kept_prompts.PLANNER, kept_flow.PLANNER) == (PLANNER, PLANNER)


async def test_what_is_imported_under_another_name_and_read_in_an_edge_is_reached() -> None:
    report = await evaluated(
        kept_flow.graph,
        prompts={"writer": bound("Type it.", "kept_prompts:WRITER")},
    )
    assert report.cases[0].output["read"]["alias"] == "Type it."
    short = await evaluated(kept_flow.graph, prompts={"planner": bound("Stay.")})
    assert "alias" not in short.cases[0].output["read"]  # the edge read the text, too


async def test_a_factory_builds_with_the_text_of_its_rollout() -> None:
    report = await evaluated(
        "kept_flow:make_graph", prompts={"planner": bound("Built {place}.")}, settings=ALLOWED
    )
    assert report.cases[0].output["read"] == {"built": "Built {place}."}


def learns(outputs: Any) -> Any:
    return {"score": float("Rome" in outputs["read"]["format"]), "reason": "say Rome"}


class Roman:
    """Proposes a text that names Rome."""

    async def propose(self, request: Any) -> dict[str, str]:
        return {one.name: f"{one.text} Then Rome." for one in request.components}


async def test_a_constant_trains_because_its_reads_are_taped() -> None:
    named = [
        {**case, "split": split, "id": f"{split}-{case['id']}"}
        for split in ("train", "validation", "holdout")
        for case in cases(8)
    ]
    result = await atrain(
        kept_flow.graph,
        prompts={
            "planner": bound(PLANNER),
            "unused": bound("Nobody reads this.", "kept_prompts:UNUSED"),
        },
        dataset=named,
        evaluators=[learns],
        optimizer=Reflective(proposer=Roman()),
    )
    assert result.best.prompts["planner"].text == f"{PLANNER} Then Rome."
    assert result.best.prompts["unused"].text == "Nobody reads this."
    assert result.best.metrics["objective"] == 1.0
    assert kept_prompts.PLANNER == PLANNER


async def test_a_constant_that_nothing_reads_is_told_with_the_lines_that_help() -> None:
    report = await evaluated(
        kept_flow.graph, prompts={"unused": bound("New.", "kept_prompts:UNUSED")}
    )
    told = "\n".join(report.warnings)
    assert "nothing reads kept_prompts:UNUSED once it is imported" in told
    assert "get_prompt('unused', default=UNUSED) in the node" in told


async def test_files_of_constants_are_looked_for_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = Path(kept_prompts.__file__)
    monkeypatch.chdir(file.parent)
    served = configure(
        kept_flow.graph,
        workflow_id="kept",
        settings=Settings(allowed_folders=(file.parent,)),
    )
    looked: list[int] = []
    monkeypatch.setattr(Path, "cwd", lambda: looked.append(threading.get_ident()) or file.parent)
    prompts = {"planner": bound("Go by file.", f"./{file.name}:PLANNER")}
    found = await served.ainvoke({"place": "P0"}, {"configurable": {"prompts": prompts}})
    assert found["read"]["format"] == "Go by file."
    assert looked
    assert threading.get_ident() not in looked


async def test_a_configured_graph_reads_its_own_text_while_it_streams() -> None:
    def served(text: str) -> Any:
        defaults = {"prompts": {"planner": bound(text)}}
        return configure(kept_flow.graph, workflow_id="kept", defaults=defaults)

    first, second = served("One {place}."), served("Two {place}.")
    pairs = zip(first.stream({"place": "A"}), second.stream({"place": "B"}), strict=True)
    for one, other in pairs:
        assert kept_flow.late() == PLANNER  # who takes the stream is outside of the run
        read = [next(iter(part.values()))["read"]["format"] for part in (one, other)]
        assert read == ["One A.", "Two B."]
    parts = [part async for part in first.astream({"place": "C"})]
    assert parts[0]["plan"]["read"] == seen("One {place}.", "C")
    override = {"prompts": {"planner": bound("x", "kept_prompts:WRITER")}}
    with pytest.raises(EntrypointNotAllowed):
        first.invoke({"place": "A"}, override)


@pytest.mark.parametrize(
    ("bind", "told"),
    [
        ("kept_prompts:NOWHERE", "has no 'NOWHERE'"),
        ("kept_flow:graph", "must name a text of a module, and is CompiledStateGraph"),
        ("json:JSONDecoder", "is not under kept_flow, kept_prompts; add its module"),
        ("kept_prompts:CACHED", "is read in kept_flow.cached, whose results functools caches"),
    ],
)
async def test_a_constant_that_cannot_be_bound_is_refused(bind: str, told: str) -> None:
    job = {"prompts": {"planner": bound("x", bind)}}
    with pytest.raises(AgentensorError) as refused:
        await evaluated(kept_flow.graph, config=job, settings=ALLOWED)
    assert told in str(refused.value)


async def test_a_constant_is_not_imported_before_it_is_allowed() -> None:
    with pytest.raises(EntrypointNotAllowed, match="this_would_be_imported"):
        await evaluated(
            kept_flow.graph,
            config={"prompts": {"planner": bound("x", "this_would_be_imported:PROMPT")}},
            settings=ALLOWED,
        )


async def test_a_bind_of_no_known_form_lists_them() -> None:
    with pytest.raises(ConfigError, match=r"'module:NAME', a text of a module"):
        await evaluated(kept_flow.graph, prompts={"planner": bound("x", "planner")})


def _twice(state: Any) -> Any:
    return {"read": {"here": HERE}}


HERE = "A text of this very module."


async def test_a_constant_of_the_targets_own_module_is_reached() -> None:
    graph = StateGraph(kept_flow.State).add_node("twice", _twice).add_edge(START, "twice")
    report = await evaluated(graph, prompts={"here": bound("There.", f"{__name__}:HERE")})
    assert report.cases[0].output["read"] == {"here": "There."}
