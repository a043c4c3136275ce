"""All three graphs over the SDK: progress while it happens, results, bad jobs, approval."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk.errors import UnprocessableEntityError
from served_workflows import cases

from orcheo_agentensor import Store
from orcheo_agentensor.errors import NotFound

CLERK: dict[str, Any] = {
    "target": "served_workflows:clerk",
    "evaluators": ["served_workflows:right"],
    "prompts": {"skills": "card"},
}
EVALUATION: dict[str, Any] = {**CLERK, "dataset": cases("test", 8)}
TRAINING: dict[str, Any] = {
    **CLERK,
    "dataset": [*cases("train", 8), *cases("validation", 8), *cases("holdout", 40)],
    "optimizer": {"name": "textgrad", "proposer": "served_workflows:Tutor"},
    "stop": [{"type": "target_score", "score": 1.0}],
}


@dataclass
class Heard:
    """What a client heard of one run."""

    thread_id: str
    run_id: str = ""
    parts: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [data for kind, data in self.parts if kind.startswith("custom")]

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    @property
    def updates(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for kind, data in self.parts:
            if kind.startswith("updates"):
                found |= data
        return found

    @property
    def error(self) -> dict[str, Any] | None:
        return next((data for kind, data in self.parts if kind == "error"), None)


async def run(
    client: Any,
    graph: str,
    job: Any = None,
    *,
    thread_id: str | None = None,
    on_part: Callable[[Any], None] | None = None,
    **options: Any,
) -> Heard:
    """Stream a run to its end; `on_part` hears of every part when it arrives."""
    if thread_id is None:
        thread_id = (await client.threads.create())["thread_id"]
    heard = Heard(thread_id)
    async for part in client.runs.stream(
        thread_id,
        graph,
        input=job,
        stream_mode=["updates", "custom"],
        stream_subgraphs=True,
        **options,
    ):
        if part.event == "metadata":
            heard.run_id = part.data["run_id"]
        heard.parts.append((part.event, part.data))
        if on_part is not None:
            on_part(part)
    return heard


async def values(client: Any, heard: Heard) -> dict[str, Any]:
    """The thread's state."""
    found: dict[str, Any] = (await client.threads.get_state(heard.thread_id))["values"]
    return found


async def test_the_bundled_workflow_answers(client: Any) -> None:
    heard = await run(client, "support_triage", {"ticket": "My card was stolen, block it!"})
    assert heard.error is None
    found = await values(client, heard)
    assert found["queue"]
    assert found["reply"]


async def test_a_graph_that_is_served_here_is_a_target(client: Any) -> None:
    """Its runs end together, and take nothing with them but themselves."""
    job = {
        **EVALUATION,
        "target": {"assistant": "bare"},
        "dataset": cases("test", 36),
        "evaluators": [{"type": "latency", "max_ms": 60000}],
        "limits": {"concurrency": 9},
    }
    heard = await run(client, "evaluation", job)
    assert heard.error is None
    found = await values(client, heard)
    assert found["summary"]["n_ok"] == found["usage"]["rollouts"] == 36


@pytest.mark.requirement("door.server", "evaluation.live")
async def test_an_evaluation_streams_its_progress(
    client: Any, store: Store, tmp_path: Path
) -> None:
    """The first event is heard while all cases wait, the fourth case while the others do."""
    first, fourth = tmp_path / "first", tmp_path / "fourth"
    dataset = [
        *cases("early", 4, after=first),
        *cases("late", 8, after=fourth),
    ]

    def on_part(part: Any) -> None:
        if part.event.startswith("custom"):
            first.touch()
            if part.data.get("done") == 4:
                fourth.touch()

    job = {**EVALUATION, "dataset": dataset, "limits": {"concurrency": 1}}
    heard = await run(client, "evaluation", job, on_part=on_part)
    assert heard.error is None
    assert heard.types[0] == "run_started"
    assert heard.types[-2:] == ["evaluation_summary", "run_finished"]
    assert heard.types.count("case_finished") == 12
    assert [event["seq"] for event in heard.events] == list(range(1, len(heard.events) + 1))
    found = await values(client, heard)
    assert found["status"] == "finished"
    assert found["summary"]["objective"] == pytest.approx(0.25)
    assert found["summary"]["evaluators"]["right"]["n"] == 12
    record = await store.runs.get(found["run_id"])
    assert record.status == "finished"
    assert record.result is not None
    assert record.result["summary"] == found["summary"]


