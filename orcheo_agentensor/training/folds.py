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
from orcheo_agentensor.errors import ConfigError
from orcheo_agentensor.evaluation.statistics import paired_difference
from orcheo_agentensor.json_values import canonical_json
from orcheo_agentensor.optimizers import derive_seed
from orcheo_agentensor.training.budget import Budget, check_budget

Fold: TypeAlias = tuple[Case, ...]


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


def dataset_of(folds: Sequence[Fold], held: int) -> dict[str, Any]:
    """The dataset of that training, as a job has it."""
    return {
        "cases": [
            {**case.to_json(), "split": name}
            for name, cases in splits_of(folds, held).items()
            for case in cases
        ]
    }


def check_folds(folds: Sequence[Fold], budget: Budget, *, replicates: int) -> None:
    """Raise `BudgetTooSmall` where a share of the budget does not pay for one of the folds."""
    for held in range(len(folds)):
        splits = splits_of(folds, held)
        validation = splits.get("validation", splits["train"])
        sizes = {"validation": len(validation), "holdout": len(splits["holdout"])}
        check_budget(budget, **sizes, replicates=replicates)


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
    interval = "" if found["ci95"] is None else " [{:+.4f}, {:+.4f}]".format(*found["ci95"])
    return (
        f"over {found['k']} folds such a training gains {found['gain']:+.4f}{interval} on "
        f"{found['n']} cases that it has not seen (p = {found['p_value']:.4f}); this version was "
        "trained on all of them, and is not measured by it"
    )
