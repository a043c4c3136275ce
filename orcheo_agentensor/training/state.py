"""The state of a search between two steps, its candidates, and the state of the training graph."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from orcheo_agentensor.evaluation.graph import JobState
from orcheo_agentensor.evaluation.work import JobOutput
from orcheo_agentensor.optimizers import Edit
from orcheo_agentensor.prompts import Candidate, TextTensor
from orcheo_agentensor.runs.active import ActiveRun
from orcheo_agentensor.runs.job import shown_as
from orcheo_agentensor.storage.tables import decode, encode
from orcheo_agentensor.training.job import TrainingJob

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store

TAUGHT = 4


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What `apply` needs to turn `before` into `after`.

    It has keys to `drop`, values to `set`, and the changes `inside` objects that both have. Lists
    are values; equal numbers are the same.
    """
    found: dict[str, Any] = {}
    if gone := [key for key in before if key not in after]:
        found["drop"] = gone
    for key, value in after.items():
        old = before.get(key)
        if key in before and old == value:
            continue
        if isinstance(old, dict) and isinstance(value, dict):
            found.setdefault("inside", {})[key] = changes(old, value)
        else:
            found.setdefault("set", {})[key] = value
    return found


def apply(before: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """The object after a change; `before` stays as it is."""
    after = {key: value for key, value in before.items() if key not in change.get("drop", ())}
    after.update(change.get("set", {}))
    for key, inner in change.get("inside", {}).items():
        after[key] = apply(after[key], inner)
    return after


@dataclass(kw_only=True)
class SearchState:
    """The state of a search after `step` finished steps.

    `told` counts the outcomes that the optimizer was told of, and `optimizer` is its own state.
    `edits` are the newest past edits by prompt, each under the number of its outcome. `gradients`
    are what the newest trial of a parent learnt, for the last `TAUGHT` parents and the best;
    `measured` are means per evaluator, on all validation cases or, until these are known, on the
    cases of a candidate's last trial, for as many candidates. `best`
    is the hash of the best candidate, found in step `best_step`, with its validation `objective`
    (None until it is measured on all cases) and `failures`. `validated` maps each candidate
    measured on all validation cases to the number of the outcome that did it. `due` lists
    candidates to store as versions, with the reason; `versions` maps stored candidates to version
    numbers. `idle` counts the newest steps without a new candidate; `refused` is why the newest
    proposal was refused, as long as every one was, and `refusals` counts the newest ones that were
    refused in a row, the last of them for what `refusal` says. `blocked` says why no step can help,
    `stopped` why the search ended; it is `settled` once its finalists were validated. `retried`
    counts the retries of passing failures that it knows of. `numeric` names the metrics that gave
    the baseline numbers in its first trial.

    It is stored as the changes of each step, so that a step after many steps and with many cases
    writes as much as the first.
    """

    step: int = 0
    told: int = 0
    epoch: int = 0
    optimizer: dict[str, Any] = field(default_factory=dict)
    edits: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    gradients: dict[str, dict[str, Any]] = field(default_factory=dict)
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    baseline: str = ""
    best: str = ""
    objective: float | None = None
    failures: int = 0
    validated: dict[str, int] = field(default_factory=dict)
    best_step: int = 0
    due: list[list[str]] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)
    idle: int = 0
    stopped: str | None = None
    settled: bool = False
    refused: str | None = None
    refusals: int = 0
    refusal: str = ""
    blocked: str | None = None
    retried: int = 0
    numeric: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stored = -1  # the step of the newest row,
        self._before: dict[str, Any] = {}  # what was known before that step,
        self._after: dict[str, Any] = {}  # and after it

    def history(self, name: str, *, newest: int, known: int) -> tuple[Edit, ...]:
        """The `newest` past edits of a prompt among the first `known` outcomes, oldest first."""
        told = sorted(number for key in self.edits.get(name, {}) if (number := int(key)) < known)
        return tuple(
            Edit(**self.edits[name][str(number)]) for number in (told[-newest:] if newest else ())
        )

    def remember(self, name: str, edit: Edit, *, keep: int) -> None:
        """Add an edit of the current outcome; of more than `keep` edits, drop the oldest."""
        edits = self.edits.setdefault(name, {})
        edits[str(self.told)] = asdict(edit)
        if len(edits) > keep:
            del edits[str(min(map(int, edits)))]

    def learn(self, candidate: str, gradients: Mapping[str, Any]) -> None:
        """Keep what the current outcome's trial learnt about its parent."""
        self._keep(self.gradients, candidate, {"prompts": dict(gradients)})

    def note(self, candidate: str, split: str, means: Mapping[str, Any]) -> None:
        """Keep the means per evaluator of a candidate; those on all validation cases stay."""
        known = self.measured.get(candidate, {})
        if split == "validation" or known.get("split") != "validation":
            self._keep(self.measured, candidate, {"split": split, **means})

    def scores(self, candidate: str) -> dict[str, Any] | None:
        """Means per evaluator of a candidate, the split and how many cases; None if unknown."""
        known = self.measured.get(candidate)
        return known and {key: value for key, value in known.items() if key != "told"}

    @property
    def current(self) -> str:
        """The candidate that the search stands at: the optimizer's `current`, or the best."""
        return str(self.optimizer.get("current", self.best))

    def _keep(self, entries: dict[str, dict[str, Any]], candidate: str, entry: Any) -> None:
        """Set an entry, and drop the oldest of too many, but not that of the best or current."""
        entries[candidate] = {"told": self.told, **entry}
        spare = entries.keys() - {self.best, self.current}
        if len(spare) > TAUGHT:
            del entries[min(spare, key=lambda one: entries[one]["told"])]

    def knows_validation(self, candidate_hash: str, *, known: int) -> bool:
        """Whether the first `known` outcomes include a full validation of a candidate."""
        return self.validated.get(candidate_hash, known) < known

    def make_due(self, candidate: str, reason: str) -> None:
        """Let a candidate be stored as a version at the next checkpoint, unless it is one."""
        if candidate not in self.versions and all(entry[0] != candidate for entry in self.due):
            self.due.append([candidate, reason])

    @classmethod
    async def load(
        cls, run: ActiveRun[Any], *, of: str | None = None, until: int | None = None
    ) -> "SearchState":
        """The newest stored state of a run; a new one before its baseline is stored.

        With `of` and `until`, that of another run after so many steps.
        """
        before: dict[str, Any] = {}
        after: dict[str, Any] = {}
        found_rows = await run.store.training.changes(of or run.record.run_id)
        rows = {step: row for step, row in found_rows.items() if until is None or step <= until}
        if not rows:
            return cls()
        for step in sorted(rows):
            before, after = after, apply(after, rows[step])
        # A copy: the next step is compared with `after`, which must not change.
        found = decode(encode(after))
        state = cls(
            **{entry.name: found[entry.name] for entry in fields(cls) if entry.name in found}
        )
        if of is None:
            state._stored, state._before, state._after = max(rows), before, after
        return state

    async def save(self, run: ActiveRun[Any], candidates: "CandidateStore") -> None:
        """Store what this step has changed, in place of what was stored for it before, and with it
        the candidates that are not stored yet."""
        if self.step != self._stored:
            self._stored, self._before = self.step, self._after
        state = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        self._after = decode(encode(state))
        change = changes(self._before, self._after)
        await run.store.training.save_change(
            run.record.run_id, self.step, change, made=candidates.unsaved, lease=run.lease
        )
        candidates.unsaved = []


