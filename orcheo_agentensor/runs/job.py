"""`EvaluationJob`: one model for the job file, the graph's input and the server's input."""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import is_
from typing import Any, Literal, Self, TypeAlias, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    InstanceOf,
    SerializeAsAny,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from orcheo_agentensor.config.model import config_error
from orcheo_agentensor.errors import BadInput, ConfigError, shorten
from orcheo_agentensor.json_values import StrictNumbers, all_json, json_problems
from orcheo_agentensor.prompts import TextTensor
from orcheo_agentensor.redaction import REDACTED, holds_secret, is_secret_name, redact
from orcheo_agentensor.runs.schema import Form, as_form, with_forms

IDENTIFIER_RULE = "must start with a letter or digit and hold only those and _ . : - (128 at most)"
_DEMO = "orcheo_agentensor.demo"
IDENTIFIER = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$"


class Limits(StrictNumbers):
    """How hard a run may push: concurrency, time and retries.

    Example:
        >>> from orcheo_agentensor import Limits
        >>> Limits(concurrency=16).case_timeout
        120.0
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, title="Limits", json_schema_extra=as_form
    )

    concurrency: int = Field(
        default=10,
        ge=1,
        le=1_000,
        title="Concurrency",
        description="Most cases of this run at once; as many more may wait to be recorded.",
    )
    case_timeout: float = Field(
        default=120.0,
        gt=0,
        le=86_400,
        title="Case timeout",
        description="Seconds one execution of the target may take.",
    )
    retries: int = Field(
        default=2,
        ge=0,
        le=10,
        title="Retries",
        description="Further attempts after a passing trouble (timeout, HTTP 5xx).",
    )
    isolate: bool = Field(
        default=False,
        title="Isolate",
        description="Run each execution of the target in a process of its own, which may die.",
    )
    max_output_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=100_000,
        le=1024 * 1024 * 1024,
        title="Most output bytes",
        description="Bytes that the output of one case may have as JSON; a larger one is a failure "
        "of the case.",
    )
    case_sla_ms: float | None = Field(
        default=None,
        gt=0,
        title="Case SLA",
        description="Milliseconds in which a case is to have its answer; one that fails has none.",
    )
    min_within_sla: float | None = Field(
        default=None,
        gt=0,
        le=1,
        title="Least within SLA",
        description="Share of cases within case_sla_ms, below which a run misses its threshold and "
        "no version is promoted by itself.",
    )

    @property
    def sla(self) -> list[float]:
        """What decides whether a run has kept its SLA; nothing where no share is asked for."""
        if self.case_sla_ms is None or self.min_within_sla is None:
            return []
        return [self.case_sla_ms, self.min_within_sla]

    @model_validator(mode="after")
    def _of_an_sla(self) -> Self:
        if self.min_within_sla is not None and self.case_sla_ms is None:
            raise ValueError("min_within_sla is a share of cases within case_sla_ms: give that too")
        return self


_Tensor: TypeAlias = SkipJsonSchema[SerializeAsAny[InstanceOf[TextTensor]]]  # in this process only


class Job(StrictNumbers):
    """What evaluation and training jobs have in common."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, json_schema_extra=as_form
    )

    target: str | dict[str, Any] | None = Field(
        default=None,
        title="Target",
        description='The workflow under test: "module:attribute", {"entrypoint", "output"}, or '
        '{"url", "assistant", "api_key_env"} for one on a LangGraph server.',
        examples=[f"{_DEMO}.workflow:create_support_triage"],
    )
    workflow_id: str | None = Field(
        default=None,
        title="Workflow",
        pattern=IDENTIFIER,
        description="Under which id versions are stored; the target's name when left out.",
    )
    run_id: str | None = Field(
        default=None,
        title="Run",
        pattern=IDENTIFIER,
        description="Submitting a run id again resumes that run; a new one is made when left out.",
    )
    dataset: str | dict[str, Any] | list[Any] | None = Field(
        default=None,
        title="Dataset",
        description="A path, a list of cases, or {path | cases | id+version, split, splits}.",
        examples=["orcheo_agentensor/demo/data/banking_tickets.jsonl"],
    )
    evaluators: list[str | dict[str, Any]] | None = Field(
        default=None,
        title="Evaluators",
        description='Built-in names, "module:attribute" strings, or {"type" | "entrypoint", …}.',
        examples=[[f"{_DEMO}.evaluators:reply_policy"], ["exact_match"]],
    )
    prompts: dict[str, str | dict[str, Any] | _Tensor] | None = Field(
        default=None,
        title="Prompts",
        description="Prompt name to text, or to a TextTensor or ContentTensor in JSON form.",
        examples=[{"reply": "You write the first reply to a bank's customer.\n\nRules:\n"}],
    )
    config: dict[str, Any] | None = Field(
        default=None,
        title="Config",
        description="The RunnableConfig the target runs with.",
        examples=[{"configurable": {"agentensor": {"use": "production"}}}],
    )
    limits: Limits = Field(
        Limits(), title="Run limits", description="How hard the run may push the target."
    )
    min_coverage: float = Field(
        default=1.0,
        ge=0,
        le=1,
        title="Least coverage",
        description="Share of cases that must be scored for the run to count.",
    )
    replicates: int = Field(
        default=1,
        ge=1,
        le=100,
        title="Replicates",
        description="Times each case is run and judged, where target or judges are noisy; the "
        "case's score is the mean.",
    )
    seed: int = Field(
        default=0,
        title="Seed",
        ge=0,
        le=2**53,
        description="The same seed gives the same search, and the same get_seed() in each rollout.",
    )
    memory_store: Literal["fresh", "shared", "seeded"] = Field(
        default="fresh",
        title="Memory store",
        description="The LangGraph Store of each rollout: empty, the target's own (shared by all "
        "rollouts), or a copy of what that held at the beginning.",
    )
    accept_drift: bool = Field(
        default=False,
        title="Accept drift",
        description="Go on with, or reuse, a run of which the target's code has changed since.",
    )
    retry_failed: bool = Field(
        default=False,
        title="Retry failed",
        description="Of a known run, try again what failed by an outage, a refused key or a "
        "timeout, and report anew.",
    )
    reuse: str | None = Field(
        default=None,
        title="Reuse",
        pattern=IDENTIFIER,
        description="A run whose recorded rollouts may be used instead of running them again.",
    )
    cache: bool = Field(
        default=False,
        title="Cache",
        description="Use the recorded rollouts of the newest earlier run of the workflow that has "
        "measured these prompts with the same code of the target.",
    )

    @model_validator(mode="before")
    @classmethod
    def _left_out(cls, data: Any) -> Any:
        """Without what is null, or empty where that says nothing: forms send fields untouched."""
        if not isinstance(data, Mapping):
            return data
        optional = {name for name, field in cls.model_fields.items() if field.default is None}
        return {
            name: value
            for name, value in data.items()
            if value is not None and not (name in optional and _says_nothing(value))
        }

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The JSON Schema, with the forms that each field takes: what a server's forms show."""
        return with_forms(super().model_json_schema(*args, **kwargs), **cls._forms())

    @classmethod
    def _forms(cls) -> dict[str, Form]:
        """Forms of fields that only this kind of job has."""
        return {}

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """Validate outside data; raises `ConfigError` that lists every problem."""
        given = {**data, "dataset": None}  # whose cases are looked at one by one
        if isinstance(prompts := given.get("prompts"), Mapping):
            live = {k for k, v in prompts.items() if isinstance(v, TextTensor)}
            given["prompts"] = {k: None if k in live else v for k, v in prompts.items()}
        parts = [(k, v) for k, v in given.items() if not isinstance(v, BaseModel)]
        if not all_json(*(value for _, value in parts)):
            found = (one for k, v in parts for one in json_problems(v, field=f"job.{k}"))
            raise config_error(found, "the job")
        return parse_model(cls, data, where="job")


