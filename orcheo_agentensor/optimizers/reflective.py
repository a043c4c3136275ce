"""`reflective`: edit the blamed prompts by what their failing cases teach, and prove it cheaply.

The search keeps a pool of candidates with what each scored on which case, as GEPA does (Agrawal et
al., 2025, arXiv 2507.19457): parents come from the Pareto front over the validation cases, and
complementary candidates are merged. It differs where GEPA spends its rollouts: minibatches take
failing and unseen cases first and use again what is known; all blamed prompts are rewritten
together; a chain of edits is validated when its training cases have nothing more to teach, not
after every edit; and no contest goes on once it is decided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from orcheo_agentensor.optimizers.base import SearchSpace, State, Trial, TrialOutcome, derive_seed
from orcheo_agentensor.optimizers.pool import CandidatePool, Entry, next_merge

MAX_GROWTH = 16
"""So many times its size a minibatch may grow to."""

MAX_RECALLED = 100
"""Cases that a parent was run on before, and that a proposer is shown again with a minibatch."""


class Reflective(BaseModel):
    """Reflective search over a Pareto pool.

    `minibatch` is the most cases a trial learns from and is tested on, and `chain` how many
    accepted edits may follow each other before one is validated: at first, because the one doubles
    and the other is halved when a chain that won on minibatches loses on validation. `parallel`
    trials are in flight at once: several proposals from the same minibatch, of which the best is
    gone on with. `momentum` is how many past edits of a prompt the proposer sees, `patience` how
    many minibatches in vain a parent gets before another one is chosen. `model` names the chat
    model that proposes; `proposer` replaces it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    pipelined: ClassVar[bool] = True

    name: str = "reflective"
    minibatch: int = Field(10, ge=1)
    parallel: int = Field(1, ge=1, le=64)
    momentum: int = Field(8, ge=0)
    chain: int = Field(4, ge=1)
    patience: int = Field(3, ge=1)
    proposer: Any = None
    model: Any = None

    def start(self, space: SearchSpace) -> State:
        """Begin at the baseline, with the first trials planned."""
        state: State = {
            "seed": space.seed,
            "components": list(space.components),
            "case_ids": list(space.case_ids),
            "baseline": space.baseline,
            "best": space.baseline,
            "current": space.baseline,
            "asked": 0,
            "used": 0,
            "epoch": 0,
            "open": [],
            "unread": [],
            "lessons": {},
            "size": self.minibatch,
            "largest": min(MAX_GROWTH * self.minibatch, len(space.case_ids)),
            "chain": self.chain,
            "merged": [],
        }
        return self._plan(state, CandidatePool.begin(space.baseline))

    def ask(self, state: State) -> Sequence[Trial]:
        """The open trials, oldest first."""
        return [Trial.from_json(entry) for entry in state["open"]]

    def tell(self, state: State, outcomes: Sequence[TrialOutcome]) -> State:
        """Take in the outcomes of the oldest trials, and plan as many new ones."""
        state = {**state}
        pool = CandidatePool.from_json(state["pool"])
        for outcome in outcomes:
            first, *rest = state["open"]
            state["open"] = rest
            _learn(state, pool, Trial.from_json(first), outcome)
        return self._plan(state, pool)

    def finalists(self, state: State) -> Sequence[str]:
        """The end of the current chain, where it was not validated yet."""
        current = CandidatePool.from_json(state["pool"])[state["current"]]
        return [] if current.judged else [current.hash]

    def _plan(self, state: State, pool: CandidatePool) -> State:
        while len(state["open"]) < self.parallel:
            trial = self._next(state, pool)
            if trial is None:
                break
            state = {
                **state,
                "open": [*state["open"], trial.to_json()],
                "asked": state["asked"] + 1,
            }
        pool.prune(keep={state["best"], state["current"], state["baseline"], *_in_use(state)})
        state["epoch"] = state["used"] // len(state["case_ids"])
        state["pool"] = pool.to_json()
        return state

    def _next(self, state: State, pool: CandidatePool) -> Trial | None:
        """The next trial: validate a chain that is ripe, merge what complements, else edit."""
        open_trials = [Trial.from_json(entry) for entry in state["open"]]
        seed = derive_seed(state["seed"], state["asked"], "trial")
        components = tuple(state["components"])
        current = pool[state["current"]]
        cases = self._cases(state, pool, current, open_trials)
        validating = any(trial.purpose == "validate" for trial in open_trials)
        ripe = current.depth >= state["chain"] or current.rejected >= 2 or not cases
        if not current.judged and not validating and (ripe or current.quiet >= 2):
            return Trial(
                parent=current.hash,
                case_ids=(),
                components=components,
                seed=seed,
                purpose="validate",
                rival=state["best"],
            )
        pair = next_merge(pool, state["best"], state["merged"])
        if pair is not None and not validating:
            state["merged"] = [*state["merged"], pair.key]
            return Trial(
                parent=state["best"],
                case_ids=(),
                components=components,
                seed=seed,
                purpose="merge",
                gated=False,
                rival=state["best"],
                donors=pair.donors,
            )
        parent, purpose = current, "rewrite"
        if current.rejected >= self.patience:
            parent = pool.sample(derive_seed(state["seed"], state["asked"], "parent"))
            if parent.rejected >= 2 * self.patience and state["asked"] % 2:
                purpose = "restart"
            cases = self._cases(state, pool, parent, open_trials)
        if not cases:
            return None
        parent.shots = parent.shots + 1 if cases == tuple(parent.batch) else 1
        parent.batch = list(cases)
        return Trial(
            parent=parent.hash,
            case_ids=cases,
            components=components,
            seed=seed,
            purpose=purpose,  # type: ignore[arg-type]
            validated=False,
            refined=True,
            recalled=_recalled(parent, without={*cases, *state["unread"]}),
        )

    def _cases(
        self, state: State, pool: CandidatePool, parent: Entry, open_trials: Sequence[Trial]
    ) -> tuple[str, ...]:
        """The minibatch for a parent; empty when no case can teach anything new about it.

        Proposals in flight at once share a minibatch: its rollouts are paid for once.
        """
        if 0 < parent.shots < self.parallel:
            return tuple(parent.batch)
        busy = {case for trial in open_trials for case in trial.case_ids} | set(state["unread"])
        return pool.minibatch(
            parent.hash,
            state["case_ids"],
            busy=busy,
            lessons=state["lessons"],
            size=state["size"],
            seed=derive_seed(state["seed"], state["asked"], "minibatch"),
        )


