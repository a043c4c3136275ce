"""Targets on real LangGraph servers: run, taped, trained, stopped and started again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from deployments import Deployment
from langchain_core.callbacks import BaseCallbackHandler
from langgraph.pregel.remote import RemoteGraph

from orcheo_agentensor import Settings, Store, TextGrad, aevaluate, atrain, create_evaluation_graph
from orcheo_agentensor.errors import TargetRefused, TargetUnavailable
from orcheo_agentensor.optimizers import ProposalRequest

KINDS = ("refund", "card", "login", "transfer")


def cases(split: str, count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{split}-{number}",
            "split": split,
            "inputs": {"kind": KINDS[number % len(KINDS)], "split": split},
            "expected_output": {"answer": KINDS[number % len(KINDS)]},
        }
        for number in range(count)
    ]


def right(outputs: Mapping[str, Any], reference_outputs: Mapping[str, Any]) -> float:
    return float(outputs["answer"] == reference_outputs["answer"])


def anything(outputs: Any) -> float:
    return 1.0


class Tutor:
    """Adds the first skill that the feedback finds lacking; remembers whom it was asked about."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    async def propose(self, request: ProposalRequest) -> Mapping[str, str]:
        texts = {}
        for component in request.components:
            self.asked.add(component.name)
            lacking = sorted(
                str(record.expected_output["answer"])
                for record in component.feedback
                if record.score is not None and record.score < 1.0
            )
            if lacking:
                texts[component.name] = f"{component.text} {lacking[0]}"
        return texts


async def nothing_left(client: Any) -> None:
    """Return once the server has no thread: what was cancelled takes a moment to end."""
    while await client.threads.search(limit=100):  # noqa: ASYNC110
        await asyncio.sleep(0.1)


@pytest.mark.requirement("evaluation.remote")
@pytest.mark.compat(
    "targets",
    "remote",
    "an assistant on another server: {url, assistant}",
    works_with="AGENTENSOR_ALLOWED_HOSTS",
)
async def test_an_assistant_is_evaluated_with_the_prompts_of_the_job(
    deployed: Deployment, settings: Settings, client: Any
) -> None:
    report = await aevaluate(
        {"url": deployed.url, "assistant": "clerk"},
        dataset=cases("test", 4),
        evaluators=[right],
        prompts={"skills": "card login", "greeting": "good day"},
        settings=settings,
    )
    assert report.summary["objective"] == 0.5
    assert report.cases[1].output == {"kind": "card", "draft": "good day", "answer": "card"}
    assert report.usage.calls == 8
    assert report.usage.input_tokens == 4 * (2 + 3)
    assert report.usage.output_tokens == 4 * (2 + 1)
    await nothing_left(client)


@pytest.mark.parametrize("prompts_in", ["auto", "context"])
async def test_a_graph_that_reads_its_context_gets_prompts_there(
    deployed: Deployment, settings: Settings, prompts_in: str
) -> None:
    report = await aevaluate(
        {
            "url": deployed.url,
            "assistant": "persona",
            "prompts_in": prompts_in,
            "output": "messages.-1",
        },
        dataset=[{"id": "a", "inputs": {"messages": [{"role": "user", "content": "hi"}]}}],
        evaluators=[anything],
        prompts={"system_prompt": "Be brief."},
        config={"configurable": {"tone": "warm"}},
        settings=settings,
    )
    assert report.cases[0].output == {"role": "assistant", "content": "Be brief. (warm)|hi"}


async def test_trouble_of_a_remote_run_is_the_failure_of_its_case(
    deployed: Deployment, settings: Settings, client: Any
) -> None:
    report = await aevaluate(
        {"url": deployed.url, "assistant": "awkward"},
        dataset=[{"id": "a", "inputs": {"kind": "x"}}, {"id": "b", "inputs": {"kind": "ask"}}],
        evaluators=[anything],
        settings=settings,
    )
    broke, paused = (case.target_failure for case in report.cases)
    assert broke is not None
    assert broke.reason.endswith("ValueError: no such customer: x")
    assert paused is not None
    assert "interrupt()" in paused.reason
    await nothing_left(client)