@pytest.mark.requirement("checkpoint.steps", "door.server")
async def test_a_training_ends_with_a_stored_version(client: Any, store: Store) -> None:
    heard = await run(client, "training", TRAINING)
    assert heard.error is None
    sequence = [event["seq"] for event in heard.events]
    assert sequence == sorted(set(sequence))
    expected = {"run_started", "step_started", "case_finished", "candidate_accepted"}
    expected |= {"training_progress", "checkpoint_saved", "holdout_summary", "decision"}
    assert expected <= set(heard.types)
    assert heard.types[-1] == "run_finished"
    found = await values(client, heard)
    assert found["status"] == "finished"
    assert found["best"]["objective"] == 1.0
    assert found["holdout"]["gain"] == pytest.approx(0.75)
    assert found["decision"]["status"] == "kept"
    version = await store.checkpoints.get(found["workflow_id"], found["best"]["config_version"])
    assert set(version.prompts["skills"].text.split()) == {"card", "login", "refund", "transfer"}
    assert found["dataset"]["id"] == "inline"
    assert "cases" not in found["dataset"]
    history = await client.threads.get_history(heard.thread_id, limit=100)
    steps = [one["values"]["step"] for one in reversed(history) if one["values"].get("step")]
    assert list(dict.fromkeys(steps)) == [*range(1, found["step"] + 1)]
    shown = {one["checkpoint"]["checkpoint_id"]: one["values"] for one in history}
    made_at = shown[version.metadata["langgraph"]["checkpoint_id"]]
    assert made_at["prompts"]["skills"]["text"] == version.prompts["skills"].text
    assert made_at["prompts"]["skills"]["type"] == "TextTensor"
    assert made_at["scores"]["best"]["evaluators"] == {"right": 1.0}


@pytest.mark.parametrize(
    "target",
    ["blocking_clerk", "create_clerk"],
)
async def test_targets_of_every_kind_run(client: Any, target: str) -> None:
    heard = await run(client, "evaluation", {**EVALUATION, "target": f"served_workflows:{target}"})
    assert heard.error is None
    assert (await values(client, heard))["summary"]["n_ok"] == 8


async def test_a_run_id_submitted_again_returns_the_stored_result(
    client: Any, store: Store
) -> None:
    job = {**TRAINING, "run_id": "again"}
    first = await run(client, "training", job)
    spent = await store.runs.usage("again")
    second = await run(client, "training", job)
    assert second.error is None
    one, two = await values(client, first), await values(client, second)
    for key in ("status", "best", "baseline", "holdout", "decision", "summary", "usage"):
        assert one[key] == two[key]
    assert second.types == []
    assert await store.runs.usage("again") == spent


async def test_a_cancelled_run_goes_on_under_its_run_id(
    client: Any, store: Store, tmp_path: Path
) -> None:
    cancelled = tmp_path / "cancelled"
    job = {
        **EVALUATION,
        "run_id": "stopped",
        "dataset": cases("test", 12, free=6, after=cancelled),
        "limits": {"concurrency": 1},
    }
    thread = await client.threads.create()
    async for part in client.runs.stream(
        thread["thread_id"], "evaluation", input=job, stream_mode=["custom"]
    ):
        if part.event == "metadata":
            server_run = part.data["run_id"]
        if part.event == "custom" and part.data.get("done") == 5:
            await client.runs.cancel(thread["thread_id"], server_run, wait=True)
            break
    assert (await _settled(store, "stopped")).status == "interrupted"
    done = (await store.runs.usage("stopped")).rollouts
    assert 5 <= done <= 6
    cancelled.touch()
    heard = await run(client, "evaluation", job)
    assert heard.error is None
    assert (await values(client, heard))["summary"]["n_ok"] == 12
    assert (await store.runs.usage("stopped")).rollouts == 12
    assert heard.events[0]["seq"] > done


async def _settled(store: Store, run_id: str) -> Any:
    while (record := await store.runs.get(run_id)).status == "running":  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return record


@pytest.mark.parametrize("approve", [True, False])
async def test_a_person_is_asked_and_answers(client: Any, store: Store, approve: bool) -> None:
    workflow = f"asked-{approve}"
    heard = await run(client, "training", {**TRAINING, "promote": "ask", "workflow_id": workflow})
    assert heard.error is None
    state = await client.threads.get_state(heard.thread_id)
    assert state["next"] == ["decide"], state["values"]["decision"]
    [pause] = state["tasks"][0]["interrupts"]
    assert pause["value"]["type"] == "approval"
    assert pause["value"]["workflow_id"] == workflow
    assert "+card" in pause["value"]["diff"]
    assert await store.aliases.resolve(workflow, "production") is None
    resumed = await run(
        client,
        "training",
        thread_id=heard.thread_id,
        command={"resume": {"approve": approve, "actor": "ana", "reason": "read it"}},
    )
    assert resumed.error is None
    found = await values(client, resumed)
    assert found["decision"]["status"] == ("promoted" if approve else "kept")
    assert any("ana" in reason for reason in found["decision"]["reasons"])
    assert resumed.events[0]["seq"] > heard.events[-1]["seq"]
    promoted = await store.aliases.resolve(workflow, "production")
    assert promoted == (found["best"]["config_version"] if approve else None)


