"""From whatever a job names as an evaluator to one that can be called for a case."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ValidationError

from orcheo_agentensor.entrypoints import load_entrypoint
from orcheo_agentensor.errors import EvaluatorRefused, is_transient, shorten
from orcheo_agentensor.evaluators.builtin import (
    Builtin,
    Contains,
    ExactMatch,
    JsonFieldMatch,
    JsonSchema,
    JsonValid,
    Latency,
    Length,
    NumericTolerance,
    Regex,
    StringSimilarity,
    ToolCallMatch,
    TrajectoryMatch,
)
from orcheo_agentensor.evaluators.context import EvaluationResult, EvaluatorContext, Outcome
from orcheo_agentensor.evaluators.detection import detect
from orcheo_agentensor.evaluators.dialects import Adapter, Subject, is_async
from orcheo_agentensor.evaluators.fingerprint import fingerprint
from orcheo_agentensor.evaluators.http import HTTPEvaluator
from orcheo_agentensor.evaluators.judge import LLMJudge
from orcheo_agentensor.evaluators.returns import Reader, failure, read_result
from orcheo_agentensor.evaluators.threads import run_in_thread
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.usage import Usage, UsageRecorder

BUILTINS: dict[str, type[Builtin]] = {
    kind.type_name: kind
    for kind in (
        ExactMatch,
        Contains,
        Regex,
        NumericTolerance,
        StringSimilarity,
        JsonValid,
        JsonSchema,
        JsonFieldMatch,
        ToolCallMatch,
        TrajectoryMatch,
        Latency,
        Length,
        LLMJudge,
        HTTPEvaluator,
    )
}
"""Type name -> class."""


Scale: TypeAlias = tuple[float, float]
"""The worst score and the best."""


def read_scale(scale: Any) -> Scale:
    """`scale` as two numbers. Raises `EvaluatorRefused`."""
    sound = isinstance(scale, Sequence) and len(scale) == 2 and all(map(_is_number, scale))
    if not sound or scale[0] == scale[1]:
        raise EvaluatorRefused(
            field="scale", value=scale, rule="must be two different numbers, the worst score first"
        )
    return float(scale[0]), float(scale[1])


def on_scale(read: Reader, scale: Scale) -> Reader:
    """A reader that brings what `read` finds to 0..1; a score outside the scale is a failure."""
    worst, best = scale

    def scaled(outcome: Outcome) -> Outcome:
        if not isinstance(outcome, EvaluationResult) or outcome.score is None:
            return outcome
        if not min(scale) <= outcome.score <= max(scale):
            told = f"gave {outcome.score:g}, outside its scale of {worst:g} to {best:g}"
            return failure(outcome.name, "wrong_shape", told)
        return replace(outcome, score=(outcome.score - worst) / (best - worst))

    return lambda name, value: [scaled(outcome) for outcome in read(name, value)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


@dataclass(slots=True)
class Scoring:
    """What one attempt of an evaluator came to. `transient` trouble is worth another attempt."""

    outcomes: list[Outcome]
    transient: bool = False


@dataclass(frozen=True, kw_only=True)
class BoundEvaluator:
    """An evaluator ready to score, whatever form it was given in.

    `binding` says in words which form was recognised; `fingerprint` changes when the evaluator
    does; `weight` is its share in a weighted mean.
    """

    name: str
    weight: float = 1.0
    fingerprint: str
    binding: str
    adapter: Adapter = field(repr=False, compare=False)

    async def score(
        self, ctx: EvaluatorContext, *, timeout: float | None = None
    ) -> tuple[list[Outcome], Usage]:
        """Score one rollout: the outcomes, and what the models called for them used.

        Never raises but `CancelledError`: whatever goes wrong is an `EvaluatorFailure`. Outcomes
        are named after the evaluator, or `name.metric` where it gives several. `timeout` is in
        seconds.
        """
        recorder = UsageRecorder()
        scoring = await self.attempt(ctx, timeout=timeout, recorder=recorder)
        return scoring.outcomes, recorder.total

    @property
    def inline(self) -> bool:
        """Whether it answers at once and calls no model: then no recorder is looked at."""
        return self.adapter.inline is not None

    async def attempt(
        self, ctx: EvaluatorContext, *, timeout: float | None, recorder: UsageRecorder | None
    ) -> Scoring:
        """As `score`, for a caller that tries again after a passing trouble.

        `recorder` knows afterwards, whatever happens, what its model calls took. Raises
        `BudgetExhausted` too, where a model call was refused.
        """
        inline = self.adapter.inline
        if inline is not None:
            try:
                return Scoring([inline(ctx)])
            except Exception as error:  # noqa: BLE001 - a failure is a value
                return Scoring([failure(self.name, "exception", _told(error))])
        with recorder or UsageRecorder() as recorder:
            scoring = await self._outcomes(ctx, timeout)
        if recorder.refused is not None:
            raise recorder.refused
        return scoring

    async def _outcomes(self, ctx: EvaluatorContext, timeout: float | None) -> Scoring:
        adapter = self.adapter
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                if adapter.threaded:
                    value = await run_in_thread(adapter.call, ctx)
                else:
                    value = adapter.call(ctx)
                while inspect.isawaitable(value):
                    value = await value
            return Scoring(adapter.read(self.name, value))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return Scoring([failure(self.name, "exception", _told(error))])  # its own, not ours
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a failure is a value
            if limit.expired() and isinstance(error, TimeoutError):
                late = failure(self.name, "timeout", f"took longer than {timeout:g} s")
                return Scoring([late], transient=True)
            passing = is_transient(error) or isinstance(error, TimeoutError)
            return Scoring([failure(self.name, "exception", _told(error))], transient=passing)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def bind_evaluator(
    evaluator: Any,
    *,
    name: str | None = None,
    weight: float = 1.0,
    kind: str | None = None,
    scale: tuple[float, float] | None = None,
    settings: Settings | None = None,
) -> BoundEvaluator:
    """Bind one evaluator object: a built-in, or any form that `docs/evaluators.md` lists.

    `name` and `weight` are its own for this use; `kind` overrides the detection of its form.
    `scale` is its worst score and its best, where these are not 0 and 1: scores are brought to
    0..1, and one outside is a failure. The result can stand wherever an evaluator can. Raises
    `EvaluatorRefused`.
    """
    weight = _weight(weight)
    if isinstance(evaluator, BoundEvaluator):
        raise EvaluatorRefused(f"{evaluator.name} is bound already", field="evaluators")
    if isinstance(evaluator, Builtin):
        if scale is not None:
            rule = "is for evaluators of your own; what is built in scores from 0 to 1"
            raise EvaluatorRefused(field="scale", value=scale, rule=rule)
        return _bind_builtin(evaluator, name, weight, settings or Settings())
    subject = Subject.of(evaluator)
    adapter = detect(subject, kind)
    name = _name(subject.name if name is None else name)
    way = "in a thread" if adapter.threaded else "awaited"
    known_as = fingerprint(evaluator, kind=adapter.kind, name=name)
    if scale is not None:
        scale = read_scale(scale)
        adapter = replace(adapter, read=on_scale(adapter.read, scale))
        known_as = content_hash([known_as, scale])
    return BoundEvaluator(
        name=name,
        weight=weight,
        fingerprint=known_as,
        binding=f"{adapter.kind}: {adapter.form}, {way}",
        adapter=adapter,
    )


def bind_evaluators(
    specs: Sequence[Any], *, settings: Settings, base_dir: str | Path | None = None
) -> list[BoundEvaluator]:
    """Bind every evaluator of a job or a call.

    A spec is an evaluator object, a `BoundEvaluator`, the name of a built-in, a
    `"module:attribute"` from the allowlist, `{"type": built-in, **params, "name", "weight"}` or
    `{"entrypoint": "module:attribute", "params", "kind", "scale", "name", "weight"}`. No two may
    have the same name. Raises `EvaluatorRefused`.
    """
    if isinstance(specs, str | Mapping) or not isinstance(specs, Sequence):
        raise EvaluatorRefused(field="evaluators", value=specs, rule="must be a list")
    if not specs:
        raise EvaluatorRefused(
            "evaluators: at least one is needed", field="evaluators", rule="must not be empty"
        )
    bound: list[BoundEvaluator] = []
    for n, spec in enumerate(specs):
        one = _bind_spec(spec, settings)
        if any(one.name == other.name for other in bound):
            raise EvaluatorRefused(
                f"evaluators.{n}: the name {one.name!r} is taken; give each its own `name`",
                field=f"evaluators.{n}.name",
                value=one.name,
                rule="must be unique",
            )
        bound.append(one)
    return bound


def _bind_spec(spec: Any, settings: Settings) -> BoundEvaluator:
    if isinstance(spec, BoundEvaluator):
        return spec
    if isinstance(spec, str):
        spec = {"entrypoint": spec} if ":" in spec else {"type": spec}
    if not isinstance(spec, Mapping):
        return bind_evaluator(spec, settings=settings)
    if "entrypoint" in spec and "type" not in spec:
        return _bind_entrypoint(spec, settings)
    if isinstance(spec.get("type"), str) and "entrypoint" not in spec:
        return _bind_type(spec, settings)
    raise EvaluatorRefused(
        field="evaluators", value=dict(spec), rule="must have either a `type` or an `entrypoint`"
    )


def _bind_type(spec: Mapping[str, Any], settings: Settings) -> BoundEvaluator:
    kind = BUILTINS.get(spec["type"])
    if kind is None:
        raise _unknown_builtin(spec["type"])
    params = {key: value for key, value in spec.items() if key not in ("type", "weight")}
    if params.get("name", "") is None:
        del params["name"]
    for key in sorted(kind.in_process_only & params.keys()):
        raise EvaluatorRefused(
            f"{kind.type_name}.{key}: is the operator's to set, not a job's",
            field=key,
            value=params[key],
            rule="may not be set by a job",
        )
    if "model" in params and not isinstance(params["model"], str | None):
        raise EvaluatorRefused(field="model", value=params["model"], rule="must be a model's name")
    return bind_evaluator(
        _construct(kind, params), weight=spec.get("weight", 1.0), settings=settings
    )


def _construct(kind: type[Builtin], params: Mapping[str, Any]) -> Builtin:
    try:
        return kind(**params)
    except ValidationError as error:
        known = [f.alias or key for key, f in kind.model_fields.items()]
        told = []
        for problem in error.errors():
            where = ".".join(map(str, (kind.type_name, *problem["loc"])))
            if problem["type"] == "extra_forbidden":
                told.append(f"{where}: is not a parameter; there are: {', '.join(known)}")
            else:
                told.append(f"{where}: {shorten(problem['input'])} {problem['msg']}")
        raise EvaluatorRefused("; ".join(told), field=kind.type_name) from None


def _bind_entrypoint(spec: Mapping[str, Any], settings: Settings) -> BoundEvaluator:
    for key in spec:
        if key not in ("entrypoint", "kind", "params", "scale", "name", "weight"):
            raise EvaluatorRefused(
                f"evaluators: {key!r} does not go with an entrypoint; its own go into `params`",
                field=str(key),
                value=spec[key],
                rule="is not a field of an entrypoint",
            )
    where = spec["entrypoint"]
    if not isinstance(where, str):
        raise EvaluatorRefused(field="entrypoint", value=where, rule="must be 'module:attribute'")
    loaded: Any = load_entrypoint(where, settings=settings, what="evaluator")
    params = spec.get("params") or {}
    if not isinstance(params, Mapping):
        raise EvaluatorRefused(field="params", value=params, rule="must be an object")
    if isinstance(loaded, BoundEvaluator) and not params:
        return _rebound(loaded, spec)
    if inspect.isclass(loaded):
        try:
            loaded = loaded(**params)
        except Exception as error:
            raise EvaluatorRefused(
                f"{where}: {loaded.__name__}(**params) failed: {type(error).__name__}: {error}",
                field="params",
                value=dict(params),
                rule="must construct the evaluator",
            ) from error
    elif params:
        loaded = functools.partial(loaded, **params)
    return bind_evaluator(
        loaded,
        name=spec.get("name"),
        weight=spec.get("weight", 1.0),
        kind=spec.get("kind"),
        scale=spec.get("scale"),
        settings=settings,
    )


def _rebound(bound: BoundEvaluator, spec: Mapping[str, Any]) -> BoundEvaluator:
    name = bound.name if spec.get("name") is None else _name(spec["name"])
    return replace(bound, name=name, weight=_weight(spec.get("weight", bound.weight)))


def _bind_builtin(
    evaluator: Builtin, name: str | None, weight: float, settings: Settings
) -> BoundEvaluator:
    if name is not None:
        evaluator = evaluator.changed(name=name)
    name = _name(evaluator.name)
    evaluator = evaluator.with_settings(settings)
    evaluate: Any = evaluator.evaluate  # type: ignore[attr-defined]
    waits = is_async(evaluate)
    adapter = Adapter(
        kind="builtin",
        form=evaluator.type_name,
        read=read_result,
        call=evaluate,
        threaded=False,
        inline=None if waits else evaluate,
    )
    return BoundEvaluator(
        name=name,
        weight=weight,
        fingerprint=fingerprint(evaluator, kind="builtin", name=name),
        binding=f"builtin: {evaluator.type_name}, {'awaited' if waits else 'inline'}",
        adapter=adapter,
    )


def _weight(weight: Any) -> float:
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not 0 < weight < float("inf"):
        raise EvaluatorRefused(field="weight", value=weight, rule="must be a number above 0")
    return float(weight)


def _name(name: Any) -> str:
    sound = isinstance(name, str) and name.isprintable() and 1 <= len(name) <= 100
    if not sound or name != name.strip() or "." in name:
        raise EvaluatorRefused(
            field="name",
            value=name,
            rule="must be 1 to 100 printable characters without a dot",
        )
    return str(name)


def _unknown_builtin(name: str) -> EvaluatorRefused:
    near = get_close_matches(name, BUILTINS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return EvaluatorRefused(
        f"evaluators: {name!r} is not a built-in evaluator; {hint}"
        f"Built in are: {', '.join(sorted(BUILTINS))}. "
        "One of your own is named 'module:attribute'",
        field="evaluators",
        value=name,
        rule="must be a built-in evaluator or 'module:attribute'",
    )