async def test_a_case_that_takes_too_long_is_cancelled_on_its_server(
    deployed: Deployment, settings: Settings, client: Any
) -> None:
    report = await aevaluate(
        {"url": deployed.url, "assistant": "sleeper"},
        dataset=[{"id": "a", "inputs": {"kind": "60"}}],
        evaluators=[anything],
        limits={"case_timeout": 1.5, "retries": 0},
        settings=settings,
    )
    failure = report.cases[0].target_failure
    assert failure is not None
    assert failure.kind == "timeout"
    await nothing_left(client)


async def test_a_connection_that_is_lost_neither_repeats_a_run_nor_leaves_one_behind(
    deployed: Deployment, settings: Settings, client: Any
) -> None:
    """Real HTTP, whose first runs are cut off in the middle of their streams."""
    cut = 0

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal cut
        head = await reader.readuntil(b"\r\n\r\n")
        runs = head.startswith(b"POST ") and b"/runs/stream" in head.partition(b"\r\n")[0]
        there, out = await asyncio.open_connection("127.0.0.1", deployed.port)
        out.write(head.replace(b"\r\n", b"\r\nconnection: close\r\n", 1))
        asking = asyncio.create_task(_pump(reader, out))
        if runs and cut < 3:
            cut += 1
            writer.write(await there.read(200))
        else:
            await _pump(there, writer)
        asking.cancel()
        for end in (writer, out):
            end.close()

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        report = await aevaluate(
            {"url": f"http://127.0.0.1:{port}", "assistant": "clerk"},
            dataset=cases("test", 6),
            evaluators=[right],
            prompts={"skills": " ".join(KINDS)},
            limits={"concurrency": 3},
            settings=settings,
        )
    assert (cut, report.summary["objective"], report.summary["n_ok"]) == (3, 1.0, 6)
    assert (report.usage.rollouts, report.usage.calls) == (6, 12)
    await nothing_left(client)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def test_a_cancelled_evaluation_leaves_no_run_behind(
    deployed: Deployment, settings: Settings, client: Any, store: Store
) -> None:
    work = asyncio.create_task(
        aevaluate(
            {"url": deployed.url, "assistant": "sleeper"},
            dataset=[{"id": str(i), "inputs": {"kind": "60"}} for i in range(14)],
            evaluators=[anything],
            limits={"concurrency": 14},  # more than the server takes at once: some are queued
            settings=settings,
            store=store,
            run_id="stopped",
        )
    )
    while len(await client.threads.search(limit=100, status="busy")) < 14:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert (await store.runs.get("stopped")).status == "interrupted"
    await nothing_left(client)


@pytest.mark.parametrize(
    ("assistant", "expected"),
    [
        ("nobody", "no assistant and no graph"),
        ("00000000-0000-0000-0000-000000000000", "no assistant and no graph"),
    ],
)
async def test_an_unknown_assistant_is_said_at_once(
    deployed: Deployment, settings: Settings, assistant: str, expected: str
) -> None:
    with pytest.raises(TargetRefused, match=expected):
        await aevaluate(
            {"url": deployed.url, "assistant": assistant},
            dataset=cases("test", 4),
            evaluators=[right],
            settings=settings,
        )


