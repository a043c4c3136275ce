"""`TrainingJob`, the input of a training through every door, and the plan it resolves to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field

from orcheo_agentensor.datasets import Case, Dataset
from orcheo_agentensor.errors import BadInput, ConfigError
from orcheo_agentensor.json_values import StrictNumbers, canonical_json, prose_only
from orcheo_agentensor.optimizers import (
    HasWindow,
    Optimizer,
    Proposer,
    own_models,
    resolve_model,
    resolve_optimizer,
    resolve_proposer,
)
from orcheo_agentensor.optimizers.guards import CaseTexts
from orcheo_agentensor.optimizers.registry import optimizer_form
from orcheo_agentensor.optimizers.slots import KEY, check_slots, plain_template
from orcheo_agentensor.prompts import TextTensor
from orcheo_agentensor.publishing import PublishTo
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.runs.job import Job
from orcheo_agentensor.runs.schema import Form
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.targets.described import described, model_info, models_of, plain
from orcheo_agentensor.training.budget import Budget, check_budget, default_budget
from orcheo_agentensor.training.folds import Fold, check_folds, cut, dataset_of, share
from orcheo_agentensor.training.objective import Objective, check_objective


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a stop condition may look at.

    `step` counts finished optimizer steps, `epoch` finished passes over the training cases; `best`
    is the highest complete validation objective, found `steps_since_best` steps ago; `elapsed` is
    in seconds since the run began, pauses included.
    """

    step: int
    epoch: int
    best: float | None
    steps_since_best: int
    elapsed: float


SPLITS = ("train", "validation", "holdout")
_TYPE = "Which condition this is."


class _Stop(StrictNumbers):
    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=prose_only)

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)


class TargetScore(_Stop):
    """Stop once the best validation objective is at least `score`.

    Example:
        >>> from orcheo_agentensor import TargetScore
        >>> TargetScore(0.9).model_dump()
        {'type': 'target_score', 'score': 0.9}
    """

    type: Literal["target_score"] = Field(default="target_score", title="Type", description=_TYPE)
    score: float = Field(title="Score", description="The validation objective to reach.")

    def __init__(self, score: float, **data: Any) -> None:
        """Take the one setting by position too: `TargetScore(0.9)`."""
        super().__init__(score=score, **data)

    def reason(self, progress: Progress) -> str | None:
        """Why to stop now, or None."""
        if progress.best is not None and progress.best >= self.score - 1e-12:
            return f"target score {self.score:g} reached"
        return None


class Patience(_Stop):
    """Stop after `steps` steps in a row without a new best.

    Example:
        >>> from orcheo_agentensor import Patience
        >>> Patience(5).model_dump()
        {'type': 'patience', 'steps': 5}
    """

    type: Literal["patience"] = Field(default="patience", title="Type", description=_TYPE)
    steps: int = Field(ge=1, title="Steps", description="Steps in a row without a new best.")

    def __init__(self, steps: int, **data: Any) -> None:
        """Take the one setting by position too: `Patience(5)`."""
        super().__init__(steps=steps, **data)

    def reason(self, progress: Progress) -> str | None:
        """Why to stop now, or None."""
        if progress.steps_since_best >= self.steps:
            return f"no new best in {self.steps} steps"
        return None


class Deadline(_Stop):
    """Stop `seconds` after the run began.

    Example:
        >>> from orcheo_agentensor import Deadline
        >>> Deadline(600).model_dump()
        {'type': 'deadline', 'seconds': 600.0}
    """

    type: Literal["deadline"] = Field(default="deadline", title="Type", description=_TYPE)
    seconds: float = Field(gt=0, title="Seconds", description="Seconds since the run began.")

    def __init__(self, seconds: float, **data: Any) -> None:
        """Take the one setting by position too: `Deadline(5)`."""
        super().__init__(seconds=seconds, **data)

    def reason(self, progress: Progress) -> str | None:
        """Why to stop now, or None."""
        return f"{self.seconds:g} s have passed" if progress.elapsed >= self.seconds else None


class MaxSteps(_Stop):
    """Stop after `steps` optimizer steps.

    Example:
        >>> from orcheo_agentensor import MaxSteps
        >>> MaxSteps(20).model_dump()
        {'type': 'max_steps', 'steps': 20}
    """

    type: Literal["max_steps"] = Field(default="max_steps", title="Type", description=_TYPE)
    steps: int = Field(ge=0, title="Steps", description="Most optimizer steps.")

    def __init__(self, steps: int, **data: Any) -> None:
        """Take the one setting by position too: `MaxSteps(5)`."""
        super().__init__(steps=steps, **data)

    def reason(self, progress: Progress) -> str | None:
        """Why to stop now, or None."""
        return f"{self.steps} steps done" if progress.step >= self.steps else None


