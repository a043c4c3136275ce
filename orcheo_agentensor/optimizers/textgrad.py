"""`textgrad`: walk from the baseline by rewriting the blamed prompts, one minibatch at a time.

After TextGrad (Yuksekgonul et al., 2024, arXiv 2406.07496), with two additions: every step must
pass an acceptance test on paired cases, so that a worse rewrite is not kept, and the proposer is
shown past edits with their scores (momentum).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from orcheo_agentensor.json_values import StrictNumbers
from orcheo_agentensor.optimizers.protocol import (
    SearchSpace,
    State,
    Trial,
    TrialOutcome,
    derive_seed,
    minibatch,
    steps_per_epoch,
)


class TextGrad(StrictNumbers):
    """Gradient-descent-like search over texts.

    Args:
        name: Its name in job files.
        minibatch: How many cases teach each step.
        momentum: How many past edits of a prompt the proposer sees.
        proposer: An object with `async propose(request)`, or its "module:attribute".
        model: The chat model that proposes where there is no `proposer` and that, as the backward
            pass, criticises along the tape's edges.
        sees: Whether `model` takes images; left out, its profile says so.

    Example:
        >>> from orcheo_agentensor import MaxSteps, TextGrad, get_prompt, train
        >>> class Yes:
        ...     async def propose(self, request):
        ...         return {component.name: "yes" for component in request.components}
        >>> result = train(
        ...     lambda inputs: get_prompt("answer"),
        ...     prompts={"answer": "no"},
        ...     dataset=[{"inputs": "?", "expected_output": "yes"}],
        ...     evaluators=["exact_match"],
        ...     optimizer=TextGrad(proposer=Yes()),
        ...     stop=[MaxSteps(1)],
        ... )
        >>> result.best.prompts["answer"].text
        'yes'
    """

    criticises: ClassVar[bool] = True

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: str = "textgrad"
    minibatch: int = Field(default=10, ge=1)
    momentum: int = Field(default=8, ge=0)
    proposer: Any = None
    model: Any = None
    sees: bool | None = None

    def start(self, space: SearchSpace) -> State:
        """Begin at the baseline."""
        return {**space.to_json(), "step": 0, "epoch": 0, "current": space.baseline}

    def ask(self, state: State) -> Sequence[Trial]:
        """One trial: rewrite the current prompts by what the next minibatch teaches."""
        step, seed = state["step"], state["seed"]
        trial = Trial(
            parent=state["current"],
            case_ids=minibatch(state["case_ids"], size=self.minibatch, step=step, seed=seed),
            components=tuple(state["components"]),
            seed=derive_seed(seed, step, "propose"),
        )
        return [trial]

    def tell(self, state: State, outcomes: Sequence[TrialOutcome]) -> State:
        """Move to an accepted child; stay otherwise."""
        step = state["step"] + 1
        epoch = step // steps_per_epoch(state["case_ids"], size=self.minibatch)
        (outcome,) = outcomes
        current = outcome.child if outcome.status == "accepted" else state["current"]
        return {**state, "step": step, "epoch": epoch, "current": current}
