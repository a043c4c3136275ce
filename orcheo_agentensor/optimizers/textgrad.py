"""`textgrad`: walk from the baseline by rewriting the blamed prompts, one minibatch at a time.

After TextGrad (Yuksekgonul et al., 2024, arXiv 2406.07496), with what its optimizer lacks: every
step must pass an acceptance test on paired cases, so a worse rewrite is never kept, and past edits
with their scores are shown to the proposer (momentum).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from orcheo_agentensor.optimizers.protocol import (
    SearchSpace,
    State,
    Trial,
    TrialOutcome,
    derive_seed,
    minibatch,
)


class TextGrad(BaseModel):
    """Gradient-descent-like search over texts.

    `minibatch` cases teach each step. `model` names the chat model that proposes and, as the
    backward pass, criticises along the tape's edges; `proposer` replaces it as proposer.
    `momentum` is how many past edits of a prompt the proposer sees.
    """

    criticises: ClassVar[bool] = True

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: str = "textgrad"
    minibatch: int = Field(10, ge=1)
    momentum: int = Field(8, ge=0)
    proposer: Any = None
    model: Any = None

    def start(self, space: SearchSpace) -> State:
        """Begin at the baseline."""
        return {
            "step": 0,
            "epoch": 0,
            "seed": space.seed,
            "components": list(space.components),
            "case_ids": list(space.case_ids),
            "current": space.baseline,
        }

    def ask(self, state: State) -> Sequence[Trial]:
        """One trial: rewrite the current prompts by what the next minibatch teaches."""
        cases, _epoch = minibatch(
            state["case_ids"], size=self.minibatch, step=state["step"], seed=state["seed"]
        )
        return [
            Trial(
                parent=state["current"],
                case_ids=cases,
                components=tuple(state["components"]),
                seed=derive_seed(state["seed"], state["step"], "propose"),
            )
        ]

    def tell(self, state: State, outcomes: Sequence[TrialOutcome]) -> State:
        """Move to an accepted child; stay otherwise."""
        step = state["step"] + 1
        _cases, epoch = minibatch(
            state["case_ids"], size=self.minibatch, step=step, seed=state["seed"]
        )
        accepted = [outcome.child for outcome in outcomes if outcome.status == "accepted"]
        current = accepted[-1] if accepted else state["current"]
        return {**state, "step": step, "epoch": epoch, "current": current}
