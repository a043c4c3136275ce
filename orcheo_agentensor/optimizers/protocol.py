"""The ask/tell protocol between an optimizer and the training graph.

An optimizer is pure: `ask` says which trials to make, the training graph makes them, `tell` turns
their outcomes into the next state. The state is plain JSON, so that a killed run goes on exactly
where it was. Randomness comes from `derive_seed`, never from a shared generator.

An optimizer whose class says `pipelined = True` is told of outcomes one at a time, oldest trial
first, while its other trials are still in flight: after each `tell`, `ask` gives the trials that
are still open, in the same order, and then the new ones.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

# An optimizer is pure: `ask` says which trials to make, the training graph makes them, `tell` turns
# their outcomes into the next state. The state is plain JSON, so that a killed run goes on exactly
# where it was. Randomness comes from `derive_seed`, never from a shared generator.
#
# An optimizer whose class says `pipelined = True` is told of outcomes one at a time, oldest trial
# first, while its other trials are still in flight: after each `tell`, `ask` gives the trials that
# are still open, in the same order, and then the new ones.


State: TypeAlias = dict[str, Any]

Purpose: TypeAlias = Literal["rewrite", "paraphrase", "refine", "restart"]
TrialKind: TypeAlias = Literal["rewrite", "paraphrase", "restart", "merge", "validate"]
TrialStatus: TypeAlias = Literal[
    "accepted", "worse_on_minibatch", "worse_on_validation", "refused", "nothing_to_learn"
]


def derive_seed(seed: int, step: int, purpose: str) -> int:
    """A seed for one purpose at one step; the same arguments always give the same number."""
    digest = hashlib.sha256(f"{seed}/{step}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


@dataclass(frozen=True, kw_only=True)
class FeedbackRecord:
    """What one case taught about one prompt.

    `score` is the case's objective (None when the target failed); `feedback` says in words what
    was wrong; `trace` has the runs of the nodes that read the prompt (`node`, `inputs`, `output`).
    """

    case_id: str
    inputs: Any
    output: Any
    expected_output: Any
    score: float | None
    feedback: str
    trace: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A past proposal for one prompt and what came of it; scores are minibatch means."""

    text: str
    accepted: bool
    before: float | None
    after: float | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class ComponentRequest:
    """One prompt to rewrite, with all a proposer may use."""

    name: str
    text: str
    feedback: tuple[FeedbackRecord, ...]
    siblings: Mapping[str, str]
    history: tuple[Edit, ...]
    max_chars: int
    placeholders: tuple[str, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ProposalRequest:
    """What a proposer is asked for: new texts for `components`.

    `seed` is the only randomness a proposer may use; it differs from request to request.
    `purpose` is `rewrite` (improve the texts by the feedback), `refine` (the texts are a first try
    that fixed some cases and broke others: mend it), `restart` (write the prompts anew instead of
    editing them) or `paraphrase` (other words, same meaning).
    """

    components: tuple[ComponentRequest, ...]
    seed: int
    purpose: Purpose = "rewrite"

    def to_json(self) -> dict[str, Any]:
        """The request as content: the key under which its answer is recorded."""
        components = [
            {
                **vars(component),
                "feedback": [vars(record) for record in component.feedback],
                "history": [vars(edit) for edit in component.history],
            }
            for component in self.components
        ]
        return {**vars(self), "components": components}


@runtime_checkable
class Proposer(Protocol):
    """Anything that turns a `ProposalRequest` into new texts, by component name."""

    async def propose(self, request: ProposalRequest) -> Mapping[str, str]:
        """New texts for the components of `request`; one left out stays as it is."""
        ...


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What an optimizer is told at the start.

    `components` are the names of the trainable prompts, `case_ids` the training cases, `baseline`
    the hash of the candidate the search starts from. Its validation `objective` is None where it
    has not been measured; it is measured as far as the search needs it.
    """

    components: tuple[str, ...]
    case_ids: tuple[str, ...]
    baseline: str
    objective: float | None
    seed: int


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One attempt to improve `parent`.

    By `purpose`: `rewrite` (and `paraphrase`, `restart`) learns from `case_ids` and from `recalled`
    (cases that `parent` was run on before), proposes, and tests on `case_ids`; `merge` takes the
    texts of the components in `donors` from other candidates instead of proposing; `validate`
    proposes nothing and measures `parent` itself.

    With `gated`, the child must first beat its parent on `case_ids`; with `refined`, one that
    fixed some of these and broke others gets one more proposal on its own new failures. With
    `validated`, a child that passed is measured on the validation cases against `rival` (its
    parent where None), for as long as it can still win. `components` are the prompts that may be
    rewritten; of these, only the blamed ones are.
    """

    parent: str
    case_ids: tuple[str, ...]
    components: tuple[str, ...]
    seed: int
    purpose: TrialKind = "rewrite"
    gated: bool = True
    validated: bool = True
    refined: bool = False
    recalled: tuple[str, ...] = ()
    rival: str | None = None
    donors: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As an optimizer's state may hold it."""
        data = asdict(self)
        return {**data, **{key: list(data[key]) for key in _LISTS}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trial:
        """The inverse of `to_json`."""
        return cls(**{**data, **{key: tuple(data.get(key, ())) for key in _LISTS}})


_LISTS = ("case_ids", "components", "recalled")


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """What came of a trial.

    `child` and `prompts` (its new texts) are set once a proposal passed the guards. `parent_scores`
    and `case_scores` are the objectives of the parent and of the child on the trial's cases, as far
    as they were measured; a test ends as soon as it is decided. `blamed` are the components that
    some node read on these cases. `validation` is the child's objective on all validation cases,
    None unless it was measured on all; `validation_scores` are those that were measured.
    """

    status: TrialStatus
    parent: str
    child: str | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    parent_score: float | None = None
    child_score: float | None = None
    validation: float | None = None
    parent_scores: Mapping[str, float] = field(default_factory=dict)
    case_scores: Mapping[str, float] = field(default_factory=dict)
    validation_scores: Mapping[str, float] = field(default_factory=dict)
    blamed: tuple[str, ...] = ()
    refined: bool = False
    reason: str = ""


@runtime_checkable
class Optimizer(Protocol):
    """A search strategy. Third parties add theirs by entry point `orcheo_agentensor.optimizers`.

    It may also have the attributes `minibatch` (cases per trial, for the default budget),
    `momentum` (past edits shown to the proposer), `proposer`, `model`, `criticises` (its model
    gives feedback along every edge of a tape), `pipelined`, and a method
    `finalists(state)`: candidates that are worth validating once the search is over, best first.
    """

    name: str

    def start(self, space: SearchSpace) -> State:
        """The state before the first step."""
        ...

    def ask(self, state: State) -> Sequence[Trial]:
        """The trials to have in flight now; none ends the search."""
        ...

    def tell(self, state: State, outcomes: Sequence[TrialOutcome]) -> State:
        """The state after a step; `outcomes` come in the order of the trials asked for."""
        ...


def minibatch(
    case_ids: Sequence[str], *, size: int, step: int, seed: int
) -> tuple[tuple[str, ...], int]:
    """The minibatch of step `step` (from 0) and the epoch (from 0) it belongs to.

    Every epoch is a fresh shuffle cut into pieces of `size`; the last piece may be shorter.
    """
    size = min(size, len(case_ids))
    per_epoch = -(-len(case_ids) // size)
    epoch, piece = divmod(step, per_epoch)
    order = list(case_ids)
    random.Random(derive_seed(seed, epoch, "epoch")).shuffle(order)
    return tuple(order[piece * size : (piece + 1) * size]), epoch
