"""Trainings that are killed at random moments: `python kills.py URL KILLS SEED`.

Each training runs in a copy of this process, which has imported everything, and is killed up to
three times in a row before it may end. What its calls cost is counted in a file that the copies
append to. One line of JSON says what came of all.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
from rule_task import NAMES, PROMPTS, Target, Teacher, dataset, done, outcome_of

from orcheo_agentensor import Budget, Limits, Reflective, atrain
from orcheo_agentensor.storage import Store

CONCURRENCY = 4
MOST_IN_A_ROW = 3


class Counted:
    """The calls that are paid for, one per line of a file."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._path = path
        self._file = os.open(path, os.O_APPEND | os.O_WRONLY)

    def note(self, *what: str) -> None:
        os.write(self._file, ("\t".join(what) + "\n").encode())

    def lines(self) -> list[tuple[str, ...]]:
        return [tuple(line.split("\t")) for line in self._path.read_text().splitlines()]

    def count(self) -> int:
        return self._path.read_bytes().count(b"\n")


async def training(url: str, run_id: str, paid: Counted) -> Any:
    judged = Target()

    async def target(inputs: dict[str, Any], config: Any) -> Any:
        prompts = config["configurable"]["prompts"]
        paid.note("rollout", config["metadata"]["agentensor_candidate"], case_of(inputs))
        await asyncio.sleep(0.002)
        return judged.judge({name: prompts[name]["text"] for name in NAMES}, inputs["rule"])

    class Paid(Teacher):
        async def propose(self, request: Any) -> dict[str, str]:
            paid.note("proposal")
            await asyncio.sleep(0.002)
            return self.texts(request)

    async with Store.from_url(url) as store:
        result = await atrain(
            target,
            prompts=PROMPTS,
            dataset=dataset(train=12, validation=8, holdout=8),
            evaluators=[done],
            optimizer=Reflective(minibatch=4, proposer=Paid()),
            budget=Budget(rollouts=400),
            limits=Limits(concurrency=CONCURRENCY),
            promote="auto",
            store=store,
            run_id=run_id,
            workflow_id=run_id,
        )
        moved = [
            (entry.alias, entry.from_version, entry.to_version)
            for entry in await store.aliases.log(run_id)
        ]
        told = outcome_of(result)[:-1]  # what was lost counts as used
        return json.loads(json.dumps([told, sorted(moved, key=str)], default=str))


def case_of(inputs: dict[str, Any]) -> str:
    return f"{inputs['split']}-{inputs['i']}"


def copy_of_this_process(url: str, run_id: str, paid: Counted, told: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        time.perf_counter = lambda: 0.0  # how busy the machine is decides nothing
        told.write_text(json.dumps(asyncio.run(training(url, run_id, paid))))
        os._exit(0)
    except BaseException:  # noqa: BLE001 - told
        traceback.print_exc()
    finally:
        os._exit(1)


def recorded(url: str, run_id: str) -> tuple[Counter[tuple[str, ...]], int]:
    """The rollouts and the number of proposals that are in the ledger."""
    rollouts = "SELECT candidate_hash, case_id FROM agentensor_rollouts WHERE run_id = {}"
    calls = "SELECT count(*) FROM agentensor_calls WHERE run_id = {} AND kind = 'proposal'"
    if url.startswith("sqlite"):
        if not (path := Path(url.removeprefix("sqlite:///"))).exists():
            return Counter(), 0
        connection: Any = sqlite3.connect(path, timeout=60)
        place = "?"
    else:
        connection = psycopg.connect(url, autocommit=True)
        place = "%s"
        others = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        while connection.execute(others).fetchone()[0]:  # of the dead process, at its last commit
            time.sleep(0.005)
    try:
        found = connection.execute(rollouts.format(place), (run_id,)).fetchall()
        (proposals,) = connection.execute(calls.format(place), (run_id,)).fetchone()
    except (sqlite3.OperationalError, psycopg.errors.UndefinedTable):  # before there were tables
        return Counter(), 0
    finally:
        connection.close()
    return Counter(tuple(row) for row in found), proposals


def sequence(url: str, run_id: str, chance: random.Random, most: int, length: int) -> Any:
    """One training with up to `most` kills: its outcome, and what the kills have cost."""
    with tempfile.TemporaryDirectory() as folder:
        paid, told = Counted(Path(folder) / "paid"), Path(folder) / "told"
        kills = lost = repeated = most_lost = 0
        done_before: Counter[tuple[str, ...]] = Counter()
        proposals_before = 0
        for number in range(most + 1):
            start = paid.count()
            pid = copy_of_this_process(url, run_id, paid, told)
            until = start + chance.randint(0, length) if number < most else sys.maxsize
            delay = chance.random() * 0.02
            while os.waitpid(pid, os.WNOHANG)[0] == 0:
                if paid.count() >= until:
                    time.sleep(delay)
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    kills += 1
                    break
                time.sleep(0.001)
            since = paid.lines()[start:]
            called = Counter(line[1:] for line in since if line[0] == "rollout")
            asked = len(since) - called.total()
            repeated += sum((called & done_before).values())
            now, proposals = recorded(url, run_id)
            gone = called.total() - (now.total() - done_before.total())
            gone += asked - (proposals - proposals_before)
            lost, most_lost = lost + gone, max(most_lost, gone)
            done_before, proposals_before = now, proposals
            if told.exists():
                break
        outcome = json.loads(told.read_text())
        ended = done_before.total() + proposals_before
        return outcome, kills, repeated, lost, most_lost, ended, paid.count()


def main(url: str, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    undisturbed, *_, ended, paid = sequence(url, "undisturbed", chance, 0, 0)
    assert ended == paid
    found = Counter(kills=0, sequences=0, repeated=0, lost=0, most_lost=0, other_end=0, calls=0)
    while found["kills"] < kills:
        most = min(chance.randint(1, MOST_IN_A_ROW), kills - found["kills"])
        run_id = f"r{found['sequences']}"
        outcome, killed, repeated, lost, most_lost, ended, _ = sequence(
            url, run_id, chance, most, paid
        )
        same = json.dumps(outcome).replace(run_id, "undisturbed") == json.dumps(undisturbed)
        found["kills"] += killed
        found["sequences"] += 1
        found["repeated"] += repeated
        found["lost"] += lost
        found["most_lost"] = max(found["most_lost"], most_lost)
        found["other_end"] += not (same and ended == paid)
        found["calls"] += ended
        if not same:
            sys.stderr.write(f"{run_id}: {outcome}, not {undisturbed}\n")
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
