"""Talking to an optimizer: what it answers is checked, because anybody may have written it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_args

from orcheo_agentensor.errors import RunFailed, shorten
from orcheo_agentensor.optimizers import SearchSpace, Trial, TrialOutcome
from orcheo_agentensor.optimizers.base import State, TrialKind
from orcheo_agentensor.training.memory import Pool
from orcheo_agentensor.training.plan import Plan

KINDS = get_args(TrialKind)
WITHOUT_CASES = ("merge", "validate")

T = TypeVar("T")


def start(plan: Plan, space: SearchSpace) -> State:
    """The optimizer's first state. Raises `RunFailed` for one that cannot be kept."""
    return _state(plan, "start", _called(plan, "start", lambda: plan.optimizer.start(space)))


def tell(plan: Plan, state: State, outcomes: Sequence[TrialOutcome]) -> State:
    """The optimizer's next state. Raises `RunFailed` for one that cannot be kept."""
    found = _called(plan, "tell", lambda: plan.optimizer.tell(state, outcomes))
    return _state(plan, "tell", found)


def ask(plan: Plan, state: State, pool: Pool) -> list[Trial]:
    """The trials the optimizer wants. Raises `RunFailed` for one that cannot be made."""

    def asked() -> list[Any]:
        found: Any = plan.optimizer.ask(state)
        if isinstance(found, str | Mapping | Trial):
            raise _wrong(plan, "ask", f"gave {shorten(found)}, not a list of trials")
        return list(found or ())

    trials = _called(plan, "ask", asked)
    cases = {case.id for case in plan.train}
    for trial in trials:
        if reason := _objection(trial, pool=pool, cases=cases, components=set(plan.trainable)):
            raise _wrong(plan, "ask", reason)
    return trials


def finalists(plan: Plan, state: State, pool: Pool) -> list[str]:
    """Candidates that are worth validating once the search is over. Raises `RunFailed`."""
    method = getattr(plan.optimizer, "finalists", None)
    if method is None:
        return []
    found = _called(plan, "finalists", lambda: list(method(state)))
    for candidate in found:
        if candidate not in pool:
            raise _wrong(plan, "finalists", f"names no known candidate: {shorten(candidate)}")
    return found


def _objection(trial: Any, *, pool: Pool, cases: set[str], components: set[str]) -> str | None:
    if not isinstance(trial, Trial):
        return f"gave {shorten(trial)}, not a Trial"
    if trial.purpose not in KINDS:
        return f"has a trial of purpose {trial.purpose!r}; known: {', '.join(KINDS)}"
    for candidate in (trial.parent, trial.rival or trial.parent, *trial.donors.values()):
        if candidate not in pool:
            return f"has a trial with no known candidate: {shorten(candidate)}"
    if unknown := sorted({*trial.case_ids, *trial.recalled} - cases):
        return f"has a trial on {unknown[0]!r}, which is no training case"
    if unknown := sorted({*trial.components, *trial.donors} - components):
        return f"has a trial on the component {unknown[0]!r}, which is no trainable prompt"
    if trial.purpose in WITHOUT_CASES:
        return None
    if not trial.case_ids or not trial.components:
        missing = "components" if trial.case_ids else "case_ids"
        return f"has a {trial.purpose!r} trial without {missing}"
    return None


def _state(plan: Plan, method: str, state: Any) -> State:
    if not isinstance(state, dict):
        raise _wrong(plan, method, f"gave {shorten(state)}, not a dict as its state")
    try:
        # As it will be read back: a resumed run must see the same state as one that went on.
        kept: State = json.loads(json.dumps(state, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise _wrong(plan, method, f"gave a state that is not JSON: {error}") from None
    if not isinstance(kept.get("epoch", 0), int):
        raise _wrong(plan, method, f"gave the epoch {shorten(kept['epoch'])}, not an integer")
    if not isinstance(kept.get("current", ""), str):
        raise _wrong(plan, method, f"gave {shorten(kept['current'])} as current, not a candidate")
    return kept


def _called(plan: Plan, method: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except RunFailed:
        raise
    except Exception as error:
        raise _wrong(plan, method, f"failed: {type(error).__name__}: {error}") from error


def _wrong(plan: Plan, method: str, what: str) -> RunFailed:
    return RunFailed(f"optimizer {plan.optimizer.name!r}: {method}() {what}")