class EvaluationJob(Job):
    """Evaluate a workflow on a dataset.

    Example:
        >>> from orcheo_agentensor import EvaluationJob
        >>> job = EvaluationJob.parse(
        ...     {
        ...         "target": "shop.flow:graph",
        ...         "dataset": {"path": "tickets.jsonl", "split": "holdout"},
        ...         "evaluators": ["exact_match"],
        ...         "limits": {"concurrency": 16},
        ...     }
        ... )
        >>> job.limits.concurrency, job.limits.retries
        (16, 2)
    """

    model_config = ConfigDict(title="Evaluation job")


def _says_nothing(value: Any) -> bool:
    return isinstance(value, str | dict | list) and not value


ModelT = TypeVar("ModelT", bound=BaseModel)


def shown_as(job: type[Job], field: str) -> Any:
    """Title and description of a job's field, for the graph state that holds it for a while."""
    found = job.model_fields[field]
    return Field(title=found.title, description=found.description)


def parse_model(model: type[ModelT], data: Any, *, where: str) -> ModelT:
    """Validate `data` as `model`; a `ConfigError` names every field, value and rule broken."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [
            problem_of(entry, model, where=where)
            for entry in _joined(error.errors(include_url=False))
        ]
        text = "; ".join(f"{p['field']}: {p['value']} {p['rule']}" for p in problems)
        raise ConfigError(text, problems=problems) from None


_FORMS = {
    "string_type": "a text",
    "dict_type": "an object",
    "list_type": "a list",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "float_type": "a number",
}


def _joined(errors: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Pydantic's errors, where the several forms of one field are one error instead of one each."""
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for entry in errors:
        form = entry["type"] in _FORMS or entry["type"] == "is_instance_of"
        place = (entry["loc"][:-1], id(entry["input"])) if form else (entry["loc"], len(groups))
        groups.setdefault(place, []).append(entry)
    for first, *others in groups.values():
        if not others:
            yield first
            continue
        forms = [_FORMS.get(one["type"]) or f"a {one['ctx']['class']}" for one in (first, *others)]
        msg = f"must be {', '.join(forms[:-1])} or {forms[-1]}"
        yield {**first, "loc": first["loc"][:-1], "msg": msg, "type": "forms"}


