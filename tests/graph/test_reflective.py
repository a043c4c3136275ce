"""The `reflective` search through `atrain`, on the rule task."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from rule_task import NAMES, PROMPTS, Target, Teacher, dataset, done, improved, trained

from orcheo_agentensor import (
    Budget,
    Limits,
    MaxSteps,
    Reflective,
    Store,
    TextTensor,
    aevaluate,
    get_prompt,
)
from orcheo_agentensor.errors import RunFailed
from orcheo_agentensor.optimizers import ProposalRequest


class Seen(Teacher):
    """A proposer whose edits of one prompt follow a script."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self._script = list(texts)

    def texts(self, request: ProposalRequest) -> dict[str, str]:
        if not self._script:
            return super().texts(request)
        return {request.components[0].name: self._script.pop(0)}


async def test_it_is_the_default_and_is_found_by_its_name() -> None:
    target, teacher = Target(), Teacher()
    result = await trained(target, optimizer={"name": "reflective", "proposer": teacher})
    assert result.best.metrics["objective"] == 1.0
    assert target.repeated() == 0
    default = await trained(Target(), optimizer={"proposer": Teacher()})
    assert default.best.prompts == result.best.prompts


async def test_all_blamed_prompts_are_rewritten_together() -> None:
    teacher = Teacher()
    result = await trained(proposer=teacher, options={"minibatch": 12})
    assert [{c.name for c in r.components} for r in teacher.requests] == [set(NAMES)]
    assert result.best.metrics["objective"] == 1.0


async def test_no_rollout_is_made_twice_in_a_search() -> None:
    target = Target(breaks={0: {1}, 3: {2}})
    result = await trained(target, options={"parallel": 3})
    assert target.repeated() == 0
    assert len(target.calls) == result.usage.rollouts


# What nothing reads


async def test_a_prompt_that_nothing_reads_is_never_rewritten_and_the_run_ends() -> None:
    teacher, target = Teacher(), Target(names=())
    target.judge = lambda texts, rule: {"score": 0.0, "feedback": "needs R0 in planner"}  # type: ignore[method-assign]
    result = await trained(target, teacher, prompts={"planner": "Plan."}, promote="auto")
    assert teacher.requests == []
    assert result.best == result.baseline
    assert result.decision.status == "kept"
    assert len(result.checkpoints) == 1
    cases = {case for _, case in target.calls}
    assert len(target.calls) == len(cases)  # no case was run twice to find that out


async def test_an_unread_prompt_beside_a_read_one_gets_no_feedback() -> None:
    teacher = Teacher()
    prompts = {**PROMPTS, "unread": "Nobody reads me."}
    result = await trained(Target(), teacher, prompts=prompts)
    assert {c.name for r in teacher.requests for c in r.components} == set(NAMES)
    assert teacher.requests[0].components[0].siblings["unread"] == "Nobody reads me."
    assert result.best.prompts["unread"].text == "Nobody reads me."
    assert result.best.metrics["objective"] == 1.0


# Where rollouts are spent


