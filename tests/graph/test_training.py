"""The training subgraph through its public doors, on a task of rules to be found.

Case `i` needs rule `R{i % 4}`; rules 0 and 2 belong to the prompt `plan`, 1 and 3 to `write`. A
case scores when its prompt names its rule, and the feedback says which rule was missing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import START, StateGraph
from langgraph.runtime import RunControl

from orcheo_agentensor import (
    BadInput,
    Budget,
    Deadline,
    Limits,
    MaxEpochs,
    MaxSteps,
    Patience,
    RandomSearch,
    RunConfig,
    Store,
    TargetScore,
    TextGrad,
    TextTensor,
    TrainingResult,
    aevaluate,
    atrain,
    create_training_graph,
    get_prompt,
    train,
    training_node,
)
from orcheo_agentensor.errors import BudgetExhausted, BudgetTooSmall, RunFailed
from orcheo_agentensor.optimizers import ProposalRequest
from orcheo_agentensor.runs import drive
from orcheo_agentensor.storage import RunRecord

OWNER = ("plan", "write")
SPLITS = ("train", "validation", "holdout")
CASES = [
    {
        "id": f"{split}-{i}",
        "split": split,
        "inputs": {"rule": f"R{i % 4}", "owner": OWNER[i % 2], "split": split},
        "expected_output": {"done": True},
    }
    for split in SPLITS
    for i in range(12)
]
PROMPTS: dict[str, Any] = {
    "plan": "Plan.",
    "write": "Write.",
    "policy": TextTensor("Frozen:\tkeep  this. \n", requires_grad=False),
    "unread": "Nobody reads me.",
}


class State(TypedDict, total=False):
    rule: str
    owner: str
    plan: str
    done: bool


async def no_hook() -> None:
    """Nothing happens."""


def workflow(hook: Any = no_hook) -> Any:
    async def planner(state: State) -> dict[str, Any]:
        await hook()
        return {"plan": get_prompt("plan") + get_prompt("policy")}

    async def writer(state: State) -> dict[str, Any]:
        texts = {"plan": state["plan"], "write": get_prompt("write")}
        return {"done": state["rule"] in texts[state["owner"]].split()}

    graph = StateGraph(State)
    graph.add_node("planner", planner)
    graph.add_node("writer", writer)
    graph.add_edge(START, "planner")
    graph.add_edge("planner", "writer")
    return graph


def done(inputs: dict[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
    comment = f"needs {inputs['rule']} in {inputs['owner']}"
    return {"key": "done", "score": float(outputs["done"]), "comment": comment}


class Teacher:
    """A perfect proposer: appends the rules that the feedback names."""

    def __init__(self) -> None:
        self.requests: list[ProposalRequest] = []

    async def propose(self, request: ProposalRequest) -> dict[str, str]:
        self.requests.append(request)
        texts = {}
        for component in request.components:
            wanted = {
                record.inputs["rule"]
                for record in component.feedback
                if record.score == 0 and f"in {component.name}" in record.feedback
            }
            if wanted:
                texts[component.name] = " ".join([component.text, *sorted(wanted)])
        return texts


class Spoiler:
    """Proposes texts that are never any better."""

    async def propose(self, request: ProposalRequest) -> dict[str, str]:
        return {c.name: f"{c.text} noise {request.seed}" for c in request.components}


async def trained(proposer: Any = None, hook: Any = no_hook, **changes: Any) -> TrainingResult:
    job: dict[str, Any] = {
        "prompts": PROMPTS,
        "dataset": CASES,
        "evaluators": [done],
        "optimizer": TextGrad(minibatch=4, proposer=proposer or Teacher()),
        "stop": [TargetScore(1.0)],
    }
    return await atrain(workflow(hook), **{**job, **changes})


@pytest.mark.requirement("training.improves")
async def test_training_finds_the_rules_and_proves_it_on_holdout() -> None:
    teacher = Teacher()
    result = await trained(teacher, promote="auto")
    assert result.status == "finished"
    assert result.baseline.metrics["objective"] == 0.0
    assert result.best.metrics["objective"] == 1.0
    assert result.holdout is not None
    assert result.holdout["gain"] == 1.0
    assert result.decision.status == "promoted"
    assert result.decision.target_gain["met"]
    assert set(result.best.prompts["plan"].text.split()) >= {"R0", "R2"}
    asked = {c.name for request in teacher.requests for c in request.components}
    assert asked == {"plan", "write"}  # neither the frozen prompt nor the one nobody reads
    first = teacher.requests[0].components[0]
    assert set(first.siblings) == set(PROMPTS) - {first.name}


@pytest.mark.requirement("training.frozen")
async def test_a_frozen_prompt_stays_the_same_to_the_byte() -> None:
    result = await trained()
    for version in result.checkpoints:
        assert version.prompts["policy"].text == PROMPTS["policy"].text
        assert version.prompts["policy"].requires_grad is False
        assert version.prompts["unread"].text == PROMPTS["unread"]


def test_the_sync_twin_trains_as_well() -> None:
    result = train(
        workflow(),
        prompts=PROMPTS,
        dataset=CASES,
        evaluators=[done],
        optimizer=TextGrad(minibatch=4, proposer=Teacher()),
        stop=[TargetScore(1.0)],
    )
    assert result.best.metrics["objective"] == 1.0


@pytest.mark.requirement("training.deterministic", "durability.stores")
async def test_the_same_job_gives_the_same_versions_on_every_store(store_url: str) -> None:
    async with Store.from_url(store_url) as store:
        there = await trained(store=store, workflow_id="w", seed=5)
    memory = await trained(workflow_id="w", seed=5)
    assert versions_of(there) == versions_of(memory)
    assert there.holdout is not None
    assert memory.holdout is not None
    assert there.holdout["gain"] == memory.holdout["gain"]
    other = await trained(workflow_id="w", seed=6)
    assert [v.prompts for v in other.checkpoints] != [v.prompts for v in there.checkpoints]


def versions_of(result: TrainingResult) -> list[Any]:
    return [
        (
            version.config_version,
            version.runnable_config,
            version.parent_version,
            {k: v for k, v in version.metrics.items() if k != "latency_ms"},
        )
        for version in result.checkpoints
    ]


@pytest.mark.requirement("checkpoint.exact")
async def test_evaluating_a_stored_version_gives_its_stored_metrics(store_url: str) -> None:
    async with Store.from_url(store_url) as store:
        result = await trained(store=store, workflow_id="w")
        for version in result.checkpoints:
            report = await aevaluate(
                workflow(),
                dataset={"cases": CASES, "split": "validation"},
                evaluators=[done],
                config={"configurable": {"agentensor": {"use": version.config_version}}},
                workflow_id="w",
                store=store,
            )
            skipped = {"latency_ms", "warnings"}  # which are of a job, and no metrics
            assert {k: v for k, v in report.summary.items() if k not in skipped} == {
                k: v for k, v in version.metrics.items() if k not in skipped
            }
        assert await store.aliases.resolve("w", "best") == result.best.config_version
        assert await store.aliases.resolve("w", "latest") == len(result.checkpoints)
        assert await store.aliases.resolve("w", "production") is None


async def test_a_worse_or_equal_rewrite_is_never_kept() -> None:
    result = await trained(Spoiler(), stop=[MaxSteps(5)])
    assert result.best == result.baseline
    assert len(result.checkpoints) == 1
    assert result.decision.status == "kept"
    assert "no candidate was better" in result.decision.reasons[0]


async def test_a_proposer_of_rubbish_is_refused_and_the_search_ends() -> None:
    class Rubbish:
        async def propose(self, request: ProposalRequest) -> Any:
            kinds = [{}, {"plan": ""}, {"plan": 3}, {"other": "x"}, "text", {"plan": "<think>…"}]
            return kinds[request.seed % len(kinds)]

    events: list[dict[str, Any]] = []
    result = await trained(Rubbish(), stop=[], on_event=events.append)
    assert result.best == result.baseline
    assert result.decision.stopped == "no new candidate in 13 steps"
    assert {e["status"] for e in events if e["type"] == "proposal_rejected"} == {"refused"}


async def test_a_proposer_that_breaks_fails_the_run_which_can_be_resumed(tmp_path: Any) -> None:
    class Broken(Teacher):
        broken = True

        async def propose(self, request: ProposalRequest) -> dict[str, str]:
            if self.broken:
                raise ConnectionError("no route")
            return await super().propose(request)

    proposer = Broken()
    options: dict[str, Any] = {"run_id": "r", "store": f"sqlite:///{tmp_path}/a.db"}
    with pytest.raises(RunFailed, match="the proposer failed: ConnectionError: no route"):
        await trained(proposer, **options)
    proposer.broken = False
    assert (await trained(proposer, **options)).best.metrics["objective"] == 1.0


@pytest.mark.requirement("guardrail.regression")
async def test_memorising_is_rejected_by_the_guardrail() -> None:
    async def target(inputs: dict[str, Any]) -> dict[str, Any]:
        known = inputs["rule"] in get_prompt("plan")
        return {"done": known if inputs["split"] != "holdout" else "R" not in get_prompt("plan")}

    cases = [
        {**case, "inputs": {**case["inputs"], "owner": "plan", "split": case["split"]}}  # type: ignore[dict-item]
        for case in CASES
    ]
    result = await atrain(
        target,
        prompts={"plan": "Plan."},
        dataset=cases,
        evaluators=[done],
        optimizer=TextGrad(minibatch=4, proposer=Teacher()),
        stop=[TargetScore(1.0)],
        promote="auto",
    )
    assert result.best.metrics["objective"] == 1.0
    assert result.decision.status == "rejected"
    assert "-2 % guardrail" in result.decision.reasons[0]


@pytest.mark.requirement("guardrail.unproved")
async def test_without_a_holdout_nothing_is_promoted_by_itself() -> None:
    cases = [case for case in CASES if case["split"] != "holdout"]
    result = await trained(dataset=cases, promote="auto")
    assert result.holdout is None
    assert result.decision.status == "kept"
    assert "unproved" in result.decision.reasons[0]


async def test_a_dataset_without_splits_is_trained_and_validated_on_itself() -> None:
    cases = [{k: v for k, v in case.items() if k != "split"} for case in CASES[:12]]
    result = await trained(dataset=cases)
    assert result.best.metrics["cases"] == 12
    assert result.best.metrics["objective"] == 1.0


@pytest.mark.parametrize("answer", [{"approve": True, "actor": "ann", "reason": "ok"}, False])
async def test_a_person_is_asked_and_decides(answer: Any, tmp_path: Any) -> None:
    options: dict[str, Any] = {
        "promote": "ask",
        "run_id": "r",
        "workflow_id": "w",
        "store": f"sqlite:///{tmp_path}/a.db",
    }
    waiting = await trained(**options)
    assert waiting.status == "awaiting_approval"
    result = await trained(**options, answer=answer)
    approved = isinstance(answer, dict)
    assert result.decision.status == ("promoted" if approved else "kept")
    async with Store.from_url(options["store"]) as store:
        production = await store.aliases.resolve("w", "production")
        assert production == (result.best.config_version if approved else None)
        if approved:
            (move,) = await store.aliases.log("w", "production")
            assert (move.actor, move.reason) == ("ann", "ok")


@pytest.mark.parametrize("extra", [1, 5, 17])
@pytest.mark.requirement("training.budget")
async def test_a_budget_is_never_overshot_and_the_holdout_is_inside_it(extra: int) -> None:
    fixed = 12 + 2 * 12
    result = await trained(budget=Budget(rollouts=fixed + extra), promote="auto")
    assert result.usage.rollouts <= fixed + extra
    assert result.holdout is not None
    assert result.holdout["n"] == 12
    assert "budget" in (result.decision.stopped or "")


@pytest.mark.parametrize("rollouts", [0, 1, 36])
async def test_a_budget_too_small_is_said_at_the_start_with_what_it_takes(rollouts: int) -> None:
    with pytest.raises(BudgetTooSmall, match="must be at least 37"):
        await trained(budget=Budget(rollouts=rollouts))


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        (MaxSteps(2), "2 steps done"),
        (MaxSteps(0), "0 steps done"),
        (MaxEpochs(2), "2 epochs done"),
        (Patience(3), "no new best in 3 steps"),
        (Deadline(1e-9), "1e-09 s have passed"),
        ({"type": "max_steps", "steps": 1}, "1 steps done"),
    ],
)
@pytest.mark.requirement("training.stop")
async def test_stop_conditions_end_the_search(stop: Any, said: str) -> None:
    result = await trained(Spoiler(), stop=[stop])
    assert result.decision.stopped == said


async def test_crashing_does_not_pay() -> None:
    async def target(inputs: dict[str, Any]) -> dict[str, Any]:
        # The lure makes half of the cases crash and the others right.
        if "lure" in get_prompt("plan"):
            if inputs["rule"] in ("R0", "R1"):
                raise ValueError("crash")
            return {"done": True}
        return {"done": inputs["rule"] in ("R0", "R1")}

    class Lure:
        async def propose(self, request: ProposalRequest) -> dict[str, str]:
            return {"plan": f"lure {request.seed}"}

    result = await atrain(
        target,
        prompts={"plan": "Plan."},
        dataset=CASES,
        evaluators=[done],
        optimizer=TextGrad(minibatch=4, proposer=Lure()),
        stop=[MaxSteps(4)],
        promote="auto",
    )
    assert result.best == result.baseline


async def test_random_search_tries_independent_paraphrases_of_the_baseline() -> None:
    parents: set[str] = set()

    class Guess:
        async def propose(self, request: ProposalRequest) -> dict[str, str]:
            assert request.purpose == "paraphrase"
            parents.update(c.text for c in request.components)
            rules = [f"R{k}" for k in range(4) if request.seed >> k & 1]
            return {c.name: " ".join([c.text, *rules]) for c in request.components}

    result = await trained(
        optimizer=RandomSearch(minibatch=4, parallel=3, proposer=Guess()), stop=[MaxSteps(4)]
    )
    assert parents == {"Plan.", "Write."}
    assert result.best.metrics["objective"] > 0


@pytest.mark.requirement("durability.resume")
async def test_a_run_killed_at_any_step_ends_as_an_uninterrupted_one(tmp_path: Any) -> None:
    whole = await trained(workflow_id="w", run_id="r", store=f"sqlite:///{tmp_path}/whole.db")
    for kill_at in range(1, whole.usage.rollouts, 13):
        calls = 0
        stuck = asyncio.Event()

        async def hook(kill_at: int = kill_at, stuck: asyncio.Event = stuck) -> None:
            nonlocal calls
            calls += 1
            if calls == kill_at:
                stuck.set()
                await asyncio.Event().wait()

        options: dict[str, Any] = {
            "workflow_id": "w",
            "run_id": "r",
            "store": f"sqlite:///{tmp_path}/{kill_at}.db",
            "hook": hook,
        }
        task = asyncio.ensure_future(trained(**options))
        await stuck.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        resumed = await trained(**options)
        assert versions_of(resumed) == versions_of(whole)
        assert resumed.usage.rollouts == whole.usage.rollouts
        # Only what was in flight: what ran, and what waited for its commit.
        assert calls <= whole.usage.rollouts + 2 * Limits().concurrency


@pytest.mark.requirement("checkpoint.stored", "audit.secrets")
async def test_versions_hold_what_the_job_set_and_no_secret(tmp_path: Any) -> None:
    result = await trained(
        config={
            "tags": ["nightly"],
            "configurable": {"tone": "dry", "api_key": "sk-abcdefghij1234567890"},
        }
    )
    config = result.best.runnable_config
    assert config["tags"] == ["nightly"]
    assert set(config["configurable"]) == {"tone", "prompts"}
    RunConfig.parse(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": {}}, "prompts"),
        ({"prompts": {"policy": PROMPTS["policy"]}}, "frozen"),
        ({"optimizer": "gradient_descent"}, "textgrad"),
        ({"optimizer": {"name": "textgrad", "minibatch": 0}}, "minibatch"),
        ({"optimizer": {"name": "textgrad", "speed": 1}}, "speed"),
        ({"optimizer": None}, "has no proposer"),
        ({"dataset": [{**CASES[0], "split": "holdout"}]}, "train"),
        ({"seed": -1}, "seed"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"stop": [{"type": "boredom"}]}, "boredom"),
        ({"promote": "always"}, "promote"),
        ({"limits": Limits(), "budget": {"rolouts": 3}}, "rolouts"),
    ],
)
async def test_bad_jobs_are_refused_before_anything_runs(
    change: dict[str, Any], message: str
) -> None:
    async with Store.from_url(None) as store:
        with pytest.raises(BadInput, match=message):
            await trained(**change, store=store)
        assert await store.runs.list() == []


async def test_checkpoints_come_at_each_new_best_and_at_intervals() -> None:
    events: list[dict[str, Any]] = []
    result = await trained(on_event=events.append, checkpoint_every=100)
    saved = [(e["version"], e["reason"]) for e in events if e["type"] == "checkpoint_saved"]
    assert saved[0] == (1, "baseline")
    assert {reason for _, reason in saved[1:]} == {"new best"}
    objectives = [version.metrics["objective"] for version in result.checkpoints]
    assert objectives == sorted(objectives)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


async def test_a_version_keeps_the_settings_of_the_version_it_was_trained_from() -> None:
    store = Store.from_url(None)

    async def target(inputs: dict[str, str], config: Any) -> dict[str, bool]:
        styled = config["configurable"].get("style") == "plain"
        return {"done": styled and inputs["rule"] in get_prompt(inputs["owner"]).split()}

    common: dict[str, Any] = {"evaluators": [done], "store": store, "workflow_id": "styled"}
    learn: dict[str, Any] = {"dataset": CASES, **common, "stop": [MaxSteps(1)]}
    first = await atrain(
        target,
        prompts=PROMPTS,
        config={"configurable": {"style": "plain"}},
        optimizer=TextGrad(proposer=Teacher(), minibatch=2),
        **learn,
    )
    use = {"configurable": {"agentensor": {"use": first.best.config_version}}}
    second = await atrain(
        target, prompts={}, config=use, optimizer=TextGrad(proposer=Teacher()), **learn
    )
    assert second.best.metrics["objective"] > first.best.metrics["objective"] > 0
    again = await aevaluate(
        target,
        dataset=[case for case in CASES if case["split"] == "validation"],
        config={"configurable": {"agentensor": {"use": second.best.config_version}}},
        **common,
    )
    assert again.objective == second.best.metrics["objective"]


async def test_parallel_trials_finish_what_they_began_when_the_budget_ends() -> None:
    begun: list[int] = []

    async def hook() -> None:
        begun.append(1)
        await asyncio.sleep(0.004 * (len(begun) % 3))

    class Rewriter:
        async def propose(self, request: ProposalRequest) -> dict[str, str]:
            return {c.name: f"{c.text} {request.seed}" for c in request.components}

    result = await atrain(
        workflow(hook),
        prompts=PROMPTS,
        dataset=CASES,
        evaluators=[done],
        optimizer=RandomSearch(proposer=Rewriter(), parallel=4),
        budget=Budget(rollouts=110),
        limits=Limits(concurrency=7),
    )
    assert result.decision.stopped == "the budget of 110 rollouts is spent"
    assert len(begun) == result.usage.rollouts <= 110


async def test_a_proposal_is_found_again_whatever_the_evaluator_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsorted(inputs: dict[str, Any], outputs: dict[str, Any]) -> list[dict[str, Any]]:
        return [{**done(inputs, outputs), "key": key} for key in ("z\x00", "a")]

    teacher = Teacher()
    url = f"sqlite:///{tmp_path / 'db'}"
    job: dict[str, Any] = {
        "prompts": PROMPTS,
        "dataset": CASES,
        "evaluators": [unsorted],
        "optimizer": TextGrad(proposer=teacher),
        "stop": [MaxSteps(1)],
        "run_id": "r",
    }

    async with Store.from_url(url) as store:
        saving = store.training.save_change

        async def killed(run_id: str, step: int, *rest: Any, **more: Any) -> None:
            if step == 1:
                raise RuntimeError("killed")
            await saving(run_id, step, *rest, **more)

        monkeypatch.setattr(store.training, "save_change", killed)
        with pytest.raises(RuntimeError):
            await atrain(workflow(), store=store, **job)
    assert len(teacher.requests) == 1
    async with Store.from_url(url) as store:
        await atrain(workflow(), store=store, **job)
    assert len(teacher.requests) == 1


async def test_a_graph_goes_on_with_a_run_that_another_worked_on_meanwhile() -> None:
    async with Store.from_url(None) as store:

        def worker() -> Any:
            return create_training_graph(
                workflow(),
                dataset=CASES,
                evaluators=[done],
                prompts=PROMPTS,
                optimizer=TextGrad(proposer=Teacher(), minibatch=3),
                store=store,
            )

        async def work(graph: Any, job: Any, *, until: int) -> Any:
            control = RunControl()

            def listen(event: Any) -> None:
                if event["type"] == "training_progress" and event["step"] == until:
                    control.request_drain()

            return await drive(
                graph, job, store=store, run_id="r", control=control, on_event=listen
            )

        first, second = worker(), worker()
        await work(first, {"stop": [MaxSteps(6).model_dump()]}, until=1)
        await work(second, None, until=4)
        assert (await work(first, None, until=0))["status"] == "finished"


async def test_a_proposal_that_cannot_be_stored_is_refused() -> None:
    class Sloppy:
        async def propose(self, request: ProposalRequest) -> dict[str, str]:
            return {c.name: c.text + "\x00 R0 R1 R2 R3" for c in request.components}

    events: list[Any] = []
    result = await atrain(
        workflow(),
        prompts=PROMPTS,
        dataset=CASES,
        evaluators=[done],
        optimizer=TextGrad(proposer=Sloppy()),
        stop=[MaxSteps(1)],
        on_event=events.append,
    )
    assert result.best == result.baseline
    refused = [event["reason"] for event in events if event["type"] == "proposal_rejected"]
    why = "holds characters that cannot be stored"
    assert refused == [f"plan: {why}; write: {why}"]


@pytest.mark.parametrize(
    ("calls", "status", "why"),
    [(120, "kept", "not significant|no candidate|by hand"), (60, None, "model calls is too small")],
)
async def test_a_budget_of_model_calls_is_kept_and_pays_for_the_holdout(
    calls: int, status: str | None, why: str
) -> None:
    made: list[int] = []

    class Answers:
        """Not a generator: threads may ask at the same moment."""

        def __iter__(self) -> Iterator[AIMessage]:
            return self

        def __next__(self) -> AIMessage:
            made.append(1)
            return AIMessage("yes")

    model = GenericFakeChatModel(messages=Answers())

    async def target(inputs: dict[str, str]) -> dict[str, bool]:
        await model.ainvoke("?")
        await model.ainvoke("?")
        return {"done": inputs["rule"] in get_prompt(inputs["owner"]).split()}

    job: dict[str, Any] = {
        "prompts": PROMPTS,
        "dataset": CASES,
        "evaluators": [done],
        "optimizer": TextGrad(proposer=Teacher()),
        "budget": Budget(calls=calls),
    }
    if status is None:  # not even the baseline fits beside the holdout
        with pytest.raises(BudgetExhausted, match=why):
            await atrain(target, **job)
    else:
        result = await atrain(target, **job)
        assert "model calls is spent" in (result.decision.stopped or "")
        assert result.holdout is not None
        assert result.decision.status == status
        assert re.search(why, " ".join(result.decision.reasons))
        assert result.usage.calls == len(made)
    assert len(made) <= calls


async def test_a_budget_that_ends_in_the_holdout_leaves_the_gain_unproved() -> None:
    attempts: list[str] = []

    async def target(inputs: dict[str, str]) -> dict[str, bool]:
        attempts.append(inputs["split"])
        if inputs["split"] == "holdout" and attempts.count("holdout") % 3:
            raise ConnectionError("lost")  # each is tried again, which nobody set aside for
        return {"done": inputs["rule"] in get_prompt(inputs["owner"]).split()}

    result = await atrain(
        target,
        prompts=PROMPTS,
        dataset=[{**case, "inputs": {**case["inputs"], "split": case["split"]}} for case in CASES],
        evaluators=[done],
        optimizer=TextGrad(proposer=Teacher()),
        budget=Budget(rollouts=80),
        stop=[MaxSteps(1)],
        limits=Limits(retries=2, concurrency=1),
    )
    assert result.decision.status == "kept"
    assert "budget ended" in result.decision.reasons[0]
    assert result.holdout is None
    assert len(attempts) == result.usage.rollouts == 80


async def test_a_hosts_recursion_limit_does_not_end_a_long_search() -> None:
    class Rewriter:
        async def propose(self, request: ProposalRequest) -> dict[str, str]:
            return {c.name: f"{c.text} {request.seed}" for c in request.components}

    class Host(TypedDict, total=False):
        stopped: str

    training = create_training_graph(
        workflow(),
        dataset=[{**case, "split": None} for case in CASES[:2]],
        evaluators=[done],
        prompts=PROMPTS,
        optimizer=RandomSearch(proposer=Rewriter()),
    )
    job = {"stop": [MaxSteps(15).model_dump()], "budget": {"rollouts": 100}}
    host = StateGraph(Host)
    host.add_node(
        "train",
        training_node(
            training,
            map_input=lambda _state: job,
            map_output=lambda result: {"stopped": result["decision"]["stopped"]},
        ),
    )
    host.add_edge(START, "train")
    found = await host.compile().ainvoke({}, {"recursion_limit": 10})
    assert found == {"stopped": "15 steps done"}


async def test_a_call_of_a_proposer_that_broke_counts_over_a_resume() -> None:
    model = GenericFakeChatModel(messages=iter([AIMessage("?")] * 9))

    class Broken:
        async def propose(self, request: ProposalRequest) -> dict[str, str]:
            await model.ainvoke("?")
            raise ConnectionError("no route")

    job: dict[str, Any] = {
        "prompts": PROMPTS,
        "dataset": CASES,
        "evaluators": [done],
        "optimizer": TextGrad(proposer=Broken()),
        "budget": Budget(calls=1),
        "run_id": "r",
    }
    async with Store.from_url(None) as store:
        with pytest.raises(RunFailed, match="proposer failed"):
            await atrain(workflow(), store=store, **job)
        assert (await store.runs.usage("r")).calls == 1
        result = await atrain(workflow(), store=store, **job)
    assert result.decision.stopped == "the budget of 1 model calls is spent"
    assert result.usage.calls == 1


async def test_event_numbers_rise_past_those_of_a_process_that_was_killed() -> None:
    async with Store.from_url(None) as store:
        run = RunRecord(run_id="r", workflow_id="w", mode="train", job_hash="x")
        await store.runs.create(run)
        killed = await store.runs.acquire("r", owner="gone", ttl=0)
        assert killed.event_seq == 0
        takeover = await store.runs.acquire("r")
        assert takeover.event_seq > 0
        await store.runs.release(takeover)
        assert (await store.runs.acquire("r")).event_seq == 0  # nothing was sent
