"""The `demos` optimizer: worked examples in prompts, chosen by search and from training cases."""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from rule_task import outcome_of

from orcheo_agentensor import (
    BadInput,
    Budget,
    Demos,
    Limits,
    MaxSteps,
    TextTensor,
    TrainingResult,
    atrain,
    get_prompt,
)
from orcheo_agentensor.optimizers import Demo, ProposalRequest

QUEUES = ("card", "loan", "app")
EXAMPLE = re.compile(r"Input: (.*)\nOutput: (.*)")
SIZES = {"train": 24, "validation": 12, "holdout": 24}


def message(queue: str, draw: random.Random) -> str:
    words = [f"{queue}{n}" for n in range(6)] + [f"noise{n}" for n in range(20)]
    return " ".join(draw.sample(words[:6], 2) + draw.sample(words[6:], 3))


def messages() -> list[dict[str, Any]]:
    found = []
    for split, size in SIZES.items():
        draw = random.Random(split)
        for n in range(size):
            queue = QUEUES[n % 3]
            case = {"inputs": message(queue, draw), "expected_output": queue}
            found.append({"id": f"{split}-{n}", "split": split, **case})
    return found


class Neighbour:
    """A target that answers as the example in its prompt that shares most words with its input."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.cut_at = 0
        self.cut = asyncio.Event()

    async def __call__(self, inputs: str) -> str:
        text = get_prompt("triage")
        self.calls.append((text, inputs))
        if len(self.calls) == self.cut_at:
            self.cut.set()
            await asyncio.Event().wait()
        words, shown = set(inputs.split()), EXAMPLE.findall(text)
        best = max(shown, key=lambda one: len(words & set(one[0].split())), default=("", "?"))
        return best[1]


async def trained(target: Any, **changes: Any) -> TrainingResult:
    job: dict[str, Any] = {
        "prompts": {"triage": "Name the queue."},
        "dataset": messages(),
        "evaluators": ["exact_match"],
        "optimizer": {"name": "demos"},
        "budget": Budget(rollouts=300),
        "promote": "auto",
    }
    return await atrain(target, **{**job, **changes})


@pytest.mark.requirement("training.optimizers")
async def test_examples_of_training_cases_are_found_without_a_proposer_or_a_model() -> None:
    events: list[Any] = []
    result = await trained(Neighbour(), on_event=events.append)
    assert result.decision.status == "promoted"
    assert result.holdout is not None
    assert result.holdout["gain"] > 0.5
    assert result.usage.calls == 0
    text = result.best.prompts["triage"].text
    assert text.startswith("Name the queue.\n\nExamples:\n\nInput: ")
    train = {(c["inputs"], c["expected_output"]) for c in messages() if c["split"] == "train"}
    assert set(EXAMPLE.findall(text)) <= train
    assert len(EXAMPLE.findall(text)) <= 12  # half of the cases are left to be measured on
    assert len(text) <= 4_000 + len("Name the queue.\n\nExamples:\n\n")
    outcomes = [event["outcomes"] for event in events if event["type"] == "training_progress"]
    races = [set(one) for one in outcomes if one not in (["accepted"], ["worse_on_validation"])]
    assert races
    assert all(one == {"measured"} for one in races)
    again = await trained(Neighbour())
    assert outcome_of(again) == outcome_of(result)


async def test_a_contender_is_never_measured_on_the_cases_that_it_shows() -> None:
    target = Neighbour()
    await trained(target)
    for text, inputs in target.calls:
        if inputs not in {c["inputs"] for c in messages() if c["split"] != "train"}:
            assert f"Input: {inputs}\n" not in text


async def test_a_run_cut_off_in_a_race_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = Neighbour()
    job = {"limits": Limits(concurrency=1), "run_id": "r", "workflow_id": "w"}
    expected = outcome_of(await trained(whole, **job, store=f"sqlite:///{tmp_path / 'whole.db'}"))
    for number in (5, 70, len(whole.calls) - 3):
        target, store = Neighbour(), f"sqlite:///{tmp_path / f'{number}.db'}"
        target.cut_at = number
        task = asyncio.ensure_future(trained(target, **job, store=store))
        await target.cut.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        target.cut_at = 0
        assert outcome_of(await trained(target, **job, store=store)) == expected
        assert len(target.calls) == len(whole.calls) + 1  # the one that was cut


class Names(TypedDict, total=False):
    name: str
    parts: str
    written: str


async def test_a_prompt_shows_what_its_own_node_took_in_and_gave_out() -> None:
    """Labels stand for the output of the last node alone; the first shows what went well."""

    def split(state: Names) -> Names:
        get_prompt("split")
        return {"parts": "|".join(state["name"].split())}

    def write(state: Names) -> Names:
        first, last = state["parts"].split("|")
        shown = len(EXAMPLE.findall(get_prompt("write")))
        return {"written": f"{last}, {first}" if shown >= 2 or first == "Ada" else first}

    graph = StateGraph(Names, input_schema=Names, output_schema=Names)
    graph.add_node("split", split).add_node("write", write)
    graph.add_edge(START, "split").add_edge("split", "write").add_edge("write", END)
    said = {"max_chars": 90, "demos": {"format": "Input: {inputs.parts}\nOutput: {output}"}}
    people = ["Ada Hill", "Bob Lake", "Ada Wood", "Cyd Moor", "Ada Dale", "Eve Ford"]
    cases: list[dict[str, Any]] = [
        {
            "id": f"{split}-{n}",
            "split": split,
            "inputs": {"name": name},
            "expected_output": {"written": ", ".join(reversed(name.split()))},
        }
        for split in ("train", "validation")
        for n, name in enumerate(people)
    ]

    def right(outputs: Any, reference_outputs: Any) -> bool:
        return bool(outputs["written"] == reference_outputs["written"])

    result = await trained(
        graph.compile(),
        prompts={"split": "Split.", "write": TextTensor("Write.", metadata=said)},
        dataset=cases,
        evaluators=[right],
        optimizer=Demos(most=3),
        promote="never",
    )
    written = EXAMPLE.findall(result.best.prompts["write"].text)
    assert len(written) >= 2
    assert len(result.best.prompts["write"].text) <= 90
    names = {name: "|".join(name.split()) for name in people}
    for parts, answer in written:
        assert answer == ", ".join(reversed(parts.split("|")))
        assert parts in names.values()
    for name, parts in EXAMPLE.findall(result.best.prompts["split"].text):
        assert name.startswith("Ada")  # of the others no rollout went well
        assert parts == names[name]


async def test_reflective_tries_examples_beside_its_edits() -> None:
    """What no instruction brings is found by examples, and edits go on from there."""

    class Polite:
        async def propose(self, request: ProposalRequest) -> dict[str, str]:
            (prompt,) = request.components
            return {prompt.name: f"{prompt.text} Please." if len(prompt.text) < 60 else ""}

    optimizer: dict[str, Any] = {"name": "reflective", "minibatch": 4, "proposer": Polite()}
    without = await trained(Neighbour(), optimizer=optimizer)
    assert without.best == without.baseline
    result = await trained(Neighbour(), optimizer={**optimizer, "demos": 8})
    assert result.decision.status == "promoted"
    shown = EXAMPLE.findall(result.best.prompts["triage"].text)
    assert 2 <= len(shown) <= 8
    assert {queue for _inputs, queue in shown} <= set(QUEUES)


async def test_examples_go_into_the_slot_in_the_format_that_the_prompt_declares() -> None:
    text = "Name the queue of {{message}}.\n{examples}\nAnswer in a word."
    said = {"slot": "{examples}", "format": "{inputs} -> {output}", "max_chars": 150}
    texts: list[str] = []

    def seen(inputs: str) -> str:
        texts.append(get_prompt("triage"))
        return "card" if "card" in texts[-1].splitlines()[1] else "?"

    result = await trained(
        seen, prompts={"triage": TextTensor(text, metadata={"demos": said})}, promote="never"
    )
    first, *shown, last = result.best.prompts["triage"].text.split("\n")
    assert (first, last) == ("Name the queue of {{message}}.", "Answer in a word.")
    assert 1 <= len("\n".join(shown)) <= 150
    assert all(re.fullmatch(r"[\w ]+ -> \w+", line) for line in shown)
    assert result.baseline.prompts["triage"].text == text
    assert {"{examples}" in text for text in texts} == {True, False}


async def test_a_proposer_has_to_keep_an_empty_slot_and_may_use_a_filled_one() -> None:
    class Dropping:
        async def propose(self, request: ProposalRequest) -> dict[str, str]:
            assert request.components[0].placeholders == ("(no examples yet)",)
            return {"triage": "card"}

    slot = {"demos": {"slot": "(no examples yet)"}}
    events: list[Any] = []
    await trained(
        Neighbour(),
        prompts={"triage": TextTensor("Queue?\n(no examples yet)", metadata=slot)},
        optimizer={"name": "textgrad", "proposer": Dropping()},
        stop=[MaxSteps(1)],
        on_event=events.append,
    )
    (refused,) = [e["reason"] for e in events if e["type"] == "proposal_rejected"]
    assert refused == "triage: must keep its slot for examples, once: '(no examples yet)'"


async def test_no_example_quotes_a_held_case_or_breaks_a_template() -> None:
    held = "the customer of holdout case seven says something of its own, at some length"
    cases = messages()
    cases.append({"id": "held", "split": "holdout", "inputs": held, "expected_output": "card"})
    for n, braces in enumerate(("{x}", "{{name}}", f"{held} {{y}}")):
        case = {"inputs": f"{braces} {n} loan1", "expected_output": "loan"}
        cases.append({"id": f"odd-{n}", "split": "train", **case})
    cases = [case for case in cases if case["split"] != "train" or case["id"].startswith("odd")]
    cases.append({"id": "leak", "split": "train", "inputs": "app1", "expected_output": "loan"})
    texts: set[str] = set()

    def target(inputs: str) -> str:
        texts.add(get_prompt("triage"))
        return held if inputs == "app1" else "?"

    def good(outputs: str) -> bool:
        return outputs == held

    await trained(
        target,
        prompts={"triage": "Name the queue of {message}."},
        dataset=cases,
        evaluators=[good],
        optimizer=Demos(most=4, contenders=8),
        promote="never",
    )
    shown = [pair for text in texts for pair in EXAMPLE.findall(text)]
    assert {answer for _inputs, answer in shown} == {"loan"}  # and not what a rollout has quoted
    assert {inputs for inputs, _answer in shown} <= {
        "{{x}} 0 loan1",
        "{{{{name}}}} 1 loan1",
        "app1",
    }
    for text in texts:
        assert text.format(message="m")


@pytest.mark.parametrize(
    ("text", "metadata", "told"),
    [
        (
            "No slot.",
            {"demos": {"slot": "{ex}"}},
            r"demos\.slot: '\{ex\}' must stand once .* 0 tim",
        ),
        ("{ex} {ex}", {"demos": {"slot": "{ex}"}}, r"stands there 2 times \(9 characters\)"),
        ("Go.", {"demos": {"format": "{inputs}"}}, r"demos\.format.*must hold \{inputs\} and"),
        ("Go.", {"demos": {"places": 3}}, r"metadata\.demos\.places"),
        ("Go.", {"demos": 3}, r"metadata\.demos: 3 must be false, or have some of: slot"),
        ("A", {"max_chars": "40"}, r"metadata\.max_chars: '40' must be an integer of at least 1"),
        ("A", {"demos": {"slots": "x"}}, r"demos\.slots: 'x' is not one of: slot, format"),
        ("A" * 30, {"max_chars": 40}, r"max_chars: 40 leaves 10 characters for examples beside"),
        ("Go.", {"no_quotes": True}, r"must let a prompt take examples: 'demos' changes nothing"),
        ("Go.", {"demos": False}, r"must let a prompt take examples: 'demos' changes nothing"),
    ],
)
async def test_a_prompt_that_can_take_no_example_is_refused_at_load(
    text: str, metadata: dict[str, Any], told: str
) -> None:
    target = Neighbour()
    with pytest.raises(BadInput, match=told):
        await trained(target, prompts={"triage": TextTensor(text, metadata=metadata)})
    assert target.calls == []


async def test_without_a_label_or_a_good_rollout_nothing_is_tried() -> None:
    cases = [{**c, "expected_output": None} for c in messages() if c["split"] == "train"]
    warned: list[str] = []

    def never(outputs: str) -> bool:
        return False

    def hear(event: dict[str, Any]) -> None:
        warned.extend([event["message"]] if event["type"] == "warning" else [])

    result = await trained(Neighbour(), dataset=cases, evaluators=[never], on_event=hear)
    assert warned[0].startswith("the dataset has no validation split: candidates are validated on")
    assert result.best == result.baseline
    assert result.decision.stopped == "demos has nothing more to try"


def test_a_demo_is_what_an_optimizer_of_ones_own_may_ask_for() -> None:
    demo = Demo(case_id="a", candidate="b", answer="output", like="a")
    assert (demo.case_id, demo.answer) == ("a", "output")
