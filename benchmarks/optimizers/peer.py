"""gepa's side: the same simulator and proposer behind a gepa adapter."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gepa.api import optimize
from gepa.core.adapter import EvaluationBatch
from gepa.core.result import GEPAResult

from benchmarks.optimizers.proposers import Edit
from benchmarks.optimizers.sides import Found, Search, Side
from benchmarks.optimizers.simulator import Crash, Simulator
from benchmarks.optimizers.tasks import Example

THREADS = 16


class Quiet:
    """A logger for gepa that says nothing, except that an error of ours must not go unnoticed."""

    def log(self, message: str) -> None:
        """Raise `RuntimeError` for a traceback: gepa logs what its adapter raises, and goes on."""
        if message.startswith("Traceback"):
            raise RuntimeError(message)


class Adapter:
    """The simulator as gepa calls it, a batch at a time; on threads where there is latency."""

    def __init__(self, simulator: Simulator, edit: Edit, *, latency: float = 0.0) -> None:
        self._simulator = simulator
        self._edit = edit
        self._latency = latency
        self._pool = ThreadPoolExecutor(THREADS) if latency else None
        self.rewrites: Counter[str] = Counter()

    def evaluate(
        self, batch: list[Example], candidate: dict[str, str], capture_traces: bool = False
    ) -> EvaluationBatch[Any, Any]:
        """Scores of a batch; a crash is a score of 0 with its message, as gepa's contract asks."""

        def call(example: Example) -> tuple[float, str]:
            if self._latency:
                time.sleep(self._latency)
            try:
                return self._simulator(candidate, example)
            except Crash as error:
                return 0.0, f"The workflow failed: {error}"

        found = list(self._pool.map(call, batch) if self._pool else map(call, batch))
        return EvaluationBatch(
            outputs=[feedback for _score, feedback in found],
            scores=[score for score, _feedback in found],
            trajectories=[feedback for _score, feedback in found] if capture_traces else None,
        )

    def make_reflective_dataset(
        self,
        candidate: dict[str, str],
        eval_batch: EvaluationBatch[Any, Any],
        components_to_update: list[str],
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """The feedback of the batch, the same for each component: the target reads them all."""
        records = [{"Feedback": feedback} for feedback in eval_batch.trajectories or []]
        return dict.fromkeys(components_to_update, records)

    def propose_new_texts(
        self,
        candidate: dict[str, str],
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components_to_update: list[str],
    ) -> dict[str, str]:
        """The same text edit as on the other side."""
        new = {
            name: self._edit(
                candidate[name], name, [record["Feedback"] for record in reflective_dataset[name]]
            )
            for name in components_to_update
        }
        self.rewrites.update(name for name, text in new.items() if text != candidate[name])
        return new

    def close(self) -> None:
        """End the threads."""
        if self._pool:
            self._pool.shutdown()


def side(*, components: str = "round_robin", whole_train: bool = False, **options: Any) -> Side:
    """gepa with `options`; `components` is "all" for all of them together, and with `whole_train`
    the training split is the minibatch."""

    async def search(simulator: Simulator, given: Search) -> Found:
        if whole_train:
            options["reflection_minibatch_size"] = len(simulator.task.split("train"))
        return await asyncio.to_thread(run, simulator, given, components, **options)

    return search


def run(
    simulator: Simulator,
    given: Search,
    components: str = "round_robin",
    *,
    stops: Sequence[Any] = (),
    **options: Any,
) -> Found:
    """One search, blocking; `stops` are gepa's stop callbacks."""
    task = simulator.task
    adapter: Any = Adapter(simulator, given.edit, latency=given.latency)
    if given.stop:
        stops = [*stops, lambda _state: simulator.solved_at is not None]
    started = time.perf_counter()
    try:
        result: GEPAResult[Any, Any] = optimize(
            seed_candidate=task.seed_texts,
            trainset=task.split("train"),
            valset=task.split("validation"),
            adapter=adapter,
            module_selector=components,
            max_metric_calls=given.budget,
            stop_callbacks=list(stops),
            logger=Quiet(),
            seed=given.seed,
            **options,
        )
    finally:
        adapter.close()
    assert isinstance(result.best_candidate, dict)
    return Found(
        texts=result.best_candidate,
        reported=result.val_aggregate_scores[result.best_idx],
        rewrites=dict(adapter.rewrites),
        seconds=simulator.seconds_to_target(started),
        details={
            "candidates": result.candidates,
            "seed_score": result.val_aggregate_scores[0],
        },
    )
