"""What `evaluate`, `train` and their async twins take: types for checkers, checks at run time.

A type checker refuses a wrong argument before anything runs. `check_arguments` refuses it at run
time, in one sentence that names the function that was called, the argument, and what it takes.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union

from orcheo_agentensor.datasets import Case, Dataset, DatasetSpec
from orcheo_agentensor.errors import BadInput, ConfigError, DatasetError, shorten
from orcheo_agentensor.prompts import TextTensor
from orcheo_agentensor.runs.job import Limits
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.storage import Store
from orcheo_agentensor.targets import Conversation

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable
    from langgraph.graph import StateGraph


class HasEvaluate(Protocol):
    """An evaluator object of pydantic-evals, Phoenix or this package."""

    @property
    def evaluate(self) -> Callable[..., Any]: ...


class HasEvaluateRun(Protocol):
    """A LangSmith `RunEvaluator`."""

    @property
    def evaluate_run(self) -> Callable[..., Any]: ...


class HasMeasure(Protocol):
    """A DeepEval metric."""

    @property
    def a_measure(self) -> Callable[..., Any]: ...


class HasEvalAsync(Protocol):
    """An autoevals scorer."""

    @property
    def eval_async(self) -> Callable[..., Any]: ...


class HasRecords(Protocol):
    """A pandas DataFrame."""

    @property
    def columns(self) -> Any: ...
    @property
    def to_dict(self) -> Callable[..., Any]: ...


class HasCases(Protocol):
    """A dataset of pydantic-evals, or of this package."""

    @property
    def cases(self) -> Sequence[Any]: ...


Target: TypeAlias = Union[
    "StateGraph[Any, Any, Any, Any]",
    "Runnable[Any, Any]",
    Conversation,
    Callable[..., Any],
    str,
    Mapping[str, Any],
]
"""A workflow: a graph (compiled or not), a Runnable, a function `(inputs, config) -> output`, a
`Conversation` with one of them, a "module:attribute" string, or the job form of a target."""

DatasetLike: TypeAlias = (
    Dataset
    | DatasetSpec
    | Sequence[Case | Mapping[str, Any]]
    | str
    | os.PathLike[str]
    | Mapping[str, Any]
    | HasRecords
    | HasCases
)
"""A `Dataset`, a list of cases, a path, the job form `{"path": …, "split": …}`, a DataFrame, or a
pydantic-evals dataset."""

EvaluatorLike: TypeAlias = (
    str
    | Mapping[str, Any]
    | Callable[..., Any]
    | HasEvaluate
    | HasEvaluateRun
    | HasMeasure
    | HasEvalAsync
)
"""An evaluator of any known convention, a built-in's name, or the job form `{"type": …}`."""


class AsksAndTells(Protocol):
    """An optimizer; see `orcheo_agentensor.optimizers.protocol`."""

    @property
    def ask(self) -> Callable[..., Any]: ...
    @property
    def tell(self) -> Callable[..., Any]: ...


OptimizerLike: TypeAlias = str | Mapping[str, Any] | AsksAndTells
"""An optimizer, the name of one, or the job form `{"name": …}`."""

_METHODS = ("evaluate", "evaluate_async", "evaluate_run", "a_measure", "eval_async")
_Check: TypeAlias = Callable[[Any], bool]


def _is(*kinds: type) -> _Check:
    return lambda value: value is None or isinstance(value, kinds)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_target(value: Any) -> bool:
    known = isinstance(value, str | Mapping | Conversation) or callable(value)
    return known or any(hasattr(value, name) for name in ("ainvoke", "invoke", "compile", "run"))


def _is_evaluator(value: Any) -> bool:
    known = isinstance(value, str | Mapping) or callable(value)
    return known or any(hasattr(value, name) for name in _METHODS)


def _are_evaluators(value: Any) -> bool:  # the entries of a list are refused one by one later
    return isinstance(value, list | tuple) or _is_evaluator(value)


