"""A real language model, SmolLM2-135M-Instruct on this machine: ours beside gepa.

Two tasks, both of which stood here before anything was measured on them: names as a register
writes them (those of `examples/local_model`), and titles as a catalogue sorts them. The model goes
on where the prompt and a case end, at temperature 0; a case is solved by exactly what is expected.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from gepa.api import optimize
from gepa.core.adapter import EvaluationBatch
from gepa.core.result import GEPAResult

from benchmarks.optimizers.peer import Quiet
from benchmarks.optimizers.results import NotHere, Plan, Result, Row
from orcheo_agentensor import Budget, Dataset, Limits, atrain, get_prompt
from orcheo_agentensor.datasets import Case
from orcheo_agentensor.evaluation.statistics import paired_difference
from orcheo_agentensor.optimizers.protocol import ProposalRequest
from orcheo_agentensor.prompts import FeedbackRecord

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "local_model"
PYTHON = ROOT / ".venv-llm" / "bin" / "python"
BUDGET = 120
SEEDS = 5
AT_ONCE = 2
NEW = 2
"""Worked examples that one proposal adds."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A task: cases with one input field, and the prompt that the search begins with."""

    name: str
    field: str
    seed_text: str
    data: Path
    tokens: int
    """Most tokens of a reply."""

    def cases(self) -> Dataset:
        """8 train, 12 validation and 24 holdout cases."""
        return Dataset.load(self.data)


