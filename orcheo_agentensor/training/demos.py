"""Worked examples of training cases, put into prompts: what a node took in and a good answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orcheo_agentensor.datasets import Case
from orcheo_agentensor.evaluation.results import CaseResult
from orcheo_agentensor.media import label_media
from orcheo_agentensor.optimizers import ComponentRequest, Trial
from orcheo_agentensor.optimizers.guards import refusals
from orcheo_agentensor.optimizers.protocol import Demo
from orcheo_agentensor.optimizers.slots import DemoSlot, plain_value, slot_of
from orcheo_agentensor.optimizers.update import proposal_request
from orcheo_agentensor.prompts import Candidate
from orcheo_agentensor.tape import NodeRun, Tape
from orcheo_agentensor.training.active import Training
from orcheo_agentensor.training.feedback import is_excluded


@dataclass(kw_only=True)
class Demonstration:
    """Prompts with worked examples: their `texts`, the cases `shown` and those `unfit` by prompt,
    and the texts that the guards `refused`."""

    texts: dict[str, str] = field(default_factory=dict)
    shown: dict[str, list[str]] = field(default_factory=dict)
    unfit: dict[str, list[str]] = field(default_factory=dict)
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """Why no prompt has an example; empty where one has."""
        if self.texts:
            return ""
        told = [f"{name}: {reason}" for name, (_text, reason) in self.refused.items()]
        return "; ".join(told) or "none of the chosen cases can be shown as an example"


async def demonstrated(training: Training, parent: Candidate, trial: Trial) -> Demonstration:
    """The prompts of `parent` with the examples of a trial, as far as they pass the guards.

    An example that does not fit into the rest of the characters is left out, and so is one that
    would be refused by itself.
    """
    found, cases = Demonstration(), {case.id: case for case in training.plan.train}
    results = await _rollouts(training, cases, trial)
    tensors = dict(parent.prompts)
    for name, demos in sorted(trial.demos.items()):
        if name not in training.plan.taking:
            found.unfit[name] = [demo.case_id for demo in demos]
            continue
        request = proposal_request(tensors, [name], seed=trial.seed, initial=training.run.prompts)
        (component,) = request.components
        slot = slot_of(component.metadata) or DemoSlot()
        written: dict[str, str] = {}
        for demo in demos:
            text = written_example(
                name,
                cases[demo.case_id],
                results[demo.candidate, demo.like],
                demo=demo,
                slot=slot,
                template=component.template or "none",
                exclude=training.run.job.exclude_nodes,
            )
            if text is None:
                found.unfit.setdefault(name, []).append(demo.case_id)
            else:
                written[demo.case_id] = text
        chars = min(slot.max_chars, trial.demo_chars)
        await asyncio.to_thread(_put_in, found, component, slot, written, chars, training)
    return found


async def _rollouts(
    training: Training, cases: Mapping[str, Case], trial: Trial
) -> dict[tuple[str, str], CaseResult]:
    """The recorded rollouts that the examples are made from, by candidate and case."""
    wanted: dict[str, set[str]] = {}
    for demos in trial.demos.values():
        for demo in demos:
            wanted.setdefault(demo.candidate, set()).add(demo.like)
    found = {}
    for candidate, ids in sorted(wanted.items()):
        of = [case for case in cases.values() if case.id in ids]
        for result in await training.measure(of, training.candidates[candidate], phase="train"):
            found[candidate, result.case_id] = result
    return found


def _put_in(
    found: Demonstration,
    component: ComponentRequest,
    slot: DemoSlot,
    written: Mapping[str, str],
    chars: int,
    training: Training,
) -> None:
    """Put what is written into one prompt."""
    name, kept = component.name, dict(written)
    own = tuple(one for one in component.placeholders if one != slot.slot)
    component = replace(component, placeholders=own)

    def why_not(chosen: Sequence[str]) -> tuple[str, list[str]]:
        text = slot.filled(component.text, [written[case] for case in chosen])
        return text, refusals(component, text, cases=training.plan.texts)

    for last in (False, True):
        chosen = _fitting(component, slot, kept, chars)
        if not chosen:
            return
        text, reasons = why_not(chosen)
        if not reasons:
            found.texts[name], found.shown[name] = text, chosen
            return
        if last:
            found.refused[name] = (text, "; ".join(reasons))
            return
        refused = [case for case in kept if why_not([case])[1]]
        found.unfit.setdefault(name, []).extend(refused)
        kept = {case: text for case, text in kept.items() if case not in refused}


def _fitting(
    component: ComponentRequest, slot: DemoSlot, written: Mapping[str, str], chars: int
) -> list[str]:
    """The cases whose examples fit into the prompt, each where those before it have left room."""
    chosen: list[str] = []
    for case in written:
        examples = [written[one] for one in (*chosen, case)]
        length = sum(map(len, examples)) + len(slot.separator) * (len(examples) - 1)
        whole = len(slot.filled(component.text, examples))
        if length <= chars and whole <= component.max_chars:
            chosen.append(case)
    return chosen


def written_example(
    name: str,
    case: Case,
    result: CaseResult,
    *,
    demo: Demo,
    slot: DemoSlot,
    template: str,
    exclude: Sequence[str] = (),
) -> str | None:
    """A case as an example for a prompt; None where the rollout does not show how it would be one.

    The input is that of the first node run that read the prompt, and the case's own where nothing
    ran before it. The output is that of the last one; what the case expects stands for it only
    where the node made the output of the workflow, in the same form.
    """
    if result.target_failure is not None or result.tape is None:
        return None
    tape = Tape.from_json(result.tape)
    readers = [
        run
        for run in tape.runs.values()
        if name in run.prompts and not is_excluded((*run.path, run.node), exclude)
    ]
    if not readers or any(run.turn is not None for run in readers):
        return None  # a turn of a conversation stands for no case
    first, last = readers[0], readers[-1]
    inputs = case.inputs if _is_first(tape, first) else _value(first.inputs)
    if demo.like != demo.case_id and not _is_first(tape, first):
        return None
    output = _value(last.output)
    if demo.answer == "expected":
        output = _as_output(case.expected_output, output) if _is_last(tape, last) else None
    if inputs is None or output is None:
        return None
    text = slot.example(inputs, output, template=template)
    return None if text is None or label_media(text) != text else text


def _is_first(tape: Tape, run: NodeRun) -> bool:
    """Whether nothing ran before a node run, nor before the runs around it."""
    around: NodeRun | None = run
    while around is not None:
        if tape.parents(around):
            return False
        around = tape.enclosing(around)
    return True


def _is_last(tape: Tape, run: NodeRun) -> bool:
    """Whether nothing follows a node run, nor the runs around it."""
    followed = {one.id for other in tape.runs.values() for one in tape.parents(other)}
    around: NodeRun | None = run
    while around is not None:
        if around.id in followed:
            return False
        around = tape.enclosing(around)
    return True


def _value(text: str) -> Any:
    """What a node took in or gave out, from its text on the tape; None where that was cut."""
    try:
        return json.loads(text)
    except ValueError:
        return None if text.endswith("…") or not text else text


def _as_output(expected: Any, output: Any) -> Any:
    """What is expected in the form of an output; None where it has another form."""
    if isinstance(expected, Mapping) and isinstance(output, Mapping):
        expected = {key: expected[key] for key in output if key in expected}
    wanted, given = plain_value(expected), plain_value(output)
    if type(wanted) is not type(given):
        return None
    if isinstance(wanted, Mapping):
        return wanted if wanted and wanted.keys() == given.keys() else None
    if isinstance(output, Mapping) and not isinstance(expected, Mapping):
        return wanted if len(output) == 1 or "messages" in output else None
    return expected
