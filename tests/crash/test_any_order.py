"""Runs, kills, resumes, promotions, rollbacks, publications and deletions in any order, against a
plain model of what must hold.

Every kill is one: a run works in a copy of this process, which ends itself at its n-th call.
`AGENTENSOR_EXAMPLES=500` is how many orders are tried.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import hypothesis.strategies as st
from hypothesis import Phase, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from store_conformance import new_version

from orcheo_agentensor import Limits, aevaluate
from orcheo_agentensor.errors import AliasConflict, BadInput, NotFound
from orcheo_agentensor.storage import Store

T = TypeVar("T")
CASES = [{"id": f"c{n}", "inputs": n, "expected_output": n} for n in range(6)]
ALIASES = st.sampled_from(["production", "assistant.triage"])  # a publication moves one as well


class Anything(RuleBasedStateMachine):
    """The store's users, one after the other; each opens it anew."""

    unfinished = Bundle("unfinished")
    finished = Bundle("finished")
    versions = Bundle("versions")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="agentensor-any-order-"))
        self.url = f"sqlite:///{self.folder / 'a.db'}"
        self.runs: dict[str, str] = {}  # -> its status
        self.paid: dict[str, set[str]] = {}  # -> the cases that were recorded when it was killed
        self.made_by: dict[int, str] = {}  # version -> run
        self.stacks: dict[str, list[int | None]] = {}  # alias -> where it points, and did before
        self.moved: set[int] = set()
        self.begun = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def on_store(self, work: Callable[[Store], Awaitable[T]], *, days: int = 0) -> T:
        """Use the store as another process does, so many days later."""

        def clock() -> datetime:
            return datetime.now(UTC) + timedelta(days=days)

        async def opened() -> T:
            async with Store.from_url(self.url, clock=clock) as store:
                return await work(store)

        return asyncio.run(opened())

    def calls(self, run_id: str) -> list[str]:
        log = self.folder / run_id
        return log.read_text().split() if log.exists() else []

    def work_on(self, run_id: str, *, dies_at: int | None) -> None:
        """Evaluate in a copy of this process, which may end at one of its calls."""
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(self._evaluated(run_id, dies_at))
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status)
        assert killed or os.WEXITSTATUS(status) == 0
        self.runs[run_id] = "interrupted" if killed else "finished"

    async def _evaluated(self, run_id: str, dies_at: int | None) -> None:
        count = 0

        async def target(inputs: int) -> int:
            nonlocal count
            count += 1
            with (self.folder / run_id).open("a") as log:
                log.write(f"c{inputs}\n")
            if count == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            await asyncio.sleep(0)
            return inputs

        async with Store.from_url(self.url) as store:
            report = await aevaluate(
                target,
                dataset=CASES,
                evaluators=["exact_match"],
                limits=Limits(concurrency=2),
                store=store,
                run_id=run_id,
                workflow_id="support",
            )
            assert (report.coverage, report.objective) == (1.0, 1.0)

    def recorded(self, run_id: str) -> set[str]:
        rows = self.on_store(lambda store: store.runs.case_rows(run_id, limit=None))
        return {row.rollout.case_id for row in rows}

    @rule(target=unfinished, dies_at=st.integers(1, len(CASES)))
    def start_and_kill(self, dies_at: int) -> str:
        run_id, self.begun = f"r{self.begun}", self.begun + 1
        self.work_on(run_id, dies_at=dies_at)
        self.paid[run_id] = self.recorded(run_id)
        return run_id

    @rule(target=finished)
    def start(self) -> str:
        run_id, self.begun = f"r{self.begun}", self.begun + 1
        self.work_on(run_id, dies_at=None)
        assert sorted(self.calls(run_id)) == [case["id"] for case in CASES]
        return run_id

    @rule(target=finished, run_id=consumes(unfinished), dies_at=st.integers(1, len(CASES)))
    def kill_again_and_resume(self, run_id: str, dies_at: int) -> Any:
        if run_id not in self.runs:
            return multiple()
        before = len(self.calls(run_id))
        self.work_on(run_id, dies_at=dies_at)
        self.work_on(run_id, dies_at=None)
        assert not self.paid[run_id] & set(self.calls(run_id)[before:])
        assert self.recorded(run_id) == {case["id"] for case in CASES}
        return run_id

    @rule(target=versions, run_id=finished)
    def save(self, run_id: str) -> Any:
        if run_id not in self.runs:
            return multiple()
        number = max(self.made_by, default=0) + 1
        saved = self.on_store(lambda store: new_version(store, self.begun + number, run_id=run_id))
        self.made_by.setdefault(saved.config_version, run_id)
        return saved.config_version

    @rule(alias=ALIASES, version=versions, stale=st.booleans())
    def promote(self, alias: str, version: int, stale: bool) -> None:
        stack = self.stacks.setdefault(alias, [None])
        expect = 10_000 if stale else stack[-1]

        async def move(store: Store) -> None:
            told: dict[str, Any] = {"to": version, "actor": "ann", "reason": "r", "expect": expect}
            await store.aliases.move("support", alias, **told)

        try:
            self.on_store(move)
        except AliasConflict:
            assert stale
        except NotFound:
            assert version not in self.made_by
        else:
            stack.append(version)
            self.moved.add(version)

    @rule(alias=ALIASES)
    def roll_back(self, alias: str) -> None:
        stack = self.stacks.setdefault(alias, [None])

        async def rollback(store: Store) -> None:
            told: dict[str, Any] = {"actor": "ann", "reason": "r", "to_baseline": False}
            await store.aliases.rollback("support", alias, **told)

        try:
            self.on_store(rollback)
        except (NotFound, BadInput):
            assert len(stack) == 1
        else:
            stack.pop()

    @rule()
    def delete(self) -> None:
        async def pruned(store: Store) -> tuple[set[int], set[str]]:
            used = {*self.moved, *(await store.aliases.list("support")).values()}
            await store.maintenance.prune(datetime.now(UTC) + timedelta(days=1))
            return used, {run.run_id for run in await store.runs.list(limit=None)}

        used, left = self.on_store(pruned, days=1)
        self.made_by = {version: run for version, run in self.made_by.items() if version in used}
        proofs = {*self.made_by.values()}
        unfinished = {run for run, status in self.runs.items() if status != "finished"}
        assert proofs | unfinished <= left <= set(self.runs)
        assert len(left - proofs - unfinished) <= len(proofs)  # the last evaluation of each
        self.runs = {run: self.runs[run] for run in left}

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        async def told(store: Store) -> Any:
            aliases = await store.aliases.list("support")
            listed = await store.checkpoints.list("support", limit=None)
            runs = await store.runs.list(limit=None)
            return (
                {alias: aliases.get(alias) for alias in self.stacks},
                {version.config_version for version in listed},
                {run.run_id for run in runs},
                {run.run_id for run in runs if run.status == "finished"},
                json.dumps(await store.maintenance.check()),
            )

        assert self.on_store(told) == (
            {alias: stack[-1] for alias, stack in self.stacks.items()},
            set(self.made_by),
            set(self.runs),
            {run for run, status in self.runs.items() if status == "finished"},
            "[]",
        )


TestAnything = Anything.TestCase
TestAnything.settings = settings(
    max_examples=int(os.environ.get("AGENTENSOR_EXAMPLES", "3")),
    stateful_step_count=10,
    phases=[Phase.generate],  # shrinking takes long
    deadline=None,
    derandomize=True,
)
