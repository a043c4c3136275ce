"""What a training job resolves to beyond what every run has: splits, optimizer, budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orcheo_agentensor.datasets import Case, Dataset
from orcheo_agentensor.errors import ConfigError
from orcheo_agentensor.json_values import canonical_json
from orcheo_agentensor.optimizers import (
    Optimizer,
    Proposer,
    resolve_model,
    resolve_optimizer,
    resolve_proposer,
)
from orcheo_agentensor.optimizers.guards import CaseTexts
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.targets.press import PublishTo
from orcheo_agentensor.tensor import TextTensor
from orcheo_agentensor.training.budget import Budget, check_budget, default_budget
from orcheo_agentensor.training.job import TrainingJob


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The resolved parts of a training job.

    `validation` is the train cases where the dataset has no such split; `holdout` is empty where
    it has none. `leaked` counts holdout cases whose inputs the search sees as well. `left_out`
    counts cases outside these splits. `broken` is what the proposer broke with since its last
    answer.
    """

    optimizer: Optimizer
    proposer: Proposer
    critic_model: Any
    budget: Budget
    budget_given: bool
    train: tuple[Case, ...]
    validation: tuple[Case, ...]
    holdout: tuple[Case, ...]
    left_out: int
    leaked: int
    trainable: tuple[str, ...]
    texts: CaseTexts
    publish: PublishTo | None = None
    broken: list[str] = field(default_factory=list)


def make_plan(
    job: TrainingJob,
    dataset: Dataset,
    prompts: Mapping[str, TextTensor],
    *,
    optimizer: Any,
    settings: Settings,
) -> tuple[Plan, dict[str, Any]]:
    """The plan of a job, and the JSON description that makes it part of the run's identity.

    Raises `BadInput` for a job with nothing to train, nobody to propose, no train cases, or a
    budget that cannot pay for what is fixed.
    """
    trainable = tuple(sorted(name for name, tensor in prompts.items() if tensor.requires_grad))
    if not trainable:
        rule = "has only frozen prompts" if prompts else "must name at least one prompt"
        raise ConfigError(
            field="job.prompts", value=sorted(prompts), rule=f"{rule}; nothing can be trained"
        )
    chosen = resolve_optimizer(
        job.optimizer if job.optimizer is not None else optimizer, settings=settings
    )
    proposer = resolve_proposer(chosen, settings=settings)
    train, validation, holdout = split_cases(dataset)
    batch = int(getattr(chosen, "minibatch", 10))
    budget = job.budget or default_budget(
        train=len(train),
        validation=len(validation),
        holdout=len(holdout),
        minibatch=batch,
        replicates=job.replicates,
    )
    check_budget(
        budget, validation=len(validation), holdout=len(holdout), replicates=job.replicates
    )
    model = getattr(chosen, "model", None) if getattr(chosen, "criticises", False) else None
    plan = Plan(
        optimizer=chosen,
        proposer=proposer,
        critic_model=resolve_model(model, field="optimizer.model") if model else None,
        budget=budget,
        budget_given=job.budget is not None,
        train=train,
        validation=validation,
        holdout=holdout,
        leaked=_leaked(holdout, to=(*train, *validation)),
        left_out=len(dataset) - len({c.id for c in (*train, *validation, *holdout)}),
        trainable=trainable,
        publish=_publish_to(job, settings),
        texts=CaseTexts(value for case in dataset for value in (case.inputs, case.expected_output)),
    )
    described = {
        "optimizer": describe(chosen),
        "proposer": type(proposer).__qualname__,
        "budget": budget.model_dump(),
        "stop": [condition.model_dump() for condition in job.stop],
        "checkpoint_every": job.checkpoint_every,
        "promote": job.promote,
        "seed": job.seed,
    }
    if plan.publish is not None:
        described["publish"] = plan.publish.model_dump(mode="json")
    return plan, described


def _publish_to(job: TrainingJob, settings: Settings) -> PublishTo | None:
    if job.publish is None:
        return None
    to = PublishTo.parse(job.publish, field="job.publish")
    to.require_allowed(settings, field="job.publish")
    return to


def split_cases(
    dataset: Dataset,
) -> tuple[tuple[Case, ...], tuple[Case, ...], tuple[Case, ...]]:
    """Train, validation and holdout cases.

    Without any split all cases are train and validation at once; without a validation split the
    train cases serve as one. Raises `ConfigError` when other splits leave no train cases.
    """
    there = dataset.splits()
    if not there:
        return dataset.cases, dataset.cases, ()
    if "train" not in there:
        raise ConfigError(
            field="job.dataset", value=sorted(there), rule="must have a split named 'train'"
        )
    train = dataset.split("train").cases
    validation = dataset.split("validation").cases if "validation" in there else train
    holdout = dataset.split("holdout").cases if "holdout" in there else ()
    return train, validation, holdout


def _leaked(holdout: Sequence[Case], *, to: Sequence[Case]) -> int:
    """How many holdout cases have the inputs of one of the others."""
    seen = {canonical_json(case.inputs) for case in to} if holdout else ()
    return sum(canonical_json(case.inputs) in seen for case in holdout)


def describe(optimizer: Any) -> dict[str, Any]:
    """An optimizer's name and plain options."""
    options = optimizer.model_dump() if hasattr(optimizer, "model_dump") else {}
    plain = {k: v for k, v in options.items() if isinstance(v, str | int | float | bool)}
    return {**plain, "name": optimizer.name}
