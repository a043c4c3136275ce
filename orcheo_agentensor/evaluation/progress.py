"""Progress events of a running evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orcheo_agentensor.evaluation.results import CaseResult, weighted_mean
from orcheo_agentensor.events import EventSink

MARKS = 20


class CaseProgress:
    """Sends a `case_finished` per case, and an `evaluation_progress` with running scores about
    `MARKS` times over the whole."""

    def __init__(
        self,
        events: EventSink,
        weights: Mapping[str, float],
        *,
        total: int,
        **labels: Any,
    ) -> None:
        self._events = events
        self._weights = weights
        self._total = total
        self._labels = labels
        self._every = max(1, total // MARKS)
        self._done = 0
        self._failed = 0
        self._sum = 0.0
        self._scored = 0

    def case_finished(self, result: CaseResult) -> None:
        """Hear of one finished case."""
        self._done += 1
        shown = result.to_json()
        if shown["ok"]:
            objective = weighted_mean(shown["scores"], self._weights)
            if objective is not None:
                self._sum += objective
                self._scored += 1
        else:
            self._failed += 1
        self._events.emit(
            "case_finished",
            **self._labels,
            **shown,
            replayed=result.replayed,
            done=self._done,
            total=self._total,
        )
        if self._done % self._every == 0 or self._done == self._total:
            self._events.emit(
                "evaluation_progress",
                **self._labels,
                done=self._done,
                total=self._total,
                failed=self._failed,
                mean=self._sum / self._scored if self._scored else None,
            )
