"""`random_search`: the best of many independent rewrites of the baseline. The control arm.

What a guided optimizer gains over this, at the same number of rollouts, is what its guidance is
worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


class RandomSearch(StrictNumbers):
    """Paraphrase the baseline again and again; validate each paraphrase in full.

    Args:
        name: Its name in job files.
        minibatch: How many cases the proposer is shown.
        parallel: How many paraphrases make one step.
        momentum: How many past edits of a prompt the proposer sees.
        proposer: An object with `async propose(request)`, or its "module:attribute".
        model: The chat model that proposes where there is no `proposer`.
        sees: Whether `model` takes images; left out, its profile says so.

    Example:
        >>> from orcheo_agentensor import MaxSteps, RandomSearch, get_prompt, train
        >>> class Yes:
        ...     async def propose(self, request):
        ...         return {component.name: "yes" for component in request.components}
        >>> result = train(
        ...     lambda inputs: get_prompt("answer"),
        ...     prompts={"answer": "no"},
        ...     dataset=[{"inputs": "?", "expected_output": "yes"}],
        ...     evaluators=["exact_match"],
        ...     optimizer=RandomSearch(proposer=Yes()),
        ...     stop=[MaxSteps(1)],
        ... )
        >>> result.best.prompts["answer"].text
        'yes'
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: str = "random_search"
    minibatch: int = Field(default=10, ge=1)
    parallel: int = Field(default=1, ge=1, le=64)
    momentum: int = Field(default=0, ge=0)
    proposer: Any = None
    model: Any = None
    sees: bool | None = None

    def start(self, space: SearchSpace) -> State:
        """Begin with nothing tried."""
        return {**space.to_json(), "step": 0, "epoch": 0}

    def ask(self, state: State) -> Sequence[Trial]:
        """`parallel` independent paraphrases of the baseline."""
        cases, seed, first = state["case_ids"], state["seed"], state["step"] * self.parallel
        return [
            Trial(
                parent=state["baseline"],
                case_ids=minibatch(cases, size=self.minibatch, step=index, seed=seed),
                components=tuple(state["components"]),
                seed=derive_seed(seed, index, "paraphrase"),
                purpose="paraphrase",
                gated=False,
            )
            for index in range(first, first + self.parallel)
        ]

    def tell(self, state: State, outcomes: Sequence[TrialOutcome]) -> State:
        """Count the step; the training graph keeps the best candidate."""
        step = state["step"] + 1
        passed = step * self.parallel // steps_per_epoch(state["case_ids"], size=self.minibatch)
        return {**state, "step": step, "epoch": passed}
