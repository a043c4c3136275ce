"""`random_search`: the best of many independent rewrites of the baseline. The control arm.

What a guided optimizer gains over this, at the same number of rollouts, is what its guidance is
worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from orcheo_agentensor.optimizers.protocol import (
    SearchSpace,
    State,
    Trial,
    TrialOutcome,
    derive_seed,
    minibatch,
)


class RandomSearch(BaseModel):
    """Paraphrase the baseline again and again; validate each paraphrase in full.

    `minibatch` cases give the proposer something to see; `parallel` paraphrases make one step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: str = "random_search"
    minibatch: int = Field(10, ge=1)
    parallel: int = Field(1, ge=1, le=64)
    momentum: int = Field(0, ge=0)
    proposer: Any = None
    model: Any = None

    def start(self, space: SearchSpace) -> State:
        """Begin with nothing tried."""
        return {
            "step": 0,
            "epoch": 0,
            "seed": space.seed,
            "components": list(space.components),
            "case_ids": list(space.case_ids),
            "baseline": space.baseline,
        }

    def ask(self, state: State) -> Sequence[Trial]:
        """`parallel` independent paraphrases of the baseline."""
        first = state["step"] * self.parallel
        return [
            Trial(
                parent=state["baseline"],
                case_ids=minibatch(
                    state["case_ids"], size=self.minibatch, step=index, seed=state["seed"]
                )[0],
                components=tuple(state["components"]),
                seed=derive_seed(state["seed"], index, "paraphrase"),
                purpose="paraphrase",
                gated=False,
            )
            for index in range(first, first + self.parallel)
        ]

    def tell(self, state: State, outcomes: Sequence[TrialOutcome]) -> State:
        """Only count: the best candidate is kept by the training graph."""
        step = state["step"] + 1
        _cases, epoch = minibatch(
            state["case_ids"],
            size=self.minibatch,
            step=step * self.parallel,
            seed=state["seed"],
        )
        return {**state, "step": step, "epoch": epoch}