class CandidateStore:
    """The candidates of one run by hash, as stored, or to be stored with the step that made them:
    those are `unsaved`."""

    def __init__(self, prompts: Mapping[str, TextTensor]) -> None:
        self._prompts = dict(prompts)
        self._texts: dict[str, dict[str, str]] = {}
        self._made: dict[str, Candidate] = {}
        self._parents: dict[str, list[str]] = {}
        self._steps: dict[str, int] = {}
        self.unsaved: list[dict[str, Any]] = []

    async def load(self, run: ActiveRun[Any]) -> "CandidateStore":
        """Read the candidates that an earlier process has saved."""
        return await self.read(run.store, run.record.run_id)

    async def read(self, store: "Store", run_id: str) -> "CandidateStore":
        """Read the candidates that a run has stored."""
        for record in await store.training.candidates(run_id):
            self._texts[record.candidate_hash] = record.prompts
            self._parents[record.candidate_hash] = record.parents
            self._steps[record.candidate_hash] = int(record.info.get("step", 0))
        return self

    async def take_over(self, run: ActiveRun[Any], *, of: str, until: int) -> None:
        """Store the candidates of the first `until` steps of another run as those of `run`."""
        for record in await run.store.training.candidates(of):
            if not record.parents or int(record.info.get("step", 0)) < until:
                await run.store.training.save_candidate(
                    run.record.run_id,
                    record.candidate_hash,
                    prompts=record.prompts,
                    parents=record.parents,
                    status=record.status,
                    info=record.info,
                    lease=run.lease,
                )
        await self.load(run)

    def __getitem__(self, candidate_hash: str) -> Candidate:
        found = self._made.get(candidate_hash)
        if found is None:
            found = self._made[candidate_hash] = self.with_texts(self._texts[candidate_hash])
        return found

    def __len__(self) -> int:
        return len(self._texts)

    def __contains__(self, candidate_hash: object) -> bool:
        return candidate_hash in self._texts

    def with_texts(self, texts: Mapping[str, str]) -> Candidate:
        """The run's prompt set with these texts; flags and metadata stay as the job gave them."""
        return Candidate.of(
            {
                name: tensor
                if texts.get(name, tensor.text) == tensor.text
                else tensor.with_text(texts[name])
                for name, tensor in self._prompts.items()
            }
        )

    def child(self, parent: Candidate, texts: Mapping[str, str]) -> Candidate:
        """`parent` with these texts in the place of its own."""
        held = {name: tensor.text for name, tensor in parent.prompts.items()}
        return self.with_texts({**held, **texts})

    def is_new(self, candidate_hash: str, *, step: int) -> bool:
        """Whether no step before `step` has made this candidate."""
        return self._steps.get(candidate_hash, step) >= step

    def parent(self, candidate_hash: str) -> str | None:
        """The candidate that `candidate_hash` was made from."""
        parents = self._parents.get(candidate_hash)
        return parents[0] if parents else None

    def add(
        self,
        candidate: Candidate,
        *,
        parent: str | None,
        status: str,
        step: int,
        info: dict[str, Any],
    ) -> None:
        """Take in a candidate with its status; one that an earlier step has stored stays as it
        is."""
        if not self.is_new(candidate.hash, step=step):
            return
        texts = {name: tensor.text for name, tensor in candidate.prompts.items()}
        parents = [parent] if parent else []
        self._texts[candidate.hash] = texts
        self._parents.setdefault(candidate.hash, parents)
        self._steps[candidate.hash] = step
        self.unsaved.append(
            {
                "candidate_hash": candidate.hash,
                "prompts": texts,
                "parents": parents,
                "status": status,
                "info": {**info, "step": step},
            }
        )