def _recalled(parent: Entry, *, without: Set[str]) -> tuple[str, ...]:
    """Cases that `parent` was run on, those it does worst on first."""
    known = sorted(parent.scores.keys() - without, key=lambda case: (parent.scores[case], case))
    return tuple(sorted(known[:MAX_RECALLED]))


def _in_use(state: Mapping[str, Any]) -> set[str]:
    used: set[str] = set()
    for entry in state["open"]:
        used |= {entry["parent"], entry["rival"] or entry["parent"], *entry["donors"].values()}
    return used


def _learn(state: State, pool: CandidatePool, trial: Trial, outcome: TrialOutcome) -> None:
    """What one outcome changes in the state and the pool."""
    state["used"] += len(trial.case_ids)
    parent = pool[trial.parent]
    parent.scores.update(outcome.parent_scores)
    broken = [case for case in trial.case_ids if case not in outcome.parent_scores]
    parent.failed = sorted({*parent.failed, *broken} - outcome.parent_scores.keys())
    if trial.purpose == "validate":
        _judge(state, pool, trial, trial.parent, outcome)
        return
    if trial.purpose == "merge":
        if outcome.child is not None and outcome.child not in pool:
            pool.add(outcome.child, parent=trial.parent, changed=tuple(outcome.prompts), taught=())
        if outcome.child is not None:
            _judge(state, pool, trial, outcome.child, outcome)
        return
    if not outcome.blamed:
        state["unread"] = sorted({*state["unread"], *trial.case_ids})
        return
    if outcome.status == "nothing_to_learn":
        parent.quiet += 1
        return
    full = pool.full_marks()
    failing = [case for case in trial.case_ids if outcome.parent_scores.get(case, 0.0) < full]
    learnt = outcome.status == "accepted"
    lessons = dict(state["lessons"])
    for case in failing:
        if not (learnt and outcome.case_scores.get(case, 1.0) >= full):
            lessons[case] = lessons.get(case, 0) + 1
    state["lessons"] = lessons
    if not learnt or outcome.child is None:
        if list(trial.case_ids) != parent.missed:
            parent.rejected += 1
            parent.missed = list(trial.case_ids)
        if trial.parent == state["current"] and not parent.judged:
            _step_back(state, pool, parent)
        return
    fresh = outcome.child not in pool
    if fresh:
        pool.add(
            outcome.child,
            parent=trial.parent,
            changed=tuple(outcome.prompts),
            taught=failing,
        )
    pool[outcome.child].scores.update(outcome.case_scores)
    parent.rejected = 0
    state["unread"] = []
    if fresh and (trial.parent == state["current"] or pool.better(outcome.child, state["current"])):
        state["current"] = outcome.child


def _step_back(state: State, pool: CandidatePool, current: Entry) -> None:
    """Leave a chain's end that fails on cases where the candidates before it do not."""
    above = current.parent
    if above is None or above not in pool:
        above = state["best"]
    if pool.fails_more(current.hash, state["best"]):
        current.judged = True
        state["current"] = above


def _judge(
    state: State, pool: CandidatePool, trial: Trial, judged: str, outcome: TrialOutcome
) -> None:
    """A candidate was validated against the best: it is the new best, or the chain goes back."""
    entry = pool[judged]
    entry.judged = True
    entry.validation.update(outcome.validation_scores)
    entry.objective = outcome.validation
    entry.depth = 0
    if outcome.status == "accepted":
        state["best"] = state["current"] = judged
        state["merged"] = []
        return
    if trial.purpose == "merge":
        return
    # What its minibatches promised did not hold: they were too small a sample, and too many edits
    # were built on them.
    state["chain"] = max(1, state["chain"] // 2)
    state["size"] = max(state["size"], min(2 * state["size"], state["largest"]))
    if judged == state["current"]:
        state["current"] = state["best"]
        pool[state["best"]].rejected += 1