FORMS: Mapping[str, tuple[_Check, str]] = {
    "target": (
        _is_target,
        "a LangGraph graph, a Runnable, a function (inputs, config) -> output, a "
        "'module:attribute' string, or a mapping that names a remote assistant",
    ),
    "dataset": (
        lambda value: (
            isinstance(value, Dataset | DatasetSpec | str | os.PathLike | Mapping | list | tuple)
            or any(hasattr(value, name) for name in ("cases", "columns"))
        ),
        "a Dataset, a list of cases, a path, or {'path': …}",
    ),
    "evaluators": (
        _are_evaluators,
        "a list of evaluators: functions, evaluator objects, or names of built-in ones",
    ),
    "prompts": (_is(Mapping), "a mapping of names to texts or TextTensors"),
    "config": (_is(Mapping), "a mapping such as {'configurable': {…}, 'tags': […]}"),
    "limits": (_is(Limits, Mapping), "Limits(…), or a mapping of its fields"),
    "min_coverage": (_is(int, float), "a share from 0 to 1"),
    "replicates": (_is_integer, "a whole number of at least 1"),
    "checkpoint_every": (
        lambda value: value in (None, "none") or _is_integer(value),
        "a whole number of at least 1, or None",
    ),
    "steps_per_node": (_is_integer, "a whole number of at least 1"),
    "seed": (_is_integer, "a whole number"),
    "store": (_is(str, os.PathLike, Store), "a Store, a database URL, or None for memory"),
    "run_id": (_is(str), "a text"),
    "workflow_id": (_is(str), "a text"),
    "memory_store": (_is(str), "'fresh', 'shared' or 'seeded'"),
    "accept_drift": (_is(bool), "True or False"),
    "retry_failed": (_is(bool), "True or False"),
    "cache": (_is(bool), "True or False"),
    "reuse": (_is(str), "the run_id of an earlier run"),
    "settings": (_is(Settings), "Settings(…)"),
    "on_event": (
        lambda value: callable(value) and not inspect.iscoroutinefunction(value),
        "a plain function of one event, not an async one",
    ),
    "optimizer": (
        lambda value: (
            _is(str, Mapping)(value) or all(hasattr(value, name) for name in ("ask", "tell"))
        ),
        "an optimizer such as Reflective(…), the name of one, or a mapping with its name",
    ),
    "budget": (
        lambda value: _is(Mapping)(value) or hasattr(value, "rollouts"),
        "Budget(…), or a mapping of its fields",
    ),
    "stop": (
        lambda value: isinstance(value, Mapping | list | tuple) or hasattr(value, "model_dump"),
        "a list of stop conditions such as TargetScore(1.0)",
    ),
    "guardrail": (
        lambda value: _is(Mapping)(value) or hasattr(value, "min_ratio"),
        "Guardrail(…), or a mapping of its fields",
    ),
    "goal": (
        lambda value: _is(Mapping)(value) or hasattr(value, "gate"),
        "Goal(…), or a mapping of its fields",
    ),
    "objective": (
        lambda value: _is(Mapping)(value) or hasattr(value, "prefers_short"),
        "Objective(…), or a mapping of its fields",
    ),
    "publish": (_is(Mapping), "a mapping that names the assistant to publish to"),
    "report": (lambda value: hasattr(value, "taped"), "the report of evaluate(…, tape=True)"),
    "tensors": (
        lambda value: (
            isinstance(value, Mapping)
            and all(isinstance(one, TextTensor) for one in value.values())
        ),
        "a mapping of names to TextTensors, which are changed in place",
    ),
}
"""Argument -> whether a value has a form that it takes, and that form in words."""


def check_arguments(function: str, given: Mapping[str, Any]) -> None:
    """Refuse an argument of a wrong form; `given` are the `locals()` at the top of `function`.

    Raises `ConfigError` such as "evaluate(): dataset=3 must be a Dataset, a list of cases, …".
    """
    for name, (fits, form) in FORMS.items():
        if name in given and not fits(value := given[name]):
            raise ConfigError(
                f"{function}(): {name}={shorten(value)} must be {form}",
                field=name,
                value=value,
                rule=f"must be {form}",
            )


def name_call(function: str, error: BadInput) -> None:
    """Have `error` name the function that was called, and its arguments as the caller wrote them.

    Arguments are checked as the job that is made of them: "job.limits.concurrency: 0 must be …"
    becomes "evaluate(): limits.concurrency: 0 must be …". Where a sync function calls its async
    twin, the name of the sync one replaces the other.
    """
    told = error.message.removeprefix(f"a{function}(): ")
    if not told.startswith(f"{function}(): "):
        told = _OF_JOB.sub(r"\1", told)
        if isinstance(error, DatasetError) and not told.startswith("dataset"):
            inline = told.startswith(("inline[", "inline:"))
            told = f"dataset{told.removeprefix('inline')}" if inline else f"dataset: {told}"
        told = f"{function}(): {told}"
    error.args = (told,)
    vars(error).pop("__notes__", None)  # LangGraph's, of nodes that the caller knows nothing of
    if error.field is not None:
        error.field = error.field.removeprefix("job.")
    if isinstance(error, ConfigError):
        for problem in error.problems:
            problem["field"] = problem["field"] and problem["field"].removeprefix("job.")


_OF_JOB = re.compile(r"(^|[\s(])job\.(?=[a-z_]+\b)")