class MaxEpochs(_Stop):
    """Stop after `epochs` passes over the training cases.

    Example:
        >>> from orcheo_agentensor import MaxEpochs
        >>> MaxEpochs(2).model_dump()
        {'type': 'max_epochs', 'epochs': 2}
    """

    type: Literal["max_epochs"] = Field(default="max_epochs", title="Type", description=_TYPE)
    epochs: int = Field(ge=0, title="Epochs", description="Most passes over the training cases.")

    def __init__(self, epochs: int, **data: Any) -> None:
        """Take the one setting by position too: `MaxEpochs(5)`."""
        super().__init__(epochs=epochs, **data)

    def reason(self, progress: Progress) -> str | None:
        """Why to stop now, or None."""
        return f"{self.epochs} epochs done" if progress.epoch >= self.epochs else None


StopCondition: TypeAlias = Annotated[
    TargetScore | Patience | Deadline | MaxSteps | MaxEpochs, Field(discriminator="type")
]


def stop_reason(conditions: Sequence[StopCondition], progress: Progress) -> str | None:
    """The reason of the first condition that holds, or None."""
    reasons = (condition.reason(progress) for condition in conditions)
    return next(filter(None, reasons), None)


class LatencyGuardrail(StrictNumbers):
    """The p95 latency on holdout may be `p95_ratio` times the baseline's and `slack_ms` more.

    A breach has to be significant; with fewer than `min_cases` paired cases nothing is decided.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    p95_ratio: float = Field(
        default=1.25, gt=0, le=1000, title="Ratio", description="Most times the baseline's p95."
    )
    slack_ms: float = Field(
        default=50.0,
        ge=0,
        le=86_400_000,
        title="Slack",
        description="Milliseconds above that which are allowed, too.",
    )
    min_cases: int = Field(
        default=20, ge=2, title="Cases", description="Below so many cases nothing is decided."
    )


class CostGuardrail(StrictNumbers):
    """The mean cost of a holdout case may be `ratio` times the baseline's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ratio: float = Field(
        gt=0, le=1000, title="Ratio", description="Most times the baseline's mean cost of a case."
    )


def _is_off(value: Any) -> Any:
    return "off" if value is False else value  # what YAML makes of a bare `off`


class Guardrail(StrictNumbers):
    """What forbids a promotion by itself; all of it is measured on holdout.

    Example:
        >>> from orcheo_agentensor import Guardrail
        >>> guardrail = Guardrail(alpha=0.01, latency="off")
        >>> guardrail.min_ratio, guardrail.cost
        (0.98, 'off')
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, title="Guardrail", json_schema_extra=prose_only
    )

    alpha: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        title="Alpha",
        description="A gain counts where its p value is below this.",
    )
    min_ratio: float = Field(
        default=0.98,
        gt=0,
        le=1,
        title="Least ratio",
        description="Least share of the baseline's mean, per evaluator.",
    )
    latency: Annotated[LatencyGuardrail | Literal["off"], BeforeValidator(_is_off)] = Field(
        default=LatencyGuardrail(),
        title="Latency",
        description="How much slower the best may be, or off.",
    )
    cost: Annotated[CostGuardrail | Literal["off"], BeforeValidator(_is_off)] = Field(
        default="off", title="Cost", description="How much dearer the best may be, or off."
    )


class Goal(StrictNumbers):
    """The gain over the baseline that a training aims at, as a share of the baseline's mean.

    It is reported on each split. On those of `gate` it must be met: else the run ends as a missed
    threshold and promotes nothing by itself.

    Example:
        >>> from orcheo_agentensor.training import Goal
        >>> Goal(gate=["holdout"]).gain
        0.1
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, title="Goal", json_schema_extra=prose_only
    )

    gain: float = Field(
        default=0.10, gt=0, le=100, title="Gain", description="Share of the baseline's mean."
    )
    gate: list[Literal["train", "validation", "holdout"]] = Field(
        [], title="Gate", description="Splits on which it must be met."
    )


def _none_if_said(value: Any) -> Any:
    return None if value == "none" else value