@pytest.mark.compat("targets", "remote", "RemoteGraph")
@pytest.mark.parametrize(
    ("assistant", "blamed"), [("clerk", {"skills"}), ("quiet", {"skills", "greeting"})]
)
@pytest.mark.requirement("evaluation.remote")
async def test_a_remote_graph_is_trained(
    deployed: Deployment, settings: Settings, assistant: str, blamed: set[str]
) -> None:
    """`clerk` shows its model calls; of `quiet`, any node may have read any prompt."""
    tutor = Tutor()
    result = await atrain(
        {"url": deployed.url, "assistant": assistant},
        prompts={"skills": "card", "greeting": {"text": "hello", "requires_grad": True}},
        dataset=[*cases("train", 8), *cases("validation", 8)],
        evaluators=[right],
        optimizer=TextGrad(proposer=tutor),
        stop=[{"type": "target_score", "score": 1.0}, {"type": "max_steps", "steps": 8}],
        settings=settings,
    )
    assert result.baseline.metrics["objective"] == 0.25
    assert result.best.metrics["objective"] == 1.0
    assert set(result.best.prompts["skills"].text.split()) >= set(KINDS)
    # `greeting` went into what `desk` took in, so what is said of `desk` reaches it as well.
    assert tutor.asked == blamed | ({"greeting"} if assistant == "clerk" else set())


@pytest.mark.parametrize("kind", ["assistant", "RemoteGraph"])
async def test_the_callers_config_reaches_a_remote_target_and_its_trace_leads_to_the_case(
    deployed: Deployment, settings: Settings, store: Store, kind: str
) -> None:
    roots: dict[str, Any] = {}
    seeds = set[Any]()

    class Tracer(BaseCallbackHandler):
        def on_chain_start(
            self, serialized: Any, inputs: Any, *, run_id: Any, metadata: Any, **kwargs: Any
        ) -> None:
            if kwargs.get("parent_run_id") is None:
                roots[str(run_id)] = (metadata or {}).get("agentensor_case_id")

    target: Any = {"url": deployed.url, "assistant": "witness"}
    if kind == "RemoteGraph":
        target = RemoteGraph("witness", url=deployed.url)
    graph = create_evaluation_graph(
        target,
        dataset=cases("test", 2),
        evaluators=[anything],
        settings=settings,
        store=store,
    )
    await graph.compile().ainvoke(
        {"run_id": kind, "seed": 5},
        {
            "configurable": {"tenant": "acme", "pool": object(), "thread_id": "hosts"},
            "metadata": {"team": "desk"},
            "tags": ["nightly"],
            "callbacks": [Tracer()],
        },
    )
    rows = await store.runs.case_rows(kind)
    assert len(rows) == 2
    for row in rows:
        seen = json.loads(row.rollout.output["answer"])
        assert seen["metadata"]["team"] == "desk"
        assert seen["metadata"]["agentensor_run_id"] == kind
        assert seen["metadata"]["agentensor_case_id"] == row.rollout.case_id
        assert {"nightly", f"agentensor_case_id:{row.rollout.case_id}"} <= set(seen["tags"])
        assert seen["tenant"] == "acme"
        assert seen["thread_id"] != "hosts"
        assert seen["metadata"]["agentensor_seed"] == 5
        seeds.add(seen["seed"])
        assert roots.pop(str(row.trace_id)) == row.rollout.case_id
    assert len(seeds - {None}) == 2
    assert not {case_id for case_id in roots.values() if case_id}


async def test_cases_spread_over_two_servers(
    deployed: Deployment, second: Deployment, settings: Settings
) -> None:
    before = [server.log.count("/runs/stream") for server in (deployed, second)]
    report = await aevaluate(
        {"url": [deployed.url, second.url], "assistant": "quiet"},
        dataset=cases("test", 20),
        evaluators=[right],
        prompts={"skills": " ".join(KINDS)},
        settings=settings,
    )
    assert report.summary["objective"] == 1.0
    after = [server.log.count("/runs/stream") for server in (deployed, second)]
    assert all(now - then >= 5 for then, now in zip(before, after, strict=True))


async def test_an_updated_assistant_is_another_target(
    deployed: Deployment, settings: Settings, client: Any, store: Store
) -> None:
    made = await client.assistants.create("clerk", name="updated")
    target = {"url": deployed.url, "assistant": made["assistant_id"]}
    job: dict[str, Any] = {"dataset": cases("test", 4), "evaluators": [right]}
    first = await aevaluate(target, **job, store=store, settings=settings, run_id="before")
    assert first.summary["objective"] == 0.0
    skills = {"configurable": {"prompts": {"skills": "card login"}}}
    await client.assistants.update(made["assistant_id"], config=skills)
    reused = await aevaluate(target, **job, store=store, settings=settings, reuse="before")
    assert reused.summary["objective"] == 0.5
    # The prompts that a job leaves out stay the assistant's own.
    also = await aevaluate(target, **job, prompts={"greeting": "hey"}, settings=settings)
    assert also.cases[1].output == {"kind": "card", "draft": "hey", "answer": "card"}