class Scripted:
    """A target that scores the text of one prompt by split and case: 1 where it names it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    async def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        text = get_prompt("planner")
        name = f"{inputs['split']}-{inputs['i']}"
        self.calls.append((text, name))
        right = name in text.split() or inputs["split"] in text.split()
        return {"score": float(right), "feedback": "wrong"}

    def cases(self, text: str, split: str) -> list[str]:
        return [name for found, name in self.calls if found == text and name.startswith(split)]


async def test_a_candidate_that_cannot_win_is_not_validated_to_its_end() -> None:
    target = Scripted()
    best = " ".join(["train-0 train-1", *(f"validation-{i}" for i in range(30))])
    result = await trained(
        target,
        Seen(best, "train"),
        dataset=dataset(train=6, validation=40, holdout=4),
        prompts={"planner": "Plan."},
        options={"minibatch": 6, "chain": 1, "opening": False},
        stop=[MaxSteps(4)],
    )
    assert target.cases("train", "train")  # it was better on its minibatch
    assert len(target.cases(best, "validation")) == 40
    tried = target.cases("train", "validation")
    assert len(tried) == 16  # ten to gain on come first, and six are lost after them
    assert {f"validation-{i}" for i in range(30, 40)} <= set(tried)
    assert result.best.prompts["planner"].text == best


async def test_the_baseline_is_validated_to_its_end_before_the_first_version() -> None:
    target, events = Scripted(), list[dict[str, Any]]()
    validated: list[int] = []

    def hear(event: dict[str, Any]) -> None:
        events.append(event)
        if event["type"] == "checkpoint_saved":
            validated.append(len(target.cases("Plan.", "validation")))

    result = await trained(
        target,
        Seen("train validation"),
        dataset=dataset(train=6, validation=20, holdout=4),
        prompts={"planner": "Plan."},
        on_event=hear,
    )
    assert validated[0] == 20
    saved = [(e["version"], e["reason"]) for e in events if e["type"] == "checkpoint_saved"]
    assert saved == [(1, "baseline"), (2, "new best")]
    assert result.best.config_version == 2
    assert result.best.parent_version == 1


async def test_every_version_evaluates_again_to_its_metrics() -> None:
    async with Store.from_url(None) as store:
        result = await trained(
            Target(breaks={1: {0}}), store=store, workflow_id="w", options={"chain": 1}
        )
        assert len(result.checkpoints) > 1
        for version in result.checkpoints:
            report = await aevaluate(
                Target(breaks={1: {0}}),
                dataset={"cases": dataset(), "split": "validation"},
                evaluators=[done],
                config={"configurable": {"agentensor": {"use": version.config_version}}},
                workflow_id="w",
                store=store,
            )
            both = (report.summary, version.metrics)
            one, other = ({k: v for k, v in m.items() if k != "latency_ms"} for m in both)
            assert one == other


async def test_later_minibatches_take_failing_and_unseen_cases_first() -> None:
    asked: list[set[str]] = []

    class Slow(Teacher):
        """Mends one rule at a time."""

        def texts(self, request: ProposalRequest) -> dict[str, str]:
            asked.append({r.case_id for c in request.components for r in c.feedback})
            for component in request.components:
                for record in component.feedback:
                    text = improved(component.text, component.name, [record.feedback])
                    if text != component.text:
                        return {component.name: text}
            return {}

    target = Target()
    result = await trained(target, Slow(), options={"minibatch": 4})
    assert result.best.metrics["objective"] == 1.0
    rewritten = [texts for texts, case in target.calls if case.startswith("train")]
    learnt = list(dict.fromkeys(rewritten))
    for texts in learnt[1:]:
        first = next(case for case in target.cases(*texts) if case.startswith("train"))
        before = [texts_ for texts_ in learnt if texts_ != texts]
        assert any(first in target.cases(*other) for other in before)


# What the proposer sees


async def test_the_proposer_sees_past_edits_with_their_scores() -> None:
    teacher = Seen("Plan. nothing", "Plan. R0")
    await trained(
        proposer=teacher,
        dataset=dataset(rules=1),
        prompts={"planner": "Plan.", "writer": TextTensor("Write.", requires_grad=False)},
        options={"minibatch": 3, "opening": False},
        stop=[MaxSteps(3)],
    )
    assert teacher.requests[0].components[0].history == ()
    (edit,) = teacher.requests[1].components[0].history
    assert (edit.text, edit.accepted, edit.before, edit.after) == ("Plan. nothing", False, 0, 0)
    assert "scores 0.0000" in edit.reason


async def test_an_accepted_edit_is_shown_as_one() -> None:
    teacher = Seen("Plan. R0")
    await trained(
        proposer=teacher,
        dataset=dataset(rules=4),
        options={"minibatch": 4, "momentum": 3, "opening": False},
        prompts={"planner": "Plan.", "writer": TextTensor("Write. R1 R3", requires_grad=False)},
    )
    edits = [e for r in teacher.requests for c in r.components for e in c.history]
    accepted = next(edit for edit in edits if edit.accepted)
    assert accepted.text == "Plan. R0"
    assert accepted.before is not None
    assert accepted.after is not None
    assert accepted.after > accepted.before


async def test_without_momentum_no_past_edits_are_shown() -> None:
    teacher = Seen("Plan. nothing", "Plan. R0")
    await trained(proposer=teacher, options={"momentum": 0, "minibatch": 3})
    assert {c.history for r in teacher.requests for c in r.components} == {()}


async def test_constraints_reach_the_proposer_and_are_kept() -> None:
    limits = {"max_chars": 20, "must_keep": ["Plan."], "never": ["secret"], "tone": "dry"}
    teacher = Seen("Too long a plan. " * 9, "R0 R2", "Plan. SECRET R0", "Plan. R0 R2")
    events: list[dict[str, Any]] = []
    result = await trained(
        Target(names=["planner"]),
        teacher,
        dataset=dataset(rules=1),
        prompts={"planner": TextTensor("Plan.", metadata=limits)},
        on_event=events.append,
    )
    component = teacher.requests[0].components[0]
    assert component.max_chars == 20
    assert dict(component.metadata) == limits
    refused = [e["reason"] for e in events if e["type"] == "proposal_rejected"]
    assert [reason.replace("planner: ", "") for reason in refused] == [
        "153 characters, over the cap of 20; must keep 'Plan.'",
        "must keep 'Plan.'",
        "must never say 'secret'",
    ]
    assert result.best.prompts["planner"].text == "Plan. R0 R2"
    assert result.best.prompts["planner"].metadata == limits


# Edits that break other cases


async def test_a_rule_that_breaks_another_until_its_fix_is_there_is_found() -> None:
    breaks: Mapping[int, set[int]] = {0: {1}, 1: {2}, 2: {3}, 3: {0}}
    teacher, target = Teacher(), Target(breaks=breaks)
    result = await trained(target, teacher)
    assert result.best.metrics["objective"] == 1.0
    refined = [r for r in teacher.requests if r.purpose == "refine"]
    for request in refined:
        for component in request.components:
            tried = component.history[-1]
            assert (tried.text, tried.accepted) == (component.text, False)


async def test_a_rejected_child_is_refined_once_on_its_own_failures() -> None:
    cases = dataset(rules=2, train=8)
    teacher = Teacher()
    result = await trained(
        Target(breaks={1: {0}}),
        teacher,
        dataset=cases,
        prompts={"planner": "Plan. R0", "writer": "Write."},
        options={"minibatch": 8, "opening": False},
    )
    assert [request.purpose for request in teacher.requests] == ["rewrite", "refine"]
    first, second = (next(c for c in r.components if c.name == "writer") for r in teacher.requests)
    assert first.text == "Write."
    assert second.text == "Write. R1"
    broken = [record for record in second.feedback if record.score == 0]
    assert broken
    assert {record.inputs["rule"] for record in broken} == {0}
    assert result.best.prompts["writer"].text == "Write. R1 F1"
    assert result.best.metrics["objective"] == 1.0


# Merging


async def test_candidates_that_changed_different_prompts_are_put_together() -> None:
    """A good planner alone breaks most validation cases, and is dropped; with the good writer that
    is found after it, it breaks none."""

    async def target(inputs: dict[str, Any]) -> dict[str, Any]:
        planner, writer = ("good" in get_prompt(name).split() for name in NAMES)
        gains = [planner, writer, *[writer or not planner] * 6][inputs["i"]]
        if inputs["split"] == "train":
            return {"score": 0.5 * planner + 0.4 * writer, "feedback": "not good"}
        return {"score": float(gains), "feedback": "-"}

    class OneAtATime(Teacher):
        def texts(self, request: ProposalRequest) -> dict[str, str]:
            return {NAMES[len(self.requests) > 1]: "good"}

    teacher, events = OneAtATime(), list[dict[str, Any]]()
    result = await trained(
        target,
        teacher,
        dataset=dataset(train=6),
        options={"chain": 1, "minibatch": 6, "opening": False},
        on_event=events.append,
    )
    assert {name: t.text for name, t in result.best.prompts.items()} == dict.fromkeys(NAMES, "good")
    assert result.best.metrics["objective"] == 1.0
    assert len(teacher.requests) == 2
    accepted = [e["components"] for e in events if e["type"] == "candidate_accepted"]
    assert accepted[-1] == ["planner"]  # brought to the best by the merge


# Trouble


async def test_crashing_does_not_pay() -> None:
    class Lure(Teacher):
        def texts(self, request: ProposalRequest) -> dict[str, str]:
            return {"planner": f"Plan. R0 R2 CRASH1 {request.seed}"}

    result = await trained(
        Target(), Lure(), prompts={"planner": "Plan.", "writer": "Write."}, stop=[MaxSteps(12)]
    )
    assert result.best == result.baseline
    assert result.summary["n_target_failed"] == 0


async def test_a_child_that_crashes_less_than_its_parent_is_better() -> None:
    class Mender(Teacher):
        def texts(self, request: ProposalRequest) -> dict[str, str]:
            found = super().texts(request)
            failures = [r.feedback for c in request.components for r in c.feedback]
            assert any("The workflow failed" in text for text in failures) or not found
            return found

    result = await trained(
        Target(), Mender(), prompts={"planner": "Plan. R0 R2 CRASH0", "writer": "Write. R1 R3"}
    )
    assert result.best.prompts["planner"].text == "Plan. R0 R2"
    assert result.baseline.metrics["n_target_failed"] > 0
    assert result.best.metrics["objective"] == 1.0


@pytest.mark.parametrize("seed", range(4))
async def test_a_proposer_of_rubbish_half_the_time_slows_the_search_and_no_more(seed: int) -> None:
    class HalfRubbish(Teacher):
        def texts(self, request: ProposalRequest) -> Any:
            kinds: list[Any] = [
                "not a mapping",
                {c.name: "" for c in request.components},
                {c.name: None for c in request.components},
                {c.name: "Sure! Here is your prompt:" for c in request.components},
                {"other": "x"},
                {},
            ]
            if request.seed % 2:
                return kinds[request.seed // 2 % len(kinds)]
            return super().texts(request)

    result = await trained(proposer=HalfRubbish(), seed=seed)
    assert result.best.metrics["objective"] == 1.0


async def test_nothing_but_rubbish_ends_the_run_at_the_baseline() -> None:
    class Rubbish(Teacher):
        def texts(self, request: ProposalRequest) -> dict[str, str]:
            return {c.name: "" for c in request.components}

    result = await trained(proposer=Rubbish())
    assert result.best == result.baseline
    assert "no new candidate" in (result.decision.stopped or "")


async def test_a_proposer_that_breaks_fails_the_run_which_can_be_resumed() -> None:
    class Broken(Teacher):
        broken = True

        async def propose(self, request: ProposalRequest) -> dict[str, str]:
            if self.broken:
                raise ConnectionError("no route")
            return await super().propose(request)

    proposer, target = Broken(), Target()
    async with Store.from_url(None) as store:
        with pytest.raises(RunFailed, match="proposer failed: ConnectionError: no route; mend it"):
            await trained(target, proposer, run_id="r", store=store)
        proposer.broken = False
        result = await trained(target, proposer, run_id="r", store=store)
    assert result.best.metrics["objective"] == 1.0
    assert target.repeated() == 0


async def test_a_proposer_that_hangs_is_cut_off_and_the_run_can_be_resumed() -> None:
    class Hanging(Teacher):
        hanging = True

        async def propose(self, request: ProposalRequest) -> dict[str, str]:
            if self.hanging:
                await asyncio.Event().wait()
            return await super().propose(request)

    proposer, target = Hanging(), Target()
    job: dict[str, Any] = {"run_id": "r", "limits": Limits(case_timeout=2)}
    async with Store.from_url(None) as store:
        with pytest.raises(RunFailed, match=r"proposer gave no answer within 2 s; resume"):
            await trained(target, proposer, store=store, **job)
        proposer.hanging = False
        result = await trained(target, proposer, store=store, **job)
    assert result.best.metrics["objective"] == 1.0
    assert target.repeated() == 0


@pytest.mark.parametrize("options", [{"speed": 1}, {"minibatch": 0}, {"parallel": 0}])
def test_bad_options_are_refused_by_name(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Reflective(**options)  # type: ignore[arg-type]


# The opening


async def test_it_opens_with_a_pass_over_train_and_validates_only_its_end() -> None:
    target, teacher, events = Target(), Teacher(), list[dict[str, Any]]()
    result = await trained(target, teacher, options={"minibatch": 4}, on_event=events.append)
    assert result.best.metrics["objective"] == 1.0
    assert target.repeated() == 0
    tried = [request for request in teacher.requests if request.purpose == "rewrite"]
    last = {record.case_id: record.earlier for c in tried[-1].components for record in c.feedback}
    assert set(last.values()) == {True, False}  # what earlier texts did is shown, and said
    accepted = [e for e in events if e["type"] == "candidate_accepted"]
    assert [e["validation"] for e in accepted[:-1]] == [None] * (len(accepted) - 1)
    assert accepted[-1]["validation"] == 1.0


class Forgetful(Teacher):
    """Drops every second rule that was learnt, at each rewrite."""

    def texts(self, request: ProposalRequest) -> dict[str, str]:
        kept = tuple(
            replace(c, text=" ".join([*words[:1], *words[1::2]]))
            for c in request.components
            if (words := c.text.split())
        )
        return super().texts(replace(request, components=kept))


async def test_a_proposer_that_forgets_what_was_learnt_is_reminded_of_it() -> None:
    result = await trained(proposer=Forgetful(), options={"minibatch": 4})
    assert result.best.metrics["objective"] == 1.0
    assert result.usage.rollouts < 100


async def test_a_pass_leaves_enough_of_the_budget_for_its_validation() -> None:
    """20 rollouts beside holdout and baseline: 12 for the pass, and 8 for its end."""
    target = Target()
    result = await trained(
        target, dataset=dataset(train=40), budget=Budget(rollouts=2 * 8 + 8 + 20), promote="never"
    )
    assert result.best.metrics["objective"] == 1.0
    assert len([case for _texts, case in target.calls if case.startswith("train")]) <= 12


async def test_a_budget_that_pays_for_no_pass_is_searched_without_one() -> None:
    teacher, events = Teacher(), list[dict[str, Any]]()
    budget = Budget(rollouts=2 * 8 + 8 + 12)
    await trained(proposer=teacher, budget=budget, on_event=events.append)
    assert teacher.requests
    untested = [e for e in events if e["type"] == "candidate_accepted" and not e["child_score"]]
    assert not untested


class Narrow(Teacher):
    """Writes a prompt anew for the cases at hand, and forgets what it held for all others."""

    def texts(self, request: ProposalRequest) -> dict[str, str]:
        fresh = any(not record.earlier for c in request.components for record in c.feedback)
        bare = [
            replace(
                c,
                text=c.text.split()[0],
                feedback=tuple(one for one in c.feedback if not (fresh and one.earlier)),
            )
            for c in request.components
        ]
        return super().texts(replace(request, components=tuple(bare)))


async def test_what_rewrites_lost_is_brought_back_by_one_from_where_the_pass_began() -> None:
    teacher = Narrow()
    result = await trained(proposer=teacher, dataset=dataset(rules=8, train=24))
    assert result.best.metrics["objective"] == 1.0
    last = teacher.requests[-1].components
    assert {c.text for c in last} == set(PROMPTS.values())
    assert all(record.earlier for c in last for record in c.feedback)
    assert result.usage.rollouts <= 100


async def test_edits_are_made_and_one_that_does_not_apply_is_shown_with_its_reason() -> None:
    class Editor(Teacher):
        def texts(self, request: ProposalRequest) -> Any:
            new = super().texts(request)
            if len(self.requests) == 1:
                return {name: {"edits": [{"op": "delete", "line": "not there"}]} for name in new}
            return {
                name: {
                    "why": "a rule is missing",
                    "edits": [{"op": "replace", "line": "1", "text": t}],
                }
                for name, t in new.items()
            }

    teacher = Editor()
    result = await trained(proposer=teacher, options={"minibatch": 4})
    assert result.best.metrics["objective"] == 1.0
    second = teacher.requests[1].components[0]
    assert second.history[0].reason == "edit 1 names no line of the prompt: 'not there'"
    told = {edit.why for r in teacher.requests[2:] for c in r.components for edit in c.history}
    assert "a rule is missing" in told
