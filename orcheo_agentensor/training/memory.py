"""What training knows between two steps: plain JSON in the side store, the truth after a resume."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from orcheo_agentensor.evaluation.runner import Candidate
from orcheo_agentensor.optimizers import Edit
from orcheo_agentensor.tensor import TextTensor

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Lease, Store

KEPT_EDITS = 64
KEPT_STEPS = 2


@dataclass(kw_only=True)
class Memory:
    """The state of a search after `step` finished steps.

    `optimizer` is the optimizer's own state; `edits` the newest past edits by prompt, each with the
    number of the outcome it came from; `best` the hash of the best candidate with its validation
    `objective` (None until it is measured on all cases); `validated` maps candidates measured on
    all validation cases to the outcome that did it; `due` lists candidates to store as versions,
    with the reason; `versions` maps stored candidates to version numbers; `idle` counts steps in a
    row that ran nothing new; `stopped` says why the search is over, `settled` that its finalists
    were looked at; `beyond` is the first outcome with a score outside [0, 1].
    """

    step: int = 0
    told: int = 0
    epoch: int = 0
    optimizer: dict[str, Any] = field(default_factory=dict)
    edits: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
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
    beyond: int | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Memory:
        """The inverse of `to_json`."""
        known = {entry.name for entry in fields(cls)}
        return cls(**{key: value for key, value in data.items() if key in known})

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        return asdict(self)

    def history(self, name: str, *, newest: int, known: int) -> tuple[Edit, ...]:
        """The `newest` past edits of a prompt among the first `known` outcomes, oldest first."""
        edits = [entry for entry in self.edits.get(name, []) if entry.get("told", 0) < known]
        return tuple(
            Edit(**{key: value for key, value in entry.items() if key != "told"})
            for entry in (edits[-newest:] if newest else [])
        )

    def remember(self, name: str, edit: Edit) -> None:
        """Add an edit of the outcome at hand; the oldest go when there are over `KEPT_EDITS`."""
        entry = {**asdict(edit), "told": self.told}
        self.edits[name] = [*self.edits.get(name, []), entry][-KEPT_EDITS:]

    def knows_validation(self, candidate_hash: str, *, known: int) -> bool:
        """Whether the first `known` outcomes include a full validation of a candidate."""
        return self.validated.get(candidate_hash, known) < known

    def full_marks(self, *, known: int) -> float:
        """The score that nothing can beat, by the first `known` outcomes: 1.0, and infinite once
        one was outside [0, 1], because nobody knows where such a scale ends."""
        return math.inf if self.beyond is not None and self.beyond < known else 1.0

    async def save(self, store: Store, run_id: str, *, lease: Lease) -> None:
        """Store this state; older ones than the last are dropped."""
        await store.training.save_state(
            run_id, self.step, self.to_json(), keep=KEPT_STEPS, lease=lease
        )


async def load_memory(store: Store, run_id: str) -> Memory | None:
    """The newest state of a run; None before its baseline is done."""
    data = await store.training.load_state(run_id)
    return None if data is None else Memory.from_json(data)


class Pool:
    """The candidates of one run by hash: read once, then kept up as new ones are saved."""

    def __init__(self, prompts: Mapping[str, TextTensor]) -> None:
        self._frame = dict(prompts)
        self._texts: dict[str, dict[str, str]] = {}
        self._parents: dict[str, list[str]] = {}
        self._steps: dict[str, int] = {}

    async def load(self, store: Store, run_id: str) -> Pool:
        """Read the candidates an earlier process has saved."""
        for record in await store.training.candidates(run_id):
            self._texts[record.candidate_hash] = record.prompts
            self._parents[record.candidate_hash] = record.parents
            self._steps[record.candidate_hash] = int(record.info.get("step", 0))
        return self

    def __getitem__(self, candidate_hash: str) -> Candidate:
        return self.with_texts(self._texts[candidate_hash])

    def __contains__(self, candidate_hash: object) -> bool:
        return candidate_hash in self._texts

    def with_texts(self, texts: Mapping[str, str]) -> Candidate:
        """The run's prompt set with these texts; flags and metadata stay as the job gave them."""
        return Candidate.of(
            {
                name: tensor
                if texts.get(name, tensor.text) == tensor.text
                else tensor.with_text(texts[name])
                for name, tensor in self._frame.items()
            }
        )

    def is_new(self, candidate_hash: str, *, step: int) -> bool:
        """Whether no step before `step` has made this candidate."""
        return self._steps.get(candidate_hash, step) >= step

    def parent(self, candidate_hash: str) -> str | None:
        """The candidate that `candidate_hash` was made from."""
        parents = self._parents.get(candidate_hash)
        return parents[0] if parents else None

    async def save(
        self,
        store: Store,
        run_id: str,
        candidate: Candidate,
        *,
        parent: str | None,
        status: str,
        step: int,
        info: dict[str, Any],
        lease: Lease,
    ) -> None:
        """Store a candidate with what came of it; one that is known stays as it is."""
        if not self.is_new(candidate.hash, step=step):
            return
        texts = {name: tensor.text for name, tensor in candidate.prompts.items()}
        parents = [parent] if parent else []
        self._texts[candidate.hash] = texts
        self._parents.setdefault(candidate.hash, parents)
        self._steps[candidate.hash] = step
        await store.training.save_candidate(
            run_id,
            candidate.hash,
            prompts=texts,
            parents=parents,
            status=status,
            info={**info, "step": step},
            lease=lease,
        )