class TrainingOutput(JobOutput, total=False):
    """What a training gives back; everything larger is in the side store under `run_id`."""

    summary: Annotated[
        dict[str, Any], Field(title="Summary", description="The best version on validation.")
    ]
    best: Annotated[
        dict[str, Any], Field(title="Best", description="The best version: prompts and scores.")
    ]
    baseline: Annotated[
        dict[str, Any], Field(title="Baseline", description="The version that the run began with.")
    ]
    holdout: Annotated[
        dict[str, Any] | None,
        Field(title="Holdout", description="The gain on cases the search never saw."),
    ]
    decision: Annotated[
        dict[str, Any],
        Field(title="Decision", description="promoted, kept or rejected, and the reasons."),
    ]


class TrainingState(TrainingOutput, JobState, total=False):
    """The job's fields until `prepare` has stored them, then only prompts, numbers and ids.

    `prompts` holds the best prompts so far, `current` those that the search stands at. Both are
    `TextTensor`s, with the worst few gradients that the last trial on them has taught.
    """

    optimizer: Annotated[Any, shown_as(TrainingJob, "optimizer")]
    budget: Annotated[Any, shown_as(TrainingJob, "budget")]
    stop: Annotated[Any, shown_as(TrainingJob, "stop")]
    checkpoint_every: Annotated[int | None, shown_as(TrainingJob, "checkpoint_every")]
    steps_per_node: Annotated[int, shown_as(TrainingJob, "steps_per_node")]
    promote: Annotated[str, shown_as(TrainingJob, "promote")]
    guardrail: Annotated[Any, shown_as(TrainingJob, "guardrail")]
    goal: Annotated[Any, shown_as(TrainingJob, "goal")]
    objective: Annotated[Any, shown_as(TrainingJob, "objective")]
    exclude_nodes: Annotated[Any, shown_as(TrainingJob, "exclude_nodes")]
    task: Annotated[str | None, shown_as(TrainingJob, "task")]
    cross_validation: Annotated[int | None, shown_as(TrainingJob, "cross_validation")]
    publish: Annotated[Any, shown_as(TrainingJob, "publish")]
    step: Annotated[int, Field(title="Step", description="Optimizer steps finished.")]
    epoch: Annotated[
        int, Field(title="Epoch", description="Passes over the training cases finished.")
    ]
    best_objective: Annotated[
        float | None,
        Field(title="Best objective", description="The best complete validation objective so far."),
    ]
    current: Annotated[
        dict[str, TextTensor],
        Field(title="Current", description="The prompts that the search stands at."),
    ]
    scores: Annotated[
        dict[str, Any],
        Field(
            title="Scores",
            description="Means per evaluator of the best and of the current prompts: on all "
            "validation cases, until then on the cases of their last trial.",
        ),
    ]
    cross_validated: Annotated[
        dict[str, Any],
        Field(title="Cross-validated", description="The gain over the folds, where there are any."),
    ]
    checkpoint_due: Annotated[
        bool,
        Field(
            title="Checkpoint due",
            description="Whether a version is to be stored before the next step.",
        ),
    ]
    stopped: Annotated[
        str | None,
        Field(title="Stopped", description="Why the search is over; empty while it goes on."),
    ]