TASKS = (
    Written(
        name="names",
        field="name",
        seed_text="Names, as the register writes them.",
        data=EXAMPLE / "names.csv",
        tokens=10,
    ),
    Written(
        name="titles",
        field="title",
        seed_text="Titles, as the catalogue sorts them.",
        data=Path(__file__).with_name("titles.csv"),
        tokens=12,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Who searches: `optimizer` of ours, or gepa where that is None."""

    name: str
    optimizer: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


DEMOS = Arm(name="demos", optimizer="demos")
SAME = Arm(name="reflective", optimizer="reflective")
ARMS = (
    Arm(name="gepa"),
    Arm(name="gepa, whole train split", options={"reflection_minibatch_size": 8}),
    SAME,
    DEMOS,
)


@dataclass(frozen=True, kw_only=True)
class Gained:
    """What one search gained on holdout, and what the server counted for it."""

    before: float
    after: float
    ci95: Sequence[float]
    p_value: float
    promoted: bool | None
    rollouts: int
    tokens: int
    seconds: float


def run(plan: Plan) -> Result:
    """Every task, arm and seed, one after the other: the model takes a core.

    Raises `NotHere` where the model is not installed.
    """
    if not PYTHON.exists():
        raise NotHere("The small language model is not installed here: `make test-llm` does it.")
    seeds = range(min(plan.seeds, SEEDS))
    load = os.getloadavg()[0]
    with served() as model:
        found = {
            (task.name, arm.name): [_search(model, task, arm, seed) for seed in seeds]
            for task in TASKS
            for arm in ARMS
        }
    rows = [row for task in TASKS for row in _rows(task, found, seeds=len(seeds))]
    return Result(
        setup="SmolLM2-135M-Instruct by llama.cpp on one core of this machine, two requests at "
        "once: names as a register writes them (Anna Smith to Smith, Anna) and titles as a "
        "catalogue sorts them (The Trial to Trial, The), both chosen before anything was measured "
        "on them; exact match, 8 train, 12 validation, 24 holdout cases, at most "
        f"{BUDGET} rollouts, {len(seeds)} seeds. gepa and reflective have the same proposer, which "
        "appends two cases that went wrong with what was expected; demos has none. Tokens are the "
        "server's own count of those read and written. Ours pays for its proof on holdout (48 "
        "rollouts) out of the rollouts, tokens and seconds shown; what gepa returned was measured "
        "on holdout afterwards, and that is not in its numbers. Medians, and the least and the "
        f"most; the machine was busy with other work (load {load:.1f} at the start).",
        rows=tuple(rows),
    )


def _rows(
    task: Written, found: Mapping[tuple[str, str], Sequence[Gained]], *, seeds: int
) -> Iterator[Row]:
    arms = {arm.name: found[task.name, arm.name] for arm in ARMS}
    ours = {arm.name: arms[arm.name] for arm in ARMS if arm.optimizer}
    peers = {arm.name: arms[arm.name] for arm in ARMS if not arm.optimizer}
    enough = seeds - 1 if seeds > 1 else 1
    proved = {name: sum(one.ci95[0] > 0 for one in all_) for name, all_ in arms.items()}
    after = {name: statistics.median(one.after for one in all_) for name, all_ in arms.items()}
    yield Row(
        name=f"{task.name}: holdout before, after",
        cells={
            name: f"{all_[0].before:.3f}, {_spread([one.after for one in all_], '.3f')}"
            for name, all_ in arms.items()
        },
        target=f"{SAME.name} as high as gepa",
        met=after[SAME.name] >= max(after[name] for name in peers),
        numbers={
            name: [[one.before, one.after, *one.ci95, one.p_value] for one in all_]
            for name, all_ in arms.items()
        },
    )
    yield Row(
        name=f"{task.name}: seeds whose 95 % interval of the gain is above 0",
        cells={name: f"{count} of {seeds}" for name, count in proved.items()},
        target=f"≥ {enough} of {seeds}",
        met=all(proved[name] >= enough for name in ours),
        numbers=proved,
    )
    yield Row(
        name=f"{task.name}: lowest end of the intervals, highest p",
        cells={
            name: f"{min(one.ci95[0] for one in all_):+.2f}, {max(o.p_value for o in all_):.4f}"
            for name, all_ in arms.items()
        },
    )
    promoted = {name: sum(bool(one.promoted) for one in all_) for name, all_ in ours.items()}
    yield Row(
        name=f"{task.name}: promoted",
        cells={name: f"{count} of {seeds}" for name, count in promoted.items()},
        numbers=promoted,
    )
    yield _spread_row(f"{task.name}: rollouts", arms, "rollouts", ",.0f")
    tokens = {name: statistics.median(o.tokens for o in all_) for name, all_ in arms.items()}
    row = _spread_row(f"{task.name}: tokens", arms, "tokens", ",.0f")
    yield Row(
        name=row.name,
        cells=row.cells,
        target="fewer than gepa",
        met=max(tokens[name] for name in ours) < min(tokens[name] for name in peers),
        numbers=row.numbers,
    )
    yield _spread_row(f"{task.name}: seconds", arms, "seconds", ",.0f")


def _spread_row(name: str, arms: Mapping[str, Sequence[Gained]], of: str, form: str) -> Row:
    numbers = {arm: [getattr(one, of) for one in all_] for arm, all_ in arms.items()}
    return Row(
        name=name,
        cells={arm: _spread(values, form) for arm, values in numbers.items()},
        numbers=numbers,
    )


def _spread(values: Sequence[float], form: str) -> str:
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} ({least:{form}}–{most:{form}})"


class Model:
    """The served model: goes on with a text, and says how many tokens it has read and written."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = httpx.Client(base_url=address, timeout=600)
        self.calls = 0

    def close(self) -> None:
        """End its connections."""
        self._client.close()

    def write(self, task: Written, prompt: str, text: str) -> str:
        """The rest of the line that `text` begins under a prompt; blocks."""
        self.calls += 1
        asked = {
            "prompt": f"{prompt}\n{text} ->",
            "max_tokens": task.tokens,
            "temperature": 0,
            "stop": ["\n"],
        }
        reply = self._client.post("/v1/completions", json=asked).raise_for_status().json()
        return str(reply["choices"][0]["text"]).strip()

    def tokens(self) -> int:
        """Tokens read and written so far, by the server's own count."""
        lines = [
            line.split()
            for line in self._client.get("/metrics").text.splitlines()
            if line[:1] != "#"
        ]
        counted = {name.removeprefix("llamacpp:"): float(value) for name, value in lines}
        names = ("prompt_tokens_total", "prompt_tokens_cached_total", "tokens_predicted_total")
        return int(sum(counted[name] for name in names))


@contextmanager
def served() -> Iterator[Model]:
    """The model, served as long as this is open."""
    with subprocess.Popen(
        [PYTHON, EXAMPLE / "serve.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        with server.stdin:  # the server stops when this is closed
            address = server.stdout.readline().strip()
            if not address:
                raise RuntimeError("the server of the small language model did not start")
            model = Model(address)
            try:
                yield model
            finally:
                model.close()


def with_examples(text: str, records: Sequence[FeedbackRecord], *, of: str) -> str:
    """The proposer of both sides: the prompt with a line for each of two cases that went wrong."""
    lines = [
        f"{record.inputs[of]} -> {record.expected_output['written']}"
        for record in records
        if record.score == 0
    ]
    return "\n".join([text, *[line for line in lines if line not in text][:NEW]])


@dataclass(frozen=True)
class Ours:
    """`with_examples` as our proposer."""

    of: str

    async def propose(self, request: ProposalRequest) -> dict[str, str]:
        """The one prompt with two more lines."""
        (prompt,) = request.components
        return {prompt.name: with_examples(prompt.text, prompt.feedback, of=self.of)}


def _search(model: Model, task: Written, arm: Arm, seed: int) -> Gained:
    counted, started, calls = model.tokens(), time.perf_counter(), model.calls
    if arm.optimizer is not None:
        return asyncio.run(_ours(model, task, arm.optimizer, seed, counted, started))
    best = _gepa(model, task, seed, **arm.options)
    taken = {
        "rollouts": model.calls - calls,
        "tokens": model.tokens() - counted,
        "seconds": time.perf_counter() - started,
    }
    held = task.cases().split("holdout")
    before, after = (_scores(model, task, text, held) for text in (task.seed_text, best))
    found = paired_difference(before, after, seed=seed)
    return Gained(
        before=statistics.fmean(before),
        after=statistics.fmean(after),
        ci95=list(found.ci95 or (found.gain, found.gain)),
        p_value=found.p_value,
        promoted=None,
        **taken,
    )


async def _ours(
    model: Model, task: Written, optimizer: str, seed: int, counted: int, started: float
) -> Gained:
    async def write(inputs: Mapping[str, str]) -> dict[str, str]:
        prompt = get_prompt("prompt")
        return {"written": await asyncio.to_thread(model.write, task, prompt, inputs[task.field])}

    proposer = {} if optimizer == DEMOS.optimizer else {"proposer": Ours(task.field)}
    result = await atrain(
        write,
        prompts={
            "prompt": {
                "text": task.seed_text,
                "metadata": {"demos": {"format": "{inputs} -> {output}"}},
            }
        },
        dataset=task.cases(),
        evaluators=["exact_match"],
        optimizer={"name": optimizer, **proposer},
        budget=Budget(rollouts=BUDGET),
        limits=Limits(concurrency=AT_ONCE, case_timeout=600),
        promote="auto",
        seed=seed,
    )
    assert result.holdout is not None
    sides = [result.holdout[side]["objective"] for side in ("baseline", "best")]
    return Gained(
        before=sides[0],
        after=sides[1],
        ci95=result.holdout["ci95"],
        p_value=result.holdout["p_value"],
        promoted=result.decision.status == "promoted",
        rollouts=result.usage.rollouts,
        tokens=model.tokens() - counted,
        seconds=time.perf_counter() - started,
    )


def _gepa(model: Model, task: Written, seed: int, **options: Any) -> str:
    data = task.cases()
    adapter: Any = Adapter(model, task)
    result: GEPAResult[Any, Any] = optimize(
        seed_candidate={"prompt": task.seed_text},
        trainset=list(data.split("train")),
        valset=list(data.split("validation")),
        adapter=adapter,
        max_metric_calls=BUDGET,
        logger=Quiet(),
        seed=seed,
        **options,
    )
    assert isinstance(result.best_candidate, dict)
    return result.best_candidate["prompt"]


def _scores(model: Model, task: Written, prompt: str, cases: Sequence[Case]) -> list[float]:
    return [one.score or 0.0 for one in _records(model, task, prompt, cases)]


def _records(
    model: Model, task: Written, prompt: str, cases: Sequence[Case]
) -> list[FeedbackRecord]:
    """One rollout per case, as many at once as on our side."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        written = list(
            pool.map(lambda case: model.write(task, prompt, case.inputs[task.field]), cases)
        )
    return [
        FeedbackRecord(
            case_id=case.id,
            inputs=case.inputs,
            output={"written": text},
            expected_output=case.expected_output,
            score=float(text == case.expected_output["written"]),
            feedback="",
        )
        for case, text in zip(cases, written, strict=True)
    ]


class Adapter:
    """The model as gepa calls it, with the proposer of our side."""

    def __init__(self, model: Model, task: Written) -> None:
        self._model = model
        self._task = task

    def evaluate(
        self, batch: list[Case], candidate: dict[str, str], capture_traces: bool = False
    ) -> EvaluationBatch[Any, Any]:
        """Scores of a batch."""
        records = _records(self._model, self._task, candidate["prompt"], batch)
        return EvaluationBatch(
            outputs=[record.output for record in records],
            scores=[record.score or 0.0 for record in records],
            trajectories=records if capture_traces else None,
        )

    def make_reflective_dataset(
        self,
        candidate: dict[str, str],
        eval_batch: EvaluationBatch[Any, Any],
        components_to_update: list[str],
    ) -> Mapping[str, Sequence[Any]]:
        """The batch's records."""
        records = [{"record": record} for record in eval_batch.trajectories or []]
        return dict.fromkeys(components_to_update, records)

    def propose_new_texts(
        self,
        candidate: dict[str, str],
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components_to_update: list[str],
    ) -> dict[str, str]:
        """The prompt with two more worked examples."""
        records = [entry["record"] for entry in reflective_dataset["prompt"]]
        return {"prompt": with_examples(candidate["prompt"], records, of=self._task.field)}