BAD: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "no-target": ("evaluation", {"target": None}, ["job.target"]),
    "not-allowed": (
        "evaluation",
        {"target": "os:system"},
        ["os:system", "AGENTENSOR_ALLOWED_MODULES"],
    ),
    "not-there": ("evaluation", {"target": "served_workflows:nobody"}, ["nobody"]),
    "evaluator": ("evaluation", {"evaluators": ["subprocess:run"]}, ["subprocess:run"]),
    "no-cases": ("evaluation", {"dataset": []}, ["dataset"]),
    "twice": ("evaluation", {"dataset": cases("a", 1) * 2}, ["a-0"]),
    "misspelt": ("training", {"stops": []}, ["job.stops", "not a known field", "checkpoint_every"]),
    "coverage": ("evaluation", {"min_coverage": 2}, ["job.min_coverage", "2"]),
    "limits": ("evaluation", {"limits": {"concurrrency": 1}}, ["job.limits.concurrrency"]),
    "config": (
        "evaluation",
        {"config": {"max_concurrency": "a", "callbacks": ["nope"]}},
        ["max_concurrency", "callbacks"],
    ),
    "frozen": (
        "training",
        {"prompts": {"skills": {"type": "TextTensor", "text": "x", "requires_grad": False}}},
        ["frozen"],
    ),
    "budget": ("training", {"budget": {"rollouts": 3}}, ["budget.rollouts", "alone take 88"]),
    "optimizer": ("training", {"optimizer": "sgd"}, ["optimizer", "sgd", "textgrad"]),
    "stop": ("training", {"stop": [{"type": "tired"}]}, ["stop", "tired"]),
}


async def test_a_bad_job_is_refused_with_one_clear_message_and_leaves_nothing(
    client: Any, store: Store
) -> None:
    datasets = await store.datasets.list()
    valid = {"evaluation": EVALUATION, "training": TRAINING}
    thread = (await client.threads.create())["thread_id"]
    for name, (graph, change, told) in BAD.items():
        job = {**valid[graph], **change, "run_id": f"bad-{name}"}
        with pytest.raises(UnprocessableEntityError) as caught:
            await client.runs.create(thread, graph, input=job)
        found = caught.value.body["error"]
        assert [text for text in told if text not in found["message"]] == [], f"{name}: {found}"
        assert found["problems"]
        assert len(found["message"]) < 400, name
        with pytest.raises(NotFound):
            await store.runs.get(f"bad-{name}")
    assert await client.runs.list(thread) == []
    assert await store.datasets.list() == datasets


async def test_many_stateless_runs_at_once_all_come_back(client: Any) -> None:
    for _ in range(2):
        found = await asyncio.gather(
            *(client.runs.wait(None, "evaluation", input=EVALUATION) for _ in range(12))
        )
        assert [one["status"] for one in found] == ["finished"] * 12


async def test_two_runs_at_once_do_not_mix(client: Any) -> None:
    both = await asyncio.gather(
        run(client, "training", {**TRAINING, "workflow_id": "one", "run_id": "one"}),
        run(client, "evaluation", {**EVALUATION, "run_id": "two"}),
    )
    for heard, run_id in zip(both, ("one", "two"), strict=True):
        assert heard.error is None
        assert {event["run_id"] for event in heard.events} == {run_id}


async def test_the_same_run_submitted_while_it_is_at_work_gives_its_result_to_both(
    client: Any, store: Store, tmp_path: Path
) -> None:
    both_begun, begun = tmp_path / "both begun", set[str]()

    def on_part(part: Any) -> None:
        if part.event == "metadata":
            begun.add(part.data["run_id"])
            if len(begun) == 2:
                both_begun.touch()

    job = {
        **EVALUATION,
        "run_id": "contended",
        "dataset": cases("test", 12, free=2, after=both_begun),
        "limits": {"concurrency": 1},
    }
    both = await asyncio.gather(
        *(run(client, "evaluation", job, on_part=on_part) for _ in range(2))
    )
    assert [heard.error for heard in both] == [None, None]
    one, two = [(await values(client, heard))["summary"] for heard in both]
    assert one == two
    assert one["n_ok"] == 12
    assert (await store.runs.usage("contended")).rollouts == 12


async def test_schemas_describe_the_job(client: Any) -> None:
    for graph, title in (("evaluation", "Evaluation job"), ("training", "Training job")):
        [assistant] = await client.assistants.search(graph_id=graph)
        schemas = await client.assistants.get_schemas(assistant["assistant_id"])
        assert schemas["input_schema"]["title"] == title
        assert schemas["input_schema"]["properties"]["dataset"]["description"]
        assert "summary" in schemas["output_schema"]["properties"]
        drawn = await client.assistants.get_graph(assistant["assistant_id"])
        assert {"prepare"} <= {node["id"] for node in drawn["nodes"]}


def test_nothing_blocked_and_nothing_was_deserialised_by_chance(served: Any) -> None:
    log = served.log.read_text()
    assert "BlockingError" not in log
    assert "Deserializing unregistered type" not in log
