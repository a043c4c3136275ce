"""The ask/tell protocol between an optimizer and the training graph, and what a proposer sees.

An optimizer decides what to try; the training graph tries it. To add one, write a class with a
`name`, `start`, `ask` and `tell` (`Optimizer` below says what each is given and gives back), and
pass an instance as `optimizer=`. Installed with an entry point it has a name in job files, and its
constructor's arguments are its options there:

    [project.entry-points."orcheo_agentensor.optimizers"]
    greedy = "greedy_search:Greedy"

One step of a search is: `ask(state)` names the trials to have in flight; the graph makes each
`Trial` (roll out the parent on the minibatch, work out feedback, ask the proposer, pass the new
texts through the guards, measure the child); `tell(state, outcomes)` turns the `TrialOutcome`s
into the next state. The search ends when `ask` gives no trial, when the budget is spent, or when
a stop condition holds. The graph keeps the best candidate itself: an optimizer only chooses.

Three rules make a killed run go on exactly where it was:

- An optimizer is pure: what it does follows from its options and the state alone.
- The state is a dict of plain JSON, stored after each step. Three keys are read where they are
  there: `epoch` (an integer, shown as progress), `current` (a candidate's hash: what the search
  stands at, validated and stored as a version at the checkpoint interval) and `seed`, which is
  changed where somebody goes on from a step of the search with another one.
- Randomness comes from `derive_seed`, never from a shared generator.

Candidates are named by their hash: `SearchSpace.baseline` first, then every `TrialOutcome.child`.
`random_search.py` is the shortest complete example.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from orcheo_agentensor.prompts import FeedbackRecord

State: TypeAlias = dict[str, Any]

DEMO_CHARS = 4_000
"""Most characters of the worked examples in a prompt, where nothing else is said."""

Purpose: TypeAlias = Literal["rewrite", "paraphrase", "refine", "restart"]
TrialKind: TypeAlias = Literal["rewrite", "paraphrase", "restart", "merge", "validate", "measure"]
TrialStatus: TypeAlias = Literal[
    "accepted",
    "measured",
    "worse_on_minibatch",
    "worse_on_validation",
    "refused",
    "nothing_to_learn",
]


@runtime_checkable
class Optimizer(Protocol):
    """A search strategy; the module's docstring says how one is added.

    It may also have the attributes `minibatch` (cases per trial, for the default budget; 10),
    `momentum` (past edits of a prompt that the proposer is shown; 0), `parallel` (trials in flight
    at once; 1), `proposer` (an object with `async propose(request)`, or its "module:attribute"),
    `model` (a chat model that proposes instead), `proposes` (False where it needs neither),
    `demonstrates` (whether it puts worked examples into prompts), `groups` (whether that model
    looks at many cases in groups), `sees` (whether it takes images, which its profile says
    otherwise), `criticises` (whether it also gives feedback along every edge of a tape), and a
    method `finalists(state)`: the hashes of candidates that are worth validating once the search is
    over, best first.

    With `pipelined = True` it is told of one outcome at a time, oldest trial first, while its other
    trials are in flight: after each `tell`, `ask` gives the trials that are still open, in the same
    order, and then the new ones. Otherwise it is told of all its trials together.
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


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What an optimizer is told at the start.

    `components` are the names of the trainable prompts, `case_ids` the training cases, `baseline`
    the hash of the candidate the search starts from; it is measured as far as the search needs it.
    `rollouts` is what the search may run at most, None where the budget does not say, and
    `validation` counts the cases of which the validation of a candidate takes it. `labels` has
    the training cases that expect an output, each with a number that those have who expect the
    same.
    """

    components: tuple[str, ...]
    case_ids: tuple[str, ...]
    baseline: str
    seed: int
    rollouts: int | None = None
    validation: int = 0
    labels: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> State:
        """As the first state of an optimizer may hold it, without the labels."""
        found = {key: list(v) if isinstance(v, tuple) else v for key, v in vars(self).items()}
        return {key: value for key, value in found.items() if key not in ("labels", "validation")}


@dataclass(frozen=True, kw_only=True)
class Demo:
    """A worked example for a prompt: what a node took in on a training case, and a good answer.

    `answer` is the `output` that a successful rollout of the candidate has given, or what the case
    says is `expected`. How the node takes the case in is seen in the candidate's rollout of the
    case `like`: of this case, or of another where the node's input is the case's.
    """

    case_id: str
    candidate: str
    answer: Literal["output", "expected"]
    like: str


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One attempt to improve `parent`.

    By `purpose`: `rewrite` (and `paraphrase`, `restart`) learns from `case_ids` and from `recalled`
    (cases that `parent` was run on before), is also shown what came of `remembered` (by the hash
    of another candidate, cases that it was run on), proposes, and tests on `case_ids`; `merge`
    takes the texts of the components in `donors` from other candidates instead of proposing;
    `validate` proposes nothing and measures `parent` itself. `measure` runs `parent` on all of
    `case_ids`, with the worked examples `demos` in its prompts, in `demo_chars` characters each at
    most, where there are any; and compares nothing where it is not `validated`. Without `case_ids`,
    a trial that is not `gated` learns from what is remembered alone, and runs nothing.

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
    remembered: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rival: str | None = None
    donors: Mapping[str, str] = field(default_factory=dict)
    demos: Mapping[str, Sequence[Demo]] = field(default_factory=dict)
    demo_chars: int = DEMO_CHARS

    def to_json(self) -> dict[str, Any]:
        """As an optimizer's state may hold it."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trial:
        """The inverse of `to_json`."""
        fields: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in data.items()
        }
        shown = fields.get("demos") or {}
        fields["demos"] = {name: [Demo(**one) for one in held] for name, held in shown.items()}
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """What came of a trial.

    `status` is `accepted`; `measured` (as asked, and compared with nothing);
    `worse_on_minibatch` or `worse_on_validation` (the child lost there);
    `refused` (by the guards, or by the proposer; `reason` says why); or `nothing_to_learn` (nothing
    went wrong on the cases, or no prompt was read on those that did). `prompts` are the proposed
    new texts, and `child` the candidate that they make, set once they passed the guards.

    `parent_scores` and `case_scores` are the objectives of the parent and of the child on the
    trial's cases, as far as they were measured; a test ends as soon as it is decided. `blamed` are
    the components that a node read on these cases, and `gradients` the worst of what these taught
    about each (`case_id`, `score`, `feedback`). `refused` maps the prompts whose new text was
    refused to that text and the reason: they stay as they are. `validation` is the child's
    objective on all validation cases, None unless all were measured; `validation_scores` are those
    that were. `means` maps parent and child to `{"cases", "evaluators"}`: how many of the trial's
    cases each was measured on, and the mean of each evaluator there. `shown` are the cases whose
    examples are in the child's prompts; those of `unfit` can be shown in that prompt by no trial.
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
    gradients: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    refused: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    means: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)
    shown: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unfit: Mapping[str, Sequence[str]] = field(default_factory=dict)
    refined: bool = False
    reason: str = ""


def derive_seed(seed: int, step: int, purpose: str) -> int:
    """A seed for one purpose at one step; the same arguments always give the same number."""
    digest = hashlib.sha256(f"{seed}/{step}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def in_turn(case_ids: Sequence[str], labels: Mapping[str, int], *, seed: int) -> list[str]:
    """The cases in an order by chance in which their labels take turns."""
    draw = random.Random(seed)
    groups: dict[Any, list[str]] = {}
    for case in draw.sample(list(case_ids), len(case_ids)):
        groups.setdefault(labels.get(case, case), []).append(case)
    order = draw.sample(list(groups), len(groups))
    turns = range(max(map(len, groups.values()), default=0))
    return [groups[one][turn] for turn in turns for one in order if turn < len(groups[one])]


def minibatch(case_ids: Sequence[str], *, size: int, step: int, seed: int) -> tuple[str, ...]:
    """The cases of step `step` (from 0).

    Every epoch is a fresh shuffle cut into pieces of `size`; the last piece may be shorter.
    """
    epoch, piece = divmod(step, steps_per_epoch(case_ids, size=size))
    order = list(case_ids)
    random.Random(derive_seed(seed, epoch, "epoch")).shuffle(order)
    return tuple(order[piece * size : (piece + 1) * size])


def steps_per_epoch(case_ids: Sequence[str], *, size: int) -> int:
    """How many minibatches of `size` make a pass over the cases."""
    return -(-len(case_ids) // size)


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A past proposal for one prompt and what came of it; scores are minibatch means.

    `why` is what the proposer took to be wrong, where it said so.
    """

    text: str
    accepted: bool
    before: float | None
    after: float | None
    reason: str
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class ComponentRequest:
    """One prompt to rewrite, with all a proposer may use.

    `placeholders` are those of the initial text, in the language `template`. `labels` stand in the
    text for images, sounds and files: a new text keeps each, once and in this order.
    """

    name: str
    text: str
    feedback: tuple[FeedbackRecord, ...]
    siblings: Mapping[str, str]
    history: tuple[Edit, ...]
    max_chars: int
    placeholders: tuple[str, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    template: str | None = None
    labels: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The component as content; what most prompts have not is left out."""
        written = {
            **vars(self),
            "feedback": [dict(vars(record)) for record in self.feedback],
            "history": [dict(vars(edit)) for edit in self.history],
        }
        if not self.labels:
            del written["labels"]
        return written


Asking: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
Recorded: TypeAlias = Callable[[Any, Asking], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class ProposalRequest:
    """What a proposer is asked for: new texts for `components`.

    `seed` is the only randomness a proposer may use; it differs from request to request.
    `purpose` is `rewrite` (improve the texts by the feedback), `refine` (the texts are a first try
    that fixed some cases and broke others: mend it), `restart` (write the prompts anew instead of
    editing them) or `paraphrase` (other words, same meaning). `task` says in words what the
    workflow is for, and `dataset` is the metadata of its cases; both without secrets, and empty
    where there are none.
    """

    components: tuple[ComponentRequest, ...]
    seed: int
    purpose: Purpose = "rewrite"
    task: str = ""
    dataset: Mapping[str, Any] = field(default_factory=dict)
    recorded: Recorded | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The request as content: the key under which its answer is recorded."""
        written = {**vars(self), "components": [one.to_json() for one in self.components]}
        del written["recorded"]
        return {key: value for key, value in written.items() if value not in ("", {})}

    async def once(self, content: Any, ask: Asking) -> Mapping[str, Any]:
        """What `ask()` answers: a JSON object. For a proposer that makes several calls.

        In a training the answer is recorded in the run under `content` (JSON that says which call
        it is) as it returns, so that a proposal that a kill has cut short does not pay for it
        again.
        """
        return await (ask() if self.recorded is None else self.recorded(content, ask))


@runtime_checkable
class HasWindow(Protocol):
    """A proposer that knows how much it can be shown."""

    def require_room(self, prompts: Mapping[str, str]) -> None:
        """Raise `BadInput` where these prompts and a case cannot be shown together."""
        ...


@runtime_checkable
class Proposer(Protocol):
    """Anything that turns a `ProposalRequest` into new texts, by component name.

    In place of a text it may give edits of its lines, and say why: `{"why": "…", "edits": [{"op":
    "append", "text": "…"}, {"op": "replace", "line": "…", "text": "…"}, {"op": "delete", "line":
    "…"}]}`, or `{"why": "…", "text": "…"}`.
    """

    async def propose(self, request: ProposalRequest) -> Mapping[str, Any]:
        """New texts for the components of `request`; one left out stays as it is."""
        ...
