"""What every store must do, as test classes to inherit from."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from orcheo_agentensor.errors import (
    AgentensorError,
    AliasConflict,
    BadInput,
    LeaseLost,
    NotFound,
    RunAlreadyActive,
    RunMismatch,
)
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.storage import (
    ConfigCheckpoint,
    Lease,
    RolloutRow,
    RunRecord,
    ScoreRow,
    Store,
    process_owner,
)
from orcheo_agentensor.usage import Usage

ODD_JSON: dict[str, Any] = {
    "text": 'zażółć 你好 🙂 "quoted" \\ back\nline \u2028',
    "empty": [{}, [], "", None],
    "integers": [0, -1, 2**63 - 1, -(2**63)],
    "floats": [0.1, 1e-9, 1.5, 5e-324, 1.2345678901234567e18, 1e23, -1.7976931348623157e308],
    "not a float": ["1e+5", '"1e+5', "\\"],
    "flags": [True, False],
    "nested": {"a": {"b": {"c": [1, [2, [3]]]}}},
}


@contextmanager
def refused(error: type[AgentensorError], *parts: str) -> Iterator[None]:
    """Expect `error` with every one of `parts` in its message."""
    message = None
    try:
        yield
    except error as raised:
        message = str(raised)
    assert message is not None, f"{error.__name__} was not raised"
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} not in: {message}"


def run_record(run_id: str = "run-1", **fields: Any) -> RunRecord:
    """A run record with little in it."""
    values = {"workflow_id": "support", "mode": "evaluate", "job_hash": "job"}
    return RunRecord.model_validate({"run_id": run_id, **values, **fields})


def rollout(number: int = 0, **fields: Any) -> RolloutRow:
    """A rollout row of candidate "c"."""
    values: dict[str, Any] = {"case_id": f"case-{number}", "candidate_hash": "c"}
    return RolloutRow(key=f"rollout-{number}", **{**values, **fields})


def score(key: str = "rollout-0", name: str = "accuracy", **fields: Any) -> ScoreRow:
    """A score row of evaluator "e"."""
    values: dict[str, Any] = {"score": 1.0, "passed": True}
    return ScoreRow(rollout_key=key, evaluator_fingerprint="e", name=name, **{**values, **fields})


async def new_version(store: Store, number: int = 1, **fields: Any) -> ConfigCheckpoint:
    """Save a version whose prompt is told apart by `number`."""
    values: dict[str, Any] = {
        "workflow_id": "support",
        "runnable_config": {"configurable": {"prompts": {"triage": f"prompt {number}"}}},
        "metrics": {"objective": 0.5, "complete": True},
        "dataset_version": "d1",
        "evaluator_set": "e1",
    }
    return await store.checkpoints.save(**{**values, **fields})


async def leased_run(store: Store, run_id: str = "run-1") -> Lease:
    """A new run, leased to this process."""
    await store.runs.create(run_record(run_id))
    return await store.runs.acquire(run_id)


class LedgerConformance:
    """The ledger."""

    async def test_rows_come_back_in_another_process_of_the_run(self, store: Store) -> None:
        lease = await leased_run(store)
        paid = Usage(rollouts=2, calls=3, input_tokens=10, output_tokens=5, cost=0.25)
        row = rollout(output=ODD_JSON, tape=ODD_JSON, usage=paid, latency_ms=1.5, attempts=2)
        failed = rollout(1, failure={"kind": "timeout", "reason": "10 s"}, attempts=1)
        judged = [
            score(usage=Usage(calls=1, input_tokens=7, cost=0.5), reason="well done"),
            score(name="tone", score=None, label="kind", passed=None),
        ]
        async with store.ledger("run-1", lease=lease) as ledger:
            await ledger.load("c")
            assert ledger.rollouts.get(row.key) is None
            await asyncio.gather(
                ledger.put_rollout(row),
                ledger.put_rollout(failed),
                ledger.put_scores(row.key, "e", judged),
                ledger.put_call("k", "proposal", ODD_JSON, Usage(calls=1, output_tokens=9)),
            )
        async with store.ledger("run-1", lease=lease) as resumed:
            await resumed.load("c")
            assert resumed.rollouts.get(row.key) == row
            assert resumed.rollouts.get("rollout-1") == replace(failed, usage=Usage(rollouts=1))
            assert resumed.scores.get((row.key, "e")) == judged
            assert resumed.scores.get((row.key, "other")) is None
            assert await resumed.call("k") == ODD_JSON
            assert await resumed.call("other") is None
            assert (
                await resumed.usage()
                == await store.runs.usage("run-1")
                == Usage(rollouts=3, calls=5, input_tokens=17, output_tokens=14, cost=0.75)
            )

    async def test_rows_of_a_group_come_back_whatever_they_have_in_common(
        self, store: Store
    ) -> None:
        lease = await leased_run(store)
        alike = [rollout(n) for n in range(20)]
        mixed = [
            rollout(20, output={}, failure={"kind": "exception", "reason": "x"}),
            *(rollout(n, output=n, usage=Usage(calls=1, cost=None)) for n in range(21, 40)),
        ]
        said: dict[str, ScoreRow] = {}
        async with store.ledger("run-1", lease=lease) as ledger:
            for rows, passed in ((alike, (True, True)), (mixed, (False, True))):
                for n, row in enumerate(rows):
                    said[row.key] = score(row.key, score=float(passed[n % 2]), passed=passed[n % 2])
                    ledger.put_rollout(row)
                    ledger.put_scores(row.key, "e", [said[row.key]])
                await ledger.flush()
        async with store.ledger("run-1", lease=lease) as ledger:
            await ledger.load("c")
            for row in (*alike, *mixed):
                paid = replace(row.usage, rollouts=1)
                assert ledger.rollouts[row.key] == replace(row, usage=paid)
                (found,) = ledger.scores[row.key, "e"]
                assert found == said[row.key]
                assert (type(found.score), type(found.passed)) == (float, bool)

    async def test_a_known_key_stays_as_it_is_and_is_paid_once(self, store: Store) -> None:
        lease = await leased_run(store)
        async with store.ledger("run-1", lease=lease) as ledger:
            for output in ("first", "second"):
                await ledger.put_rollout(rollout(output=output))
                await ledger.put_scores("rollout-0", "e", [score(reason=output)])
                await ledger.put_call("k", "judge", {"text": output}, Usage(calls=1))
            assert ledger.rollouts.get("rollout-0") == rollout(
                output="first", usage=Usage(rollouts=1)
            )
        async with store.ledger("run-1", lease=lease) as ledger:
            await ledger.load("c")
            found = ledger.rollouts.get("rollout-0")
            assert found is not None
            assert found.output == "first"
            assert await ledger.call("k") == {"text": "first"}
            assert await ledger.usage() == Usage(rollouts=1, calls=1)

    async def test_an_unknown_price_makes_the_total_unknown(self, store: Store) -> None:
        lease = await leased_run(store)
        async with store.ledger("run-1", lease=lease) as ledger:
            await ledger.put_rollout(rollout(usage=Usage(calls=1, cost=None)))
            await ledger.put_rollout(rollout(1, usage=Usage(calls=1, cost=1.0)))
            assert await ledger.usage() == Usage(rollouts=2, calls=2, cost=None)

    async def test_rows_of_another_run_are_reused_on_request_at_no_cost(self, store: Store) -> None:
        lease = await leased_run(store)
        async with store.ledger("run-1", lease=lease) as ledger:
            await ledger.put_rollout(rollout(output="paid", usage=Usage(calls=1), attempts=3))
            await ledger.put_scores("rollout-0", "e", [score(usage=Usage(calls=1))])
            await ledger.put_call("k", "judge", {"text": "paid"}, Usage(calls=1))
        other = await leased_run(store, "run-2")
        async with store.ledger("run-2", lease=other) as ledger:
            await ledger.load("c")
            assert ledger.rollouts.get("rollout-0") is None
            assert await ledger.call("k") is None
        async with store.ledger("run-2", lease=other, reuse="run-1") as ledger:
            await ledger.load("c")
            row, rows = ledger.rollouts.get("rollout-0"), ledger.scores.get(("rollout-0", "e"))
            assert row is not None
            assert rows is not None
            assert row.reused
            assert rows[0].reused
            await ledger.put_rollout(row)
            await ledger.put_scores("rollout-0", "e", rows)
            assert await ledger.call("k") == {"text": "paid"}
            assert await ledger.usage() == Usage()
        async with store.ledger("run-2", lease=other) as ledger:
            await ledger.load("c")
            own = ledger.rollouts.get("rollout-0")
            assert own is not None
            assert (own.output, own.reused, own.usage) == ("paid", False, Usage())
            assert await ledger.call("k") == {"text": "paid"}

    async def test_a_lost_lease_stops_every_write(self, store: Store) -> None:
        lease = await leased_run(store)
        async with store.ledger("run-1", lease=lease) as ledger:
            await ledger.put_rollout(rollout(0))
            host, pid, _ = lease.owner.rsplit(":", 2)
            await store.runs.release(lease)
            taken = await store.runs.acquire("run-1", owner=f"{host}:{pid}:another")
            waiting = [ledger.put_rollout(rollout(1)), ledger.put_rollout(rollout(2))]
            for future in waiting:
                with refused(LeaseLost, "run-1"):
                    await future
            with refused(LeaseLost):
                ledger.put_call("k", "judge", {}, Usage())
        async with store.ledger("run-1", lease=taken) as ledger:
            await ledger.load("c")
            assert ledger.rollouts.get("rollout-0") is not None
            assert ledger.rollouts.get("rollout-1") is None

    async def test_the_number_of_the_last_event_is_committed_with_the_rows(
        self, store: Store
    ) -> None:
        lease = await leased_run(store)
        numbers = iter([5, 9, 3])
        async with store.ledger("run-1", lease=lease, event_seq=lambda: next(numbers)) as ledger:
            for number in range(3):
                await ledger.put_rollout(rollout(number))
        await store.runs.release(lease)
        assert (await store.runs.get("run-1")).event_seq == 9
        assert (await store.runs.acquire("run-1")).event_seq == 9

    async def test_texts_that_a_database_refuses_do_not_stop_the_ledger(self, store: Store) -> None:
        lease = await leased_run(store)
        async with store.ledger("run-1", lease=lease) as ledger:
            bad = "a\x00b\ud800c"
            await ledger.put_rollout(rollout(tape={"steps": [bad], bad: "\\u0000"}))
            await ledger.put_scores("rollout-0", "e", [score(reason=bad, label=bad)])
            with refused(BadInput, "JSON"):
                ledger.put_rollout(rollout(1, output=float("nan")))
            with refused(BadInput, "at least one"):
                ledger.put_scores("rollout-0", "f", [])
            await ledger.put_rollout(rollout(2))
        rows = await store.runs.case_rows("run-1")
        assert [row.rollout.key for row in rows] == ["rollout-0", "rollout-2"]
        tape = rows[0].rollout.tape
        assert tape is not None
        assert "\\u0000" in tape.values()
        assert "\x00" not in str(tape)

    async def test_case_rows_filter_and_page(self, store: Store) -> None:
        lease = await leased_run(store)
        async with store.ledger("run-1", lease=lease) as ledger:
            for number in range(6):
                failure = {"kind": "exception", "reason": "boom"} if number == 0 else None
                phase = "holdout" if number == 5 else "train"
                ledger.put_rollout(rollout(number, failure=failure, phase=phase))
            broken = {"kind": "timeout", "reason": "slow"}
            ledger.put_scores("rollout-1", "e", [score("rollout-1", score=None, failure=broken)])
            rows = [score("rollout-2"), score("rollout-2", "tone")]
            await ledger.put_scores("rollout-2", "e", rows)

        async def found(**filters: Any) -> list[str]:
            rows = await store.runs.case_rows("run-1", **filters)
            return [row.rollout.key.removeprefix("rollout-") for row in rows]

        assert await found() == ["0", "1", "2", "3", "4", "5"]
        assert await found(limit=2, offset=3) == ["3", "4"]
        assert await found(failed=True) == ["0", "1"]
        assert await found(failed=False, phase="train") == ["2", "3", "4"]
        assert await found(phase="holdout") == ["5"]
        assert await found(case_ids=["case-3", "nope"]) == ["3"]
        assert await found(candidate_hash="other") == []
        (case,) = await store.runs.case_rows("run-1", case_ids=["case-2"], evaluator="tone")
        assert [row.name for row in case.scores] == ["tone"]


class RunConformance:
    """Runs and leases."""

    async def test_a_run_is_created_once_for_its_job(self, store: Store) -> None:
        run = await store.runs.create(run_record(job=ODD_JSON, config=ODD_JSON, seed=7))
        assert await store.runs.create(run_record()) == run
        assert await store.runs.get("run-1") == run
        with refused(RunMismatch, "run-1", "another job"):
            await store.runs.create(run_record(job_hash="other"))

    async def test_update_changes_only_what_may_change(self, store: Store) -> None:
        await store.runs.create(run_record())
        changed = await store.runs.update("run-1", status="failed", error="bad\x00 \ud800 text")
        assert changed == await store.runs.get("run-1")
        assert changed.error == "bad\ufffd \ufffd text"
        wrong: list[dict[str, Any]] = [{"run_id": "x"}, {"job_hash": "x"}, {"nonsense": "x"}]
        for fields in wrong:
            with refused(BadInput, *fields):
                await store.runs.update("run-1", **fields)
        with refused(NotFound, "'run-2'", "run-1"):
            await store.runs.update("run-2", status="failed")

    async def test_list_filters_and_pages(self, store: Store) -> None:
        for number in range(4):
            await store.runs.create(run_record(f"run-{number}", workflow_id=f"w{number % 2}"))
        await store.runs.update("run-3", status="finished")
        assert {run.run_id for run in await store.runs.list(workflow_id="w1")} == {"run-1", "run-3"}
        assert [run.run_id for run in await store.runs.list(status="finished")] == ["run-3"]
        assert len(await store.runs.list(limit=3)) == 3

    async def test_a_second_holder_is_turned_away_until_the_lease_is_given_back(
        self, store: Store
    ) -> None:
        lease = await leased_run(store)
        with refused(RunAlreadyActive, "run-1", lease.owner, " s "):
            await store.runs.acquire("run-1", owner="elsewhere:1:x")
        await store.runs.release(lease)
        again = await store.runs.acquire("run-1", owner="elsewhere:1:x")
        assert again.token > lease.token

    async def test_one_of_many_concurrent_holders_gets_the_lease(self, store: Store) -> None:
        await store.runs.create(run_record())
        results = await asyncio.gather(
            *(store.runs.acquire("run-1", owner=f"elsewhere:{n}:x") for n in range(8)),
            return_exceptions=True,
        )
        assert sum(isinstance(result, Lease) for result in results) == 1
        assert sum(isinstance(result, RunAlreadyActive) for result in results) == 7

    async def test_a_dead_process_of_this_host_loses_its_lease(self, store: Store) -> None:
        await store.runs.create(run_record())
        host, pid, _ = process_owner().rsplit(":", 2)
        for dead in (f"{host}:{2**22 + 1}:x", f"{host}:{pid}:of-an-earlier-process"):
            first = await store.runs.acquire("run-1", owner=dead)
            taken = await store.runs.acquire("run-1")
            assert taken.token == first.token + 1
            await store.runs.release(taken)
        alive = await store.runs.acquire("run-1", owner=f"{socket.gethostname()}x:{pid}:x")
        with refused(RunAlreadyActive):
            await store.runs.acquire("run-1")
        assert alive.owner
        with refused(NotFound, "nowhere"):
            await store.runs.acquire("nowhere")

    async def test_an_expired_lease_can_be_taken(self, store: Store) -> None:
        await store.runs.create(run_record())
        first = await store.runs.acquire("run-1", owner="elsewhere:1:x", ttl=-1)
        second = await store.runs.acquire("run-1", owner=f"elsewhere:{os.getpid()}:y")
        assert second.token == first.token + 1
        with refused(LeaseLost, "run-1"):
            await store.runs.update("run-1", lease=first, status="failed")
        with refused(LeaseLost):
            await new_version(store, lease=first)
        with refused(LeaseLost):
            await store.training.save_change("run-1", 1, {}, lease=first)
        await store.runs.release(first)
        await store.runs.update("run-1", lease=second, status="failed")


class SideDataConformance:
    """Datasets, workflows, training state, checkpointer."""

    async def test_a_dataset_version_is_stored_once_with_its_cases_in_order(
        self, store: Store
    ) -> None:
        cases = [{"id": f"c{n}", "inputs": ODD_JSON, "split": "train"} for n in (3, 1, 2)]
        saved = await store.datasets.save(
            "tickets", "v1", metadata={"rubric": "r"}, counts={"train": 3}, cases=cases
        )
        again = await store.datasets.save(
            "tickets", "v1", metadata={"rubric": "r"}, counts={}, cases=[]
        )
        assert again == saved
        assert await store.datasets.load("tickets", "v1") == ({"rubric": "r"}, cases)
        assert await store.datasets.load("tickets") == ({"rubric": "r"}, cases)
        assert [record.version for record in await store.datasets.list()] == ["v1"]
        with refused(NotFound, "'v2'", "v1"):
            await store.datasets.load("tickets", "v2")
        with refused(NotFound, "'nothing'", "tickets"):
            await store.datasets.load("nothing")

    async def test_a_dataset_is_whole_when_its_transaction_was_made_again(
        self, store: Store
    ) -> None:
        asked: list[str] = []

        def to_json(case: dict[str, Any]) -> dict[str, Any]:
            asked.append(case["id"])
            if len(asked) == 2:
                busy = sqlite3.OperationalError("database is locked")
                busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise busy
            return case

        cases = [{"id": one} for one in "abc"]
        await store.datasets.save("d", "v", metadata={}, counts={}, cases=cases, to_json=to_json)
        assert asked == [*"ab", *"abc"]
        assert await store.datasets.load("d") == ({}, cases)

    async def test_the_metadata_of_a_dataset_have_versions_of_their_own(self, store: Store) -> None:
        save = store.datasets.save
        first = await save("d", "v1", metadata={"rubric": "v1"}, counts={}, cases=[{"id": "c"}])
        second = await save("d", "v1", metadata={"rubric": "v2"}, counts={}, cases=[{"id": "c"}])
        assert first.version == second.version
        assert first.metadata_version != second.metadata_version
        assert await store.datasets.load("d") == ({"rubric": "v2"}, [{"id": "c"}])
        for one in (first, second):
            assert await store.datasets.get("d", "v1", one.metadata_version) == one
        assert await store.datasets.list("d") == [second, first]
        place = (second.created_at, "d", "v1", second.metadata_version)
        assert await store.datasets.list("d", after=place) == [first]
        with refused(NotFound, "no metadata 'v3'", first.metadata_version):
            await store.datasets.get("d", "v1", "v3")

    async def test_runs_and_their_datasets_are_seen_by_who_submitted_them(
        self, store: Store
    ) -> None:
        for run_id, workflow, identity in (
            ("anas", "shared", "ana"),
            ("anybodys", "shared", None),
            ("of-anas", "owned", None),
        ):
            run = run_record(
                run_id,
                workflow_id=workflow,
                dataset_id=run_id,
                dataset_version="v1",
                dataset_metadata_version=content_hash({}),
                refs={"identity": identity} if identity else {},
            )
            await store.runs.create(run)
            await store.datasets.save(run_id, "v1", metadata={}, counts={}, cases=[])
        await store.workflows.set_owner("owned", "ana")
        for who, seen in (("ana", {"anas", "anybodys", "of-anas"}), ("ben", {"anybodys"})):
            assert {run.run_id for run in await store.runs.list(hidden_from=who)} == seen
            assert {one.dataset_id for one in await store.datasets.list(seen_by=who)} == seen

    async def test_workflow_defaults_are_versioned(self, store: Store) -> None:
        assert await store.workflows.get("support") is None
        assert await store.workflows.defaults("support") == {}
        await store.workflows.set_defaults("support", {"tags": ["a"]}, actor="ada")
        await store.workflows.set_defaults("support", {"tags": ["a"]}, actor="ada")
        await store.workflows.set_defaults("support", {"tags": ["b"]}, actor="ada")
        await store.workflows.set_flags("support", {"agent_trainer_enabled": True, "phase": "dev"})
        await store.workflows.set_flags("support", {"phase": None})
        record = await store.workflows.set_owner("support", "team")
        assert record == await store.workflows.get("support")
        assert (record.default_version, record.owner) == (2, "team")
        assert record.default_config == {"tags": ["b"]}
        assert record.feature_flags == {"agent_trainer_enabled": True}
        assert await store.workflows.defaults("support", 1) == {"tags": ["a"]}
        assert [w.workflow_id for w in await store.workflows.list()] == ["support"]

    async def test_training_state_survives(self, store: Store) -> None:
        training = store.training
        assert await training.changes("run-1") == {}
        for candidate in ("b", "a"):
            await training.save_candidate(
                "run-1", candidate, prompts={"p": "x"}, parents=[], status="proposed"
            )
        await training.save_candidate(
            "run-1", "b", prompts={}, parents=[], status="accepted", info={"score": 1}
        )
        found = await training.candidates("run-1")
        assert [(c.candidate_hash, c.position, c.status) for c in found] == [
            ("b", 0, "accepted"),
            ("a", 1, "proposed"),
        ]
        assert found[0].prompts == {"p": "x"}
        assert await training.candidates("run-1", status="accepted") == found[:1]
        for step in (10, 2, 3):
            await training.save_change("run-1", step, {"step": step})
        await training.save_change("run-1", 3, ODD_JSON)
        changed = await training.changes("run-1")
        assert list(changed.items()) == [(2, {"step": 2}), (3, ODD_JSON), (10, {"step": 10})]

    async def test_the_checkpointer_keeps_graph_state(self, store: Store) -> None:
        from langgraph.graph import START, StateGraph

        from orcheo_agentensor.prompts import TextTensor

        graph: Any = StateGraph(dict)
        graph.add_node("write", lambda _: {"prompt": TextTensor("Be brief.")})
        graph.add_edge(START, "write")
        config: Any = {"configurable": {"thread_id": "t"}}
        async with store.checkpointer() as saver:
            await graph.compile(checkpointer=saver).ainvoke({"prompt": None}, config)
        async with store.checkpointer() as saver:
            state = await graph.compile(checkpointer=saver).aget_state(config)
        assert state.values["prompt"] == TextTensor("Be brief.")


class CheckpointConformance:
    """Versions."""

    async def test_versions_count_from_one_in_each_workflow(self, store: Store) -> None:
        numbers = [(await new_version(store, n)).config_version for n in range(3)]
        other = await new_version(store, 0, workflow_id="other")
        assert (numbers, other.config_version) == ([1, 2, 3], 1)
        assert await store.checkpoints.list_workflows() == ["other", "support"]

    async def test_a_version_comes_back_as_it_was_saved(self, store: Store) -> None:
        saved = await new_version(
            store,
            runnable_config={"configurable": {"prompts": {"triage": "Be brief."}, **ODD_JSON}},
            metrics={"objective": 1 / 3, "complete": True, "by_evaluator": {"exact": 0.1}},
            metadata=ODD_JSON,
            parent_version=None,
            run_id="run-1",
            artifact_url="https://example.org/a",
        )
        assert await store.checkpoints.get("support", 1) == saved
        assert await store.checkpoints.get("support", "1") == saved
        assert await store.checkpoints.get("support", "latest") == saved
        assert saved.prompts["triage"].text == "Be brief."

    async def test_saving_again_gives_the_version_that_is_there(self, store: Store) -> None:
        first = await new_version(store, run_id="run-1")
        assert await new_version(store, run_id="run-1", metrics={"objective": 0.9}) == first
        others: list[dict[str, Any]] = [
            {"run_id": "run-2"},
            {"run_id": "run-1", "dataset_version": "d2"},
            {"run_id": "run-1", "evaluator_set": "e2"},
        ]
        for fields in others:
            assert (await new_version(store, **fields)).id != first.id

    async def test_concurrent_saves_get_numbers_without_gaps(self, store: Store) -> None:
        saved = await asyncio.gather(*(new_version(store, n) for n in range(20)))
        assert sorted(version.config_version for version in saved) == list(range(1, 21))
        assert await store.aliases.resolve("support", "latest") == 20

    async def test_list_shows_pages_newest_first(self, store: Store) -> None:
        for number in range(5):
            await new_version(store, number, run_id=f"run-{number % 2}")
        page = await store.checkpoints.list("support", limit=2, offset=1)
        assert [version.config_version for version in page] == [4, 3]
        of_run = await store.checkpoints.list("support", run_id="run-1")
        assert [version.config_version for version in of_run] == [4, 2]

    async def test_an_unknown_version_lists_what_exists(self, store: Store) -> None:
        await new_version(store)
        with refused(NotFound, "'support' has no version 7", "versions: 1", "best, latest"):
            await store.checkpoints.get("support", 7)
        with refused(NotFound, "'production'", "versions: 1", "best, latest"):
            await store.checkpoints.get("support", "production")
        with refused(NotFound, "'nobody'", "support"):
            await store.checkpoints.get("nobody", 1)


class AliasConformance:
    """Aliases."""

    async def test_best_is_the_highest_complete_objective_and_the_earliest_of_equals(
        self, store: Store
    ) -> None:
        best = []
        for number, metrics in enumerate(
            [
                {"objective": 0.5, "complete": True},
                {"objective": 0.9, "complete": False},
                {"objective": 0.7, "complete": True},
                {"objective": 0.7, "complete": True},
                {"objective": 0.6},
                {"note": "no objective"},
                {"objective": 0.8},
            ]
        ):
            await new_version(store, number, metrics=metrics)
            best.append(await store.aliases.resolve("support", "best"))
        assert best == [1, 1, 3, 3, 3, 3, 7]
        assert await store.aliases.list("support") == {"best": 7, "latest": 7}

    async def test_best_compares_only_what_was_measured_alike(self, store: Store) -> None:
        await new_version(store, 1, metrics={"objective": 0.9})
        await new_version(store, 2, metrics={"objective": 0.2}, dataset_version="d2")
        assert await store.aliases.resolve("support", "best") == 2
        incomplete = {"objective": 1.0, "complete": False}
        await new_version(store, 3, metrics=incomplete, dataset_version="d3")
        assert await store.aliases.resolve("support", "best") == 2

    async def test_a_move_swaps_only_from_what_was_expected(self, store: Store) -> None:
        for number in range(3):
            await new_version(store, number)
        move = store.aliases.move
        by: dict[str, Any] = {"actor": "ada", "reason": "proved"}
        await move("support", "production", to=1, expect=None, **by)
        with refused(AliasConflict, "version 1", "no version"):
            await move("support", "production", to=2, expect=None, **by)
        with refused(AliasConflict, "version 1", "version 3"):
            await move("support", "production", to=2, expect=3, **by)
        moved = await move("support", "production", to=2, expect=1, **by)
        assert (moved.from_version, moved.to_version, moved.actor) == (1, 2, "ada")
        assert await store.aliases.resolve("support", "production") == 2

    async def test_one_of_many_concurrent_swaps_wins(self, store: Store) -> None:
        for number in range(8):
            await new_version(store, number)
        results = await asyncio.gather(
            *(
                store.aliases.move(
                    "support", "production", to=number, expect=None, actor="a", reason="r"
                )
                for number in range(1, 9)
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(result, AliasConflict) for result in results) == 7
        assert len(await store.aliases.log("support", "production")) == 1

    async def test_rollbacks_undo_one_move_after_the_other(self, store: Store) -> None:
        for number in range(3):
            await new_version(store, number)
        for to in (1, 2, 3):
            await store.aliases.move("support", "production", to=to, actor="ada", reason=f"to {to}")
        back: dict[str, Any] = {"actor": "bob", "reason": "complaints"}
        first = await store.aliases.rollback("support", "production", **back)
        second = await store.aliases.rollback("support", "production", **back)
        assert [(m.from_version, m.to_version) for m in (first, second)] == [(3, 2), (2, 1)]
        gone = await store.aliases.rollback("support", "production", **back)
        assert (gone.from_version, gone.to_version) == (1, None)
        assert await store.aliases.resolve("support", "production") is None
        with refused(NotFound, "no alias 'production'"):
            await store.aliases.rollback("support", "production", **back)
        log = await store.aliases.log("support", "production")
        assert [(m.kind, m.from_version, m.to_version, m.actor) for m in log] == [
            ("rollback", 1, None, "bob"),
            ("rollback", 2, 1, "bob"),
            ("rollback", 3, 2, "bob"),
            ("move", 2, 3, "ada"),
            ("move", 1, 2, "ada"),
            ("move", None, 1, "ada"),
        ]

    async def test_the_first_rollback_goes_to_the_baseline_of_the_training(
        self, store: Store
    ) -> None:
        await leased_run(store, "run-1")
        for number in range(3):
            await new_version(store, number, run_id="run-1" if number else None)
        move: dict[str, Any] = {"actor": "ada", "reason": "r"}
        await store.aliases.move("support", "production", to=3, **move)
        back = await store.aliases.rollback("support", "production", **move)
        assert (back.from_version, back.to_version) == (3, 2)
        with refused(BadInput, "nothing before it"):
            await store.aliases.rollback("support", "production", **move)
        await store.aliases.move("support", "production", to=1, **move)
        back = await store.aliases.rollback("support", "production", **move)
        assert (back.from_version, back.to_version) == (1, 2)

    async def test_latest_and_best_do_not_move_by_hand(self, store: Store) -> None:
        await new_version(store)
        for alias in ("latest", "best", "12", "", "Prod", "a b", "x" * 65):
            with refused(BadInput, "alias"):
                await store.aliases.move("support", alias, to=1, actor="a", reason="r")
            with refused(BadInput, "alias"):
                await store.aliases.rollback("support", alias, actor="a", reason="r")

    async def test_an_unknown_version_or_alias_lists_what_exists(self, store: Store) -> None:
        await new_version(store)
        with refused(NotFound, "version 9", "versions: 1"):
            await store.aliases.move("support", "production", to=9, actor="a", reason="r")
        with refused(NotFound, "'production'", "best, latest"):
            await store.aliases.rollback("support", "production", actor="a", reason="r")
        assert await store.aliases.resolve("support", "production") is None


#     class TestMyStore(StoreConformance):
#         @pytest.fixture
#         async def store(self):
#             async with Store.from_url(...) as store:
#                 yield store
#
# Each test uses a fresh, empty store. The tests are coroutines: run them with pytest-asyncio.


__all__ = [
    "ODD_JSON",
    "AliasConformance",
    "CheckpointConformance",
    "LedgerConformance",
    "RunConformance",
    "SideDataConformance",
    "StoreConformance",
    "leased_run",
    "new_version",
    "refused",
    "rollout",
    "run_record",
    "score",
]


class StoreConformance(
    CheckpointConformance, AliasConformance, RunConformance, LedgerConformance, SideDataConformance
):
    """Everything a store must do."""
