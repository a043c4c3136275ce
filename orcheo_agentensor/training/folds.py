"""Cross-validation: what a training gains on cases that it has not seen, where cases are few.

The training and validation cases are cut into `k` folds. A training is made `k` times, each time
without one of them, and baseline and best are measured on the fold left out, paired. So each case
is held out once. The gain over all of them tells what such a training is worth; the version that
the job makes comes from one more training, on all of the cases.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from orcheo_agentensor.datasets import Case
from orcheo_agentensor.display import p_equals
from orcheo_agentensor.errors import BudgetTooSmall, ConfigError
from orcheo_agentensor.evaluation.statistics import paired_difference
from orcheo_agentensor.json_values import canonical_json, content_hash
from orcheo_agentensor.optimizers import derive_seed
from orcheo_agentensor.training.budget import Budget, required_rollouts

Fold: TypeAlias = tuple[Case, ...]

_LONGEST_ID = 120  # of the run, so that those of its folds are ids as well


def share(budget: Budget, k: int | None) -> Budget:
    """The part of a budget that each of `k` folds and the training on all cases gets."""
    if k is None:
        return budget
    limits = budget.model_dump()
    parts = {
        name: None if limit is None else limit / (k + 1) if name == "cost" else limit // (k + 1)
        for name, limit in limits.items()
    }
    return Budget(**parts)


def cut(cases: Sequence[Case], k: int, *, seed: int) -> tuple[Fold, ...]:
    """The cases in `k` folds of about one size; those with the same inputs are in the same one, and
    those with the same expected output in different ones, as far as it goes.

    Raises `ConfigError` where there are fewer different inputs than folds.
    """
    groups: dict[str, list[Case]] = {}
    for case in {case.id: case for case in cases}.values():
        groups.setdefault(canonical_json(case.inputs), []).append(case)
    if len(groups) < k:
        rule = f"needs as many cases with different inputs; there are {len(groups)}"
        raise ConfigError(field="job.cross_validation", value=k, rule=rule)
    keys = sorted(groups)
    random.Random(derive_seed(seed, k, "folds")).shuffle(keys)
    keys.sort(key=lambda key: canonical_json(groups[key][0].expected_output))
    found: list[list[Case]] = [[] for _ in range(k)]
    for number, key in enumerate(keys):
        found[number % k] += groups[key]
    return tuple(tuple(fold) for fold in found)


def splits_of(folds: Sequence[Fold], held: int) -> dict[str, list[Case]]:
    """The splits of the training that leaves the fold `held` out: the next one is its validation,
    where there are more than two."""
    next_one = (held + 1) % len(folds)
    rest = [n for n in range(len(folds)) if n not in (held, next_one)]
    if not rest:
        return {"train": [*folds[next_one]], "holdout": [*folds[held]]}
    train = [case for n in rest for case in folds[n]]
    return {"train": train, "validation": [*folds[next_one]], "holdout": [*folds[held]]}


def dataset_of(folds: Sequence[Fold], held: int, *, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The dataset of that training, as a job has it, with the metadata of the whole one."""
    cases = [
        {**case.to_json(), "split": name}
        for name, cases in splits_of(folds, held).items()
        for case in cases
    ]
    return {"metadata": dict(metadata), "cases": cases}


def run_id_of(run_id: str, held: int) -> str:
    """The id of that training's run: `RUN-fold-1`, with a hash in the place of a long id's end."""
    if len(run_id) > _LONGEST_ID:
        run_id = f"{run_id[: _LONGEST_ID - 33]}-{content_hash(run_id)[:32]}"
    return f"{run_id}-fold-{held + 1}"


def check_folds(
    folds: Sequence[Fold], shared: Budget, each: Budget, *, sizes: Mapping[str, int]
) -> None:
    """Raise `BudgetTooSmall` where `each` share of the budget does not pay for one of the folds, or
    for the training on all cases, whose `sizes` these are."""
    least = required_rollouts(**sizes)
    for held in range(len(folds)):
        splits = splits_of(folds, held)
        validation = splits.get("validation", splits["train"])
        fold = {"validation": len(validation), "holdout": len(splits["holdout"])}
        least = max(least, required_rollouts(**{**sizes, **fold}))
    if each.rollouts is None or each.rollouts >= least:
        return
    k, times = len(folds), len(folds) + 1
    raise BudgetTooSmall(
        f"budget.rollouts: {shared.rollouts} is too small: {times} trainings share it evenly "
        f"(cross_validation: {k}), {each.rollouts} for each, and one takes at least {least}; it "
        f"must be at least {times * least}",
        field="budget.rollouts",
        value=shared.rollouts,
        rule=f"must be at least {times * least}",
    )


def over_folds(found: Sequence[Mapping[str, Any]], *, seed: int) -> dict[str, Any]:
    """The gain over all folds, as JSON: paired on every case that was held out and scored under
    both, with its interval. May import scipy, so call it off the loop."""
    before = [score for fold in found for score in fold["before"]]
    after = [score for fold in found for score in fold["after"]]
    gain = asdict(paired_difference(before, after, seed=seed))
    gain["ci95"] = None if gain["ci95"] is None else list(gain["ci95"])
    shown = ("run_id", "n", "gain", "changed", "rollouts")
    return {
        "k": len(found),
        **gain,
        "changed": sum(fold["changed"] for fold in found),
        "rollouts": sum(fold["rollouts"] for fold in found),
        "folds": [{key: fold[key] for key in shown} for fold in found],
    }


def sentence(found: Mapping[str, Any]) -> str:
    """What cross-validation found."""
    if not found["n"]:
        return f"over {found['k']} folds no case was scored under both baseline and best"
    interval = "" if found["ci95"] is None else " [{:+.4f}, {:+.4f}]".format(*found["ci95"])
    return (
        f"over {found['k']} folds such a training gains {found['gain']:+.4f}{interval} on "
        f"{found['n']} cases that it has not seen ({p_equals(found['p_value'])}); this version was "
        "trained on all of them, and is not measured by it"
    )
