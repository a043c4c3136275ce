"""What a store must do with the ledger of a run."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from orcheo_agentensor.errors import (
    BadInput,
    LeaseLost,
)
from orcheo_agentensor.storage import (
    Store,
)
from orcheo_agentensor.testing.store_conformance.builders import (
    ODD_JSON,
    leased_run,
    refused,
    rollout,
    score,
)
from orcheo_agentensor.usage import Usage


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
            assert ledger.rollout(row.key) is None
            await asyncio.gather(
                ledger.put_rollout(row),
                ledger.put_rollout(failed),
                ledger.put_scores(row.key, "e", judged),
                ledger.put_call("k", "proposal", ODD_JSON, Usage(calls=1, output_tokens=9)),
            )
        async with store.ledger("run-1", lease=lease) as resumed:
            await resumed.load("c")
            assert resumed.rollout(row.key) == row
            assert resumed.rollout("rollout-1") == replace(failed, usage=Usage(rollouts=1))
            assert resumed.score(row.key, "e") == judged
            assert resumed.score(row.key, "other") is None
            assert await resumed.call("k") == ODD_JSON
            assert await resumed.call("other") is None
            assert (
                await resumed.usage()
                == await store.runs.usage("run-1")
                == Usage(rollouts=3, calls=5, input_tokens=17, output_tokens=14, cost=0.75)
            )

    async def test_a_known_key_stays_as_it_is_and_is_paid_once(self, store: Store) -> None:
        lease = await leased_run(store)
        async with store.ledger("run-1", lease=lease) as ledger:
            for output in ("first", "second"):
                await ledger.put_rollout(rollout(output=output))
                await ledger.put_scores("rollout-0", "e", [score(reason=output)])
                await ledger.put_call("k", "judge", {"text": output}, Usage(calls=1))
            assert ledger.rollout("rollout-0") == rollout(output="first", usage=Usage(rollouts=1))
        async with store.ledger("run-1", lease=lease) as ledger:
            await ledger.load("c")
            found = ledger.rollout("rollout-0")
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
            assert ledger.rollout("rollout-0") is None
            assert await ledger.call("k") is None
        async with store.ledger("run-2", lease=other, reuse="run-1") as ledger:
            await ledger.load("c")
            row, rows = ledger.rollout("rollout-0"), ledger.score("rollout-0", "e")
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
            own = ledger.rollout("rollout-0")
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
            assert ledger.rollout("rollout-0") is not None
            assert ledger.rollout("rollout-1") is None

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