def problem_of(entry: Mapping[str, Any], model: type[BaseModel], *, where: str) -> dict[str, Any]:
    """One of pydantic's errors on `model` as the field, the value and the rule it breaks."""
    rule = entry["msg"].removeprefix("Value error, ")
    rule = rule[0].lower() + rule[1:]
    if rule.startswith("input should be "):
        rule = f"must be {rule.removeprefix('input should be ')}"
    if entry["type"] in ("model_type", "model_attributes_type"):
        rule = "must be an object"
    if entry["type"] == "string_pattern_mismatch":
        rule = IDENTIFIER_RULE
    if entry["type"] == "extra_forbidden":
        known = _known_fields(model, entry["loc"][:-1])
        rule = "is not a known field" + (f"; known: {', '.join(known)}" if known else "")
    field = ".".join([where, *map(str, entry["loc"])])
    return {"field": field, "value": shorten(entry.get("input")), "rule": rule}


def _known_fields(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The fields of the model nested at `path`; none where that is not a plain one."""
    for part in path:
        field = model.model_fields.get(str(part))
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        nested = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if len(nested) != 1:
            return []
        model = nested[0]
    return sorted(model.model_fields)


class JobSecrets:
    """Keeps the secrets of jobs out of what LangGraph and a server store of their input.

    A job travels with a reference for each of them, which means something in this process alone
    and for the `most` latest of them: a run that goes on elsewhere needs its job submitted again.
    """

    def __init__(
        self, *, new_id: Callable[[], str] = lambda: secrets.token_hex(16), most: int = 10_000
    ) -> None:
        self._held: OrderedDict[str, Any] = OrderedDict()
        self._new_id = new_id
        self._most = most

    def conceal(self, job: Any) -> Any:
        """`job` with references; itself where it holds no secret. Its cases are data, and stay."""
        if not isinstance(job, Mapping):
            return job
        told = {key: value for key, value in job.items() if key not in ("dataset", "prompts")}
        if not all_json(*told.values()):
            return job  # to be refused
        shown = self._concealed(told)
        return job if shown is told else {**job, **shown}

    def reveal(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """`job` with its secrets. Raises `BadInput` where they are not in this process."""
        if not all_json(*(value for key, value in job.items() if key != "dataset")):
            return dict(job)  # to be refused
        return {key: self._revealed(value, f"job.{key}") for key, value in job.items()}

    def _concealed(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            shown = {
                key: self._reference(item)
                if isinstance(key, str) and is_secret_name(key) and redact({key: item})[key] != item
                else self._concealed(item)
                for key, item in value.items()
            }
            return value if all(shown[key] is value[key] for key in shown) else shown
        if isinstance(value, list):
            items = [self._concealed(item) for item in value]
            return value if all(map(is_, items, value)) else items
        return self._reference(value) if isinstance(value, str) and holds_secret(value) else value

    def _reference(self, value: Any) -> str:
        if isinstance(value, str) and _REFERENCE.fullmatch(value):
            return value
        reference = f"agentensor-secret:{self._new_id()}"
        self._held[reference] = value
        while len(self._held) > self._most:
            self._held.popitem(last=False)
        return reference

    def _revealed(self, value: Any, field: str) -> Any:
        if isinstance(value, str) and _REFERENCE.fullmatch(value):
            if value not in self._held:
                rule = "is a secret that this process does not hold; submit the job again"
                raise BadInput(field=field, value=REDACTED, rule=rule)
            return self._held[value]
        if isinstance(value, Mapping):
            return {key: self._revealed(item, f"{field}.{key}") for key, item in value.items()}
        if isinstance(value, list):
            return [self._revealed(item, f"{field}.{n}") for n, item in enumerate(value)]
        return value


_REFERENCE = re.compile(r"agentensor-secret:[0-9a-f]{32}")


def without_references(text: str) -> str:
    """A text with what it refers to in this process left open."""
    return _REFERENCE.sub(REDACTED, text)