class TrainingJob(Job):
    """Train the prompts of a workflow on a dataset.

    Example:
        >>> from orcheo_agentensor import TrainingJob
        >>> job = TrainingJob.parse(
        ...     {
        ...         "target": "shop.flow:graph",
        ...         "prompts": {"reply": "Be kind."},
        ...         "dataset": "tickets.jsonl",
        ...         "evaluators": ["exact_match"],
        ...         "stop": [{"type": "patience", "steps": 6}],
        ...     }
        ... )
        >>> job.promote, job.stop
        ('never', [Patience(type='patience', steps=6)])
    """

    model_config = ConfigDict(title="Training job")

    optimizer: str | dict[str, Any] | None = Field(
        default=None,
        title="Optimizer",
        description="A name, or {name, …options}; the default when empty.",
        examples=[
            {"name": "textgrad", "proposer": "orcheo_agentensor.demo.proposer:LexicalProposer"},
            "reflective",
            "textgrad",
            {"name": "demos", "most": 8},
            "random_search",
        ],
    )
    budget: Budget | None = Field(
        default=None,
        title="Budget",
        description="What the run may spend; computed from the split sizes when left out.",
    )
    stop: list[StopCondition] = Field(
        [],
        title="Stop conditions",
        description='Such as {"type": "target_score", "score": 1.0}; the budget always counts.',
        examples=[[{"type": "max_steps", "steps": 2}]],
    )
    checkpoint_every: Annotated[int | None, BeforeValidator(_none_if_said)] = Field(
        default=None,
        ge=1,
        title="Checkpoint interval",
        description="After so many optimizer steps what the search stands at is validated and "
        "stored; none: only the baseline and each new best are, which costs nothing.",
        examples=[10, "none"],
    )
    steps_per_node: int = Field(
        default=1,
        ge=1,
        title="Steps per node",
        description="Optimizer steps in one execution of the graph's node `step`, each with one "
        "LangGraph checkpoint.",
    )
    promote: Literal["auto", "ask", "never"] = Field(
        default="never",
        title="Promotion",
        description="auto: promote what is proved; ask: pause for a person; never: only store.",
    )
    guardrail: Guardrail = Field(
        default=Guardrail(),
        title="Guardrails",
        description="What forbids a promotion: {alpha, min_ratio, latency, cost}.",
    )
    exclude_nodes: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        [],
        title="Excluded nodes",
        description="Nodes in which no prompt is to blame; one read only there is not trained.",
        max_length=100,
    )
    goal: Goal = Field(
        default=Goal(),
        title="Goal to reach",
        description="The gain to aim at, and where it must be met: {gain, gate}.",
    )
    objective: Objective = Field(
        default=Objective(),
        title="Objective and limits",
        description="The best score, within limits: {score: max, cost, latency, length}.",
        examples=[{"score": "max", "cost": "<= 1.1x", "length": "<= 4000"}],
    )
    task: str | None = Field(
        default=None,
        max_length=20_000,
        title="Task",
        description="What the workflow is for, in words: shown to the proposer with the dataset's "
        "metadata.",
        examples=["Sort messages of a bank's customers into three queues."],
    )
    cross_validation: int | None = Field(
        default=None,
        ge=2,
        le=20,
        title="Cross-validation",
        description="So many trainings beside, each without one fold of the cases, tell what such "
        "a training gains on cases that it has not seen.",
        examples=[5],
    )
    publish: dict[str, Any] | None = Field(
        default=None,
        title="Publish",
        description="Where a promoted version is published: {url, assistant, api_key_env, graph, "
        "create}.",
    )

    @classmethod
    def _forms(cls) -> dict[str, Form]:
        return {"optimizer": optimizer_form}


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The resolved parts of a training job.

    `validation` is the train cases where the dataset has no such split; `holdout` is empty where
    it has none. `leaked` counts cases of the holdout split whose inputs the search sees as well:
    they are no part of `holdout`. `left_out` counts cases outside these splits. With `folds` there
    are as many trainings beside this one, and `budget` is what each of them has. `momentum`,
    `parallel` and `pipelined` are the optimizer's (see its protocol). `taking` are the prompts that
    may be given worked examples, and `demonstrates` tells whether the optimizer gives any. `broken`
    lists the proposer's exceptions since its last answer.
    """

    optimizer: Optimizer
    minibatch: int
    momentum: int
    parallel: int | None
    pipelined: bool
    proposer: Proposer
    critic_model: Any
    critics: Mapping[str, Any]
    budget: Budget
    budget_given: bool
    folds: tuple[Fold, ...]
    train: tuple[Case, ...]
    validation: tuple[Case, ...]
    holdout: tuple[Case, ...]
    left_out: int
    leaked: int
    trainable: tuple[str, ...]
    taking: tuple[str, ...]
    demonstrates: bool
    texts: CaseTexts
    templates: Mapping[str, str]
    publish: PublishTo | None = None
    broken: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """How many cases each part of the training has."""
        return {
            "train": len(self.train),
            "validation": len(self.validation),
            "holdout": len(self.holdout),
            "left_out": self.left_out,
            "leaked": self.leaked,
        }

    @property
    def most_rollouts(self) -> int | None:
        """The rollouts of this training and of those without a fold together; None: no limit."""
        each = self.budget.rollouts
        return None if each is None else each * (1 + len(self.folds))

    def to_manifest(self) -> dict[str, Any]:
        """As the manifest of the run describes it."""
        options = getattr(self.optimizer, "model_fields_set", None)
        held = dict(self.optimizer) if options is not None else vars(self.optimizer)  # type: ignore[call-overload]
        return {
            "optimizer": {
                "name": self.optimizer.name,
                "object": described(self.optimizer),
                "options": {
                    name: redact(plain(value))
                    for name, value in held.items()
                    if not name.startswith("_")
                },
            },
            "proposer": {"object": described(self.proposer), "models": models_of(self.proposer)},
            "critic": None if self.critic_model is None else model_info(self.critic_model),
            "trainable": list(self.trainable),
            "splits": self.counts,
            "budget": self.budget.model_dump(mode="json"),
            "budget_given": self.budget_given,
        }


def make_plan(
    job: TrainingJob,
    dataset: Dataset,
    prompts: Mapping[str, TextTensor],
    *,
    optimizer: Any,
    settings: Settings,
) -> tuple[TrainingPlan, dict[str, Any]]:
    """The plan of a job, and its JSON description: a job with another one is another job.

    Raises `BadInput` for a job without a trainable prompt, a proposer or train cases, and for a
    budget that is too small.
    """
    trainable = tuple(sorted(name for name, tensor in prompts.items() if tensor.requires_grad))
    if not trainable:
        rule = "must name at least one prompt"
        if prompts:
            rule = "has only frozen prompts: give one requires_grad=True"
        if not prompts:
            rule += " (and the graph holds none with a text)"
        raise ConfigError(
            field="job.prompts", value=sorted(prompts), rule=f"{rule}; nothing can be trained"
        )
    chosen = resolve_optimizer(
        job.optimizer if job.optimizer is not None else optimizer, settings=settings
    )
    proposer = resolve_proposer(chosen, settings=settings, prompts=prompts)
    if isinstance(proposer, HasWindow):
        proposer.require_room({name: prompts[name].text for name in trainable})
    demonstrates = bool(getattr(chosen, "demonstrates", False))
    taking = check_slots(prompts, trainable, used=demonstrates)
    if demonstrates and not taking and not getattr(chosen, "proposes", True):
        raise BadInput(
            field=f"prompts.*.metadata.{KEY}",
            value=False,
            rule=f"must let a prompt take examples: {chosen.name!r} changes nothing else, "
            "and all prompts have no_quotes, or demos: false",
        )
    cost = None if job.guardrail.cost == "off" else job.guardrail.cost.ratio
    check_objective(job.objective, prompts, cost_ratio=cost)
    train, validation, held_out = split_cases(dataset)
    seen = {canonical_json(case.inputs) for case in (*train, *validation)} if held_out else set()
    holdout = tuple(case for case in held_out if canonical_json(case.inputs) not in seen)
    batch, parallel = getattr(chosen, "minibatch", 10), getattr(chosen, "parallel", None)
    batch = batch if isinstance(batch, int) else 10  # "auto": it follows from the budget
    sizes = {"validation": len(validation), "holdout": len(holdout), "replicates": job.replicates}
    budget = job.budget or default_budget(
        train=len(train), minibatch=batch, every=job.checkpoint_every, **sizes
    )
    k, folds = job.cross_validation, tuple[Fold, ...]()
    if k is not None:
        folds = cut((*train, *validation), k, seed=job.seed)
        each = share(budget, k) if job.budget else budget
        check_folds(folds, budget, each, sizes=sizes)
        budget = each
    check_budget(budget, **sizes)
    criticises = bool(getattr(chosen, "criticises", False))
    model = getattr(chosen, "model", None) if criticises else None
    publish = None
    if job.publish is not None:
        publish = PublishTo.parse(job.publish, field="job.publish")
        publish.require_allowed(settings, field="job.publish")
    learnt = {case.id for case in train}
    plan = TrainingPlan(
        optimizer=chosen,
        minibatch=batch,
        momentum=int(getattr(chosen, "momentum", 0)),
        parallel=None if parallel is None else int(parallel),
        pipelined=bool(getattr(chosen, "pipelined", False)),
        proposer=proposer,
        critic_model=resolve_model(model, field="optimizer.model") if model else None,
        critics=own_models(prompts, optimizer=chosen, settings=settings) if criticises else {},
        budget=budget,
        budget_given=job.budget is not None,
        folds=folds,
        train=train,
        validation=validation,
        holdout=holdout,
        leaked=len(held_out) - len(holdout),
        left_out=len(dataset) - len({c.id for c in (*train, *validation, *held_out)}),
        trainable=trainable,
        taking=tuple(taking),
        demonstrates=demonstrates,
        publish=publish,
        texts=CaseTexts(
            [(c.inputs, c.expected_output) for c in (*validation, *holdout) if c.id not in learnt],
            train=[(case.inputs, case.expected_output) for case in train],
        ),
        templates={
            name: plain_template(prompts[name].text, prompts[name].metadata) for name in trainable
        },
    )
    described: dict[str, Any] = {
        "optimizer": describe(chosen),
        "proposer": type(proposer).__qualname__,
        "budget": budget.model_dump(),
        "stop": [condition.model_dump() for condition in job.stop],
        "checkpoint_every": job.checkpoint_every,
        "promote": job.promote,
        "seed": job.seed,
    }
    if job.guardrail != Guardrail():
        described["guardrail"] = job.guardrail.model_dump()
    if job.task:
        described["task"] = job.task
    if job.cross_validation is not None:
        described["cross_validation"] = job.cross_validation
    if job.objective != Objective():
        described["objective"] = job.objective.model_dump()
    if job.exclude_nodes:
        described["exclude_nodes"] = sorted(job.exclude_nodes)
    if job.goal != Goal():
        described["goal"] = job.goal.model_dump()
    if publish is not None:
        described["publish"] = publish.model_dump(mode="json")
    return plan, described


def fold_job(
    job: TrainingJob, plan: TrainingPlan, held: int, *, metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """The job of the training that leaves a fold out: it promotes and stores nothing. `metadata` is
    that of the dataset, which proposers are shown."""
    budget = plan.budget if plan.budget_given else None
    return job.model_dump() | {
        "cross_validation": None,
        "dataset": dataset_of(plan.folds, held, metadata=metadata),
        "budget": None if budget is None else budget.model_dump(),
        "checkpoint_every": None,
        "promote": "never",
        "publish": None,
        "goal": Goal().model_dump(),
    }


def checkpoint_plan(job: TrainingJob, plan: TrainingPlan) -> dict[str, Any]:
    """What the interval versions of a job take out of its budget, as JSON.

    `rollouts_each` is what one takes at most (nothing where all of them are recorded already),
    `rollouts_at_most` what all of them take; None where neither budget nor stop conditions tell.
    """
    every, each = job.checkpoint_every, len(plan.validation) * job.replicates
    shown = {"every": every, "steps_per_node": job.steps_per_node}
    if every is None:
        return {**shown, "rollouts_each": 0, "rollouts_at_most": 0}
    limits = [each * (one.steps // every) for one in job.stop if isinstance(one, MaxSteps)]
    if plan.budget.rollouts is not None:
        fixed = each + 2 * len(plan.holdout) * job.replicates
        limits.append(max(0, plan.budget.rollouts - fixed))
    return {**shown, "rollouts_each": each, "rollouts_at_most": min(limits, default=None)}


Cases: TypeAlias = tuple[Case, ...]


def split_cases(dataset: Dataset) -> tuple[Cases, Cases, Cases]:
    """Train, validation and holdout cases.

    Without any split all cases are train and validation at once; without a validation split the
    train cases serve as one. Raises `ConfigError` when other splits leave no train cases.
    """
    there = sorted(dataset.splits())
    if not there:
        cases = tuple(dataset.cases)
        return cases, cases, ()
    if "train" not in there:
        rule = "must have a split named 'train'"
        raise ConfigError(field="job.dataset", value=there, rule=rule)
    found = {name: tuple(dataset.split(name).cases) for name in SPLITS if name in there}
    return found["train"], found.get("validation", found["train"]), found.get("holdout", ())


def describe(optimizer: Any) -> dict[str, Any]:
    """An optimizer's name and plain options."""
    options = optimizer.model_dump() if hasattr(optimizer, "model_dump") else {}
    plain = {k: v for k, v in options.items() if isinstance(v, str | int | float | bool)}
    return {**plain, "name": optimizer.name}