@pytest.mark.compat("targets", "remote", "a graph of the same server")
async def test_a_graph_of_the_same_server_needs_no_url(deployed: Deployment, client: Any) -> None:
    result = await client.runs.wait(
        None,
        "evaluation",
        input={
            "target": {"assistant": "clerk"},
            "dataset": cases("test", 4),
            "evaluators": [{"type": "json_field_match", "fields": ["answer"]}],
            "prompts": {"skills": "card login"},
        },
    )
    assert result["summary"]["objective"] == 0.5
    assert result["usage"]["calls"] == 8


async def test_the_config_of_a_servers_run_reaches_the_target(
    deployed: Deployment, client: Any
) -> None:
    thread = await client.threads.create()
    job = {
        "target": {"assistant": "witness"},
        "dataset": cases("test", 1),
        "evaluators": ["json_valid"],
    }
    found = await client.runs.wait(
        thread["thread_id"],
        "evaluation",
        input=job,
        config={"tags": ["nightly"], "configurable": {"tenant": "acme"}},
        metadata={"team": "desk"},
    )
    async with Store.from_url(deployed.store_url) as store:
        [row] = await store.runs.case_rows(found["run_id"])
    seen = json.loads(row.rollout.output["answer"])
    assert (seen["tenant"], seen["metadata"]["team"]) == ("acme", "desk")
    assert "nightly" in seen["tags"]
    assert seen["thread_id"] != thread["thread_id"]
    assert row.trace_id


async def test_a_server_that_stops_interrupts_the_run_which_goes_on_later(
    second: Deployment, settings: Settings, impatient: Settings, store: Store
) -> None:
    stopped = asyncio.Event()
    events: list[dict[str, Any]] = []

    def on_event(event: dict[str, Any]) -> None:
        events.append(event)
        if event["type"] == "case_finished" and event["done"] == 6 and not stopped.is_set():
            second.stop()
            stopped.set()

    async def run(settings: Settings) -> Any:
        return await aevaluate(
            {"url": second.url, "assistant": "clerk"},
            dataset=cases("test", 24),
            evaluators=[right],
            prompts={"skills": " ".join(KINDS)},
            limits={"concurrency": 2},
            settings=settings,
            store=store,
            run_id="outage",
            on_event=on_event,
        )

    with pytest.raises(TargetUnavailable, match="has not answered for 1 s"):
        await run(impatient)
    record = await store.runs.get("outage")
    assert record.status == "interrupted"
    done = sum(event["type"] == "case_finished" for event in events)
    assert 6 <= done < 24
    with pytest.raises(TargetUnavailable):  # still away
        await run(impatient)
    second.start()
    already = len(events)
    report = await run(settings)
    assert report.summary["objective"] == 1.0
    assert report.summary["n_target_failed"] == 0
    finished = [e for e in events[already:] if e["type"] == "case_finished"]
    assert sum(event["replayed"] for event in finished) >= done


async def test_one_of_two_servers_may_stop(
    deployed: Deployment, second: Deployment, settings: Settings
) -> None:
    def on_event(event: dict[str, Any]) -> None:
        if event["type"] == "case_finished" and event["done"] == 4:
            second.stop()

    report = await aevaluate(
        {"url": [deployed.url, second.url], "assistant": "clerk"},
        dataset=cases("test", 16),
        evaluators=[right],
        prompts={"skills": " ".join(KINDS)},
        limits={"concurrency": 4},
        settings=settings,
        on_event=on_event,
    )
    assert report.summary["n_ok"] == 16
    assert second.process is None
