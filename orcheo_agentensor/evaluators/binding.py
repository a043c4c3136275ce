"""Which form an evaluator has. Decided once, when it is bound, and never by what it returns."""

from __future__ import annotations

import ast
import asyncio
import functools
import hashlib
import inspect
import itertools
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from importlib import import_module
from math import isfinite
from tokenize import TokenError
from types import CodeType
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from pydantic import ValidationError

from orcheo_agentensor.datasets import Case
from orcheo_agentensor.entrypoints import load_entrypoint, qualified_name
from orcheo_agentensor.errors import (
    LOCKED_OUT,
    EvaluatorRefused,
    causes,
    client_retries,
    describe,
    is_transient,
    shorten,
    status_of,
)
from orcheo_agentensor.evaluators.builtin import (
    Builtin,
)
from orcheo_agentensor.evaluators.contained import Contained
from orcheo_agentensor.evaluators.context import EvaluationResult, EvaluatorContext, Outcome
from orcheo_agentensor.evaluators.dialects import (
    Adapter,
    Subject,
)
from orcheo_agentensor.evaluators.returns import Reader, failure, read_result
from orcheo_agentensor.evaluators.threads import run_in_thread
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.upstream import parsed, source_of
from orcheo_agentensor.usage import Usage, UsageRecorder


class _Builtins(Mapping[str, type[Builtin]]):
    """The classes of built-in evaluators by name, each imported when it is asked for."""

    def __getitem__(self, name: str) -> type[Builtin]:
        module, _, kind = _BUILT_IN[name].partition(".")
        found: type[Builtin] = getattr(import_module(f"{__package__}.{module}"), kind)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_BUILT_IN)

    def __len__(self) -> int:
        return len(_BUILT_IN)


_BUILT_IN = {
    "exact_match": "builtin.ExactMatch",
    "contains": "builtin.Contains",
    "regex": "builtin.Regex",
    "numeric_tolerance": "builtin.NumericTolerance",
    "string_similarity": "builtin.StringSimilarity",
    "json_valid": "json_checks.JsonValid",
    "json_schema": "json_checks.JsonSchema",
    "json_field_match": "json_checks.JsonFieldMatch",
    "tool_call_match": "tool_calls.ToolCallMatch",
    "trajectory_match": "tool_calls.TrajectoryMatch",
    "latency": "builtin.Latency",
    "length": "builtin.Length",
    "http": "builtin.HTTPEvaluator",
    "llm_judge": "judge.LLMJudge",
    "each_turn": "turns.EachTurn",
    "assertions": "assertions.Assertions",
}
BUILTINS: Mapping[str, type[Builtin]] = _Builtins()
"""The names of built-in evaluators in jobs, and their classes."""

_DEEPEST = 5
_DEEPEST_STATE = 2
"""How far into an object, and into the attributes of objects, a fingerprint looks."""

Scale: TypeAlias = tuple[float, float]
"""The worst score and the best."""


@dataclass(slots=True)
class Scoring:
    """The outcomes of one attempt of an evaluator.

    A `transient` failure is worth another attempt, a `passing` one another run: it is no doing of
    the case, as a refused key is not. `retried` is how often a client has tried again by itself.
    """

    outcomes: list[Outcome]
    transient: bool = False
    passing: bool = False
    retried: int = 0


@dataclass(frozen=True, kw_only=True)
class BoundEvaluator:
    """An evaluator ready to score, whatever form it was given in.

    `binding` says in words which form was recognised; scores are kept under `fingerprint`, which
    changes when the evaluator does; `weight` is its share in a weighted mean. `named` tells that it
    was given its name and must keep it; `subject` is what was bound.
    """

    name: str
    weight: float = 1.0
    fingerprint: str
    binding: str
    adapter: Adapter = field(repr=False, compare=False)
    named: bool = field(default=False, repr=False, compare=False)
    subject: Any = field(default=None, repr=False, compare=False)
    scale: Scale | None = None

    async def score(
        self, ctx: EvaluatorContext | list[EvaluatorContext], *, timeout: float | None = None
    ) -> tuple[list[Outcome], Usage]:
        """Score one rollout: the outcomes, and what the models called for them used.

        One whose adapter is for the `whole` scores a list of rollouts together.
        Raises only `CancelledError`: whatever goes wrong is an `EvaluatorFailure`. Outcomes are
        named after the evaluator, or `name.metric` where it gives several. `timeout` is in seconds.
        """
        recorder = UsageRecorder()
        scoring = await self.attempt(ctx, timeout=timeout, recorder=recorder)
        return scoring.outcomes, recorder.total

    async def attempt(
        self, ctx: Any, *, timeout: float | None, recorder: UsageRecorder | None
    ) -> Scoring:
        """As `score`, for a caller that tries again after a transient failure.

        `recorder` holds afterwards, whatever happens, what its model calls used. Raises
        `BudgetExhausted` too, where a model call was refused.
        """
        inline = self.adapter.inline
        if inline is not None:
            try:
                return Scoring([inline(ctx)])
            except Exception as error:  # noqa: BLE001 - a failure is a value
                return Scoring([self.broken(error)])
        with recorder or UsageRecorder() as recorder:
            scoring = await self._outcomes(ctx, timeout)
        if recorder.refused is not None:
            raise recorder.refused
        return scoring

    def renamed(self, name: str) -> BoundEvaluator:
        """The same evaluator under another name, and so with scores of its own."""
        adapter, fingerprint = self.adapter, content_hash([self.fingerprint, name])
        if (inline := adapter.inline) is not None:  # whose outcomes bear its own name
            adapter = replace(adapter, inline=lambda ctx: replace(inline(ctx), name=name))
        return replace(self, name=name, fingerprint=fingerprint, adapter=adapter)

    async def _outcomes(self, ctx: Any, timeout: float | None) -> Scoring:
        adapter = self.adapter
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                value = await Contained(_called(adapter, ctx))
            return Scoring(adapter.read(self.name, value))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return Scoring([self.broken(error)])  # its own, not ours
        except BaseException as error:
            if isinstance(error, GeneratorExit):
                raise
            if limit.expired() and isinstance(error, TimeoutError):
                late = failure(self.name, "timeout", f"took longer than {timeout:g} s")
                return Scoring([late], transient=True, passing=True)
            timeout_within = any(isinstance(cause, TimeoutError) for cause in causes(error))
            transient = timeout_within or is_transient(error)
            passing = transient or status_of(error) in LOCKED_OUT
            return Scoring(
                [self.broken(error)],
                transient=transient,
                passing=passing,
                retried=client_retries(error),
            )

    def broken(self, error: BaseException) -> Outcome:
        """The failure of an evaluator that raised."""
        return failure(self.name, "exception", describe(error))


async def _called(adapter: Adapter, ctx: Any) -> Any:
    """What the evaluator returns, whatever it returns it through."""
    value = await run_in_thread(adapter.call, ctx) if adapter.threaded else adapter.call(ctx)
    while inspect.isawaitable(value):
        value = await value
    return value


def bind_evaluator(
    evaluator: Any,
    *,
    name: str | None = None,
    weight: float = 1.0,
    kind: str | None = None,
    scale: Scale | None = None,
    settings: Settings | None = None,
) -> BoundEvaluator:
    """Bind one evaluator: a built-in, or any form that `docs/reference/evaluators.md` lists.

    Args:
        evaluator: A function, an evaluator object, the name of a built-in, or the job form.
        name: What its results go by; without one, the `key` or `feedback_key` that it returns,
            where its source says which, else its own name.
        weight: Its share in the weighted mean; 0 only observes.
        kind: Overrides the detection of its form.
        scale: Its worst score and its best, where these are not 0 and 1: scores are brought to
            0..1, and one outside is a failure.
        settings: The operator's settings; those of the environment when left out.

    Returns:
        The bound evaluator, which can stand wherever an evaluator can.

    Raises:
        EvaluatorRefused: Its form is not known, or more than one fits.

    Example:
        >>> from orcheo_agentensor import bind_evaluator
        >>> def exact(outputs, reference_outputs):
        ...     return outputs == reference_outputs
        >>> bound = bind_evaluator(exact, name="answer", weight=2)
        >>> bound.name, bound.weight, bound.binding
        ('answer', 2.0, 'langsmith: exact(outputs, reference_outputs), in a thread')
    """
    weight = _checked_weight(weight)
    if isinstance(evaluator, BoundEvaluator):
        raise EvaluatorRefused(f"{evaluator.name} is bound already", field="evaluators")
    if isinstance(evaluator, Builtin):
        if scale is not None:
            rule = "is for evaluators of your own; what is built in scores from 0 to 1"
            raise EvaluatorRefused(field="scale", value=scale, rule=rule)
        if name is not None:
            evaluator = evaluator.changed(name=name)
        named = evaluator.name != evaluator.type_name
        name = _checked_name(evaluator.name)
        evaluator = evaluator.with_settings(settings or Settings())
        adapter = _builtin_adapter(evaluator)
    else:
        from orcheo_agentensor.evaluators.detection import detect

        subject = Subject.of(evaluator)
        adapter, named = detect(subject, kind), name is not None
        name = _checked_name(name if named else _returned_key_of(subject) or subject.name)
    way = "inline" if adapter.inline else "in a thread" if adapter.threaded else "awaited"
    fingerprint = _fingerprint(evaluator, kind=adapter.kind, name=name)
    if scale is None and adapter.lower_is_better:
        raise EvaluatorRefused(
            f"{name}: the lower its score, the better, while an objective is the better the higher "
            f"it is: write its worst score and its best, such as `scale: [1, 0]` in a job or "
            f"bind_evaluator({name}, scale=(1, 0))",
            field="scale",
            value=None,
            rule="must be given where less is better",
        )
    if scale is not None:
        scale = _checked_scale(scale)
        adapter = replace(adapter, read=_on_scale(adapter.read, scale))
        fingerprint = content_hash([fingerprint, scale])
    return BoundEvaluator(
        name=name,
        weight=weight,
        fingerprint=fingerprint,
        binding=f"{adapter.kind}: {adapter.form}, {way}",
        adapter=adapter,
        named=named,
        subject=evaluator,
        scale=scale,
    )


def _returned_key_of(subject: Subject) -> str | None:
    """The one key that an evaluator says, or its source shows, that it gives its results."""
    told = getattr(subject.obj, "feedback_keys", None)  # of LangSmith's evaluator objects
    if isinstance(told, list) and len(told) == 1:
        return str(told[0]).replace(".", "_")
    method = subject.method("evaluate_run") or subject.method("aevaluate_run")
    return returned_key(subject.function) or (method and returned_key(method))


def returned_key(function: Any) -> str | None:
    """The one `key` or `feedback_key` that the source of a function gives its results, if any."""
    try:
        code = parsed(lambda: ast.parse(textwrap.dedent(inspect.getsource(function))))
        scope = inspect.getclosurevars(function)
    except (OSError, TypeError, ValueError, SyntaxError, TokenError):
        return None
    names = {**scope.globals, **scope.nonlocals}

    def text(node: ast.expr) -> str | None:
        if isinstance(node, ast.JoinedStr):
            parts = [text(p.value if isinstance(p, ast.FormattedValue) else p) for p in node.values]
            return None if None in parts else "".join(map(str, parts))
        found = node.value if isinstance(node, ast.Constant) else None
        found = names.get(node.id) if isinstance(node, ast.Name) else found
        return found if isinstance(found, str) else None

    given: list[ast.expr] = []
    for node in ast.walk(code):
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            given += [v for k, v in pairs if isinstance(k, ast.Constant) and k.value == "key"]
        elif isinstance(node, ast.Call):
            made = ast.unparse(node.func).endswith(("EvaluationResult", "dict"))
            wanted = ("key", "feedback_key") if made else ("feedback_key",)
            given += [keyword.value for keyword in node.keywords if keyword.arg in wanted]
    keys = set(map(text, given))
    key = keys.pop() if len(keys) == 1 else None
    return key.replace(".", "_") if key and key.isprintable() and len(key) <= 100 else None


def _builtin_adapter(evaluator: Builtin) -> Adapter:
    evaluate = evaluator.evaluate
    return Adapter(
        kind="builtin",
        form=evaluator.type_name,
        read=read_result,
        call=evaluate,
        threaded=not evaluator.is_quick,
        inline=evaluate
        if evaluator.is_quick and not inspect.iscoroutinefunction(evaluate)
        else None,
    )


def require_judge(evaluator: BoundEvaluator, cases: Iterable[Case]) -> None:
    """Raise `EvaluatorRefused` for a judge of these cases whose model cannot be made. Blocks."""
    owner = getattr(evaluator.adapter.call, "__self__", None)
    if isinstance(owner, Builtin):
        owner.require_model(case.metadata for case in cases)


def _checked_weight(weight: Any) -> float:
    if not _is_number(weight) or weight < 0:
        rule = "must be a number of at least 0 (0 only observes)"
        raise EvaluatorRefused(field="weight", value=weight, rule=rule)
    return float(weight)


def _checked_name(name: Any) -> str:
    sound = isinstance(name, str) and name.isprintable() and 1 <= len(name) <= 100
    if not sound or name != name.strip() or "." in name:
        rule = "must be 1 to 100 printable characters without a dot"
        raise EvaluatorRefused(field="name", value=name, rule=rule)
    return str(name)


def _checked_scale(scale: Any) -> Scale:
    sound = isinstance(scale, Sequence) and len(scale) == 2 and all(map(_is_number, scale))
    if not sound or scale[0] == scale[1]:
        rule = "must be two different numbers, the worst score first"
        raise EvaluatorRefused(field="scale", value=scale, rule=rule)
    return float(scale[0]), float(scale[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _on_scale(read: Reader, scale: Scale) -> Reader:
    """A reader that brings what `read` finds to 0..1; a score outside the scale is a failure."""
    worst, best = scale

    def scaled(outcome: Outcome) -> Outcome:
        if not isinstance(outcome, EvaluationResult) or outcome.score is None:
            return outcome
        if not min(scale) <= outcome.score <= max(scale):
            reason = f"gave {outcome.score:g}, outside its scale of {worst:g} to {best:g}"
            return failure(outcome.name, "wrong_shape", reason)
        score, passed = (outcome.score - worst) / (best - worst), outcome.passed
        if best < worst and passed is not None and score in (0.0, 1.0):
            passed = score == 1.0  # a bool has said that the higher score passes
        return replace(outcome, score=score, passed=passed)

    return lambda name, value: [scaled(outcome) for outcome in read(name, value)]


def bind_evaluators(specs: Sequence[Any], *, settings: Settings) -> list[BoundEvaluator]:
    """Bind every evaluator of a job or a call.

    A spec is an evaluator object, a `BoundEvaluator`, the name of a built-in, a
    `"module:attribute"` from the allowlist, `{"type": built-in, **params, "name", "weight"}` or
    `{"entrypoint": "module:attribute", "params", "kind", "scale", "name", "weight"}`. No two may
    be given the same name; those that go by a name of their own are numbered. Raises
    `EvaluatorRefused`.
    """
    if isinstance(specs, str | Mapping) or not isinstance(specs, Sequence):
        raise EvaluatorRefused(field="evaluators", value=specs, rule="must be a list")
    if not specs:
        raise EvaluatorRefused(
            "evaluators: at least one is needed", field="evaluators", rule="must not be empty"
        )
    bound: dict[str, BoundEvaluator] = {}
    for n, spec in enumerate(specs):
        one = _bind_spec(spec, settings)
        if one.name in bound and not one.named:
            one = one.renamed(
                next(k for i in itertools.count(2) if (k := f"{one.name}_{i}") not in bound)
            )
        if one.name in bound:
            raise EvaluatorRefused(
                f"evaluators.{n}: the name {one.name!r} is taken; give each its own `name`",
                field=f"evaluators.{n}.name",
                value=one.name,
                rule="must be unique",
            )
        bound[one.name] = one
    return list(bound.values())


def completed(evaluator: BoundEvaluator, metadata: Mapping[str, Any]) -> BoundEvaluator:
    """`evaluator` for a dataset with this metadata: a judge without a rubric takes it from there.

    Raises `EvaluatorRefused` where there is none.
    """
    subject = evaluator.subject
    whole = subject.with_metadata(metadata) if isinstance(subject, Builtin) else subject
    if whole is subject:
        return evaluator
    bound = bind_evaluator(whole, weight=evaluator.weight)
    return bound if bound.name == evaluator.name else bound.renamed(evaluator.name)


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
        near = get_close_matches(spec["type"], BUILTINS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise EvaluatorRefused(
            f"evaluators: {spec['type']!r} is not a built-in evaluator; {hint}"
            f"Built in are: {', '.join(sorted(BUILTINS))}. "
            "One of your own is named 'module:attribute'",
            field="evaluators",
            value=spec["type"],
            rule="must be a built-in evaluator or 'module:attribute'",
        )
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
    made = _construct(kind, params)
    try:
        made = made.for_job()
    except ValueError as error:
        wrong = next(key for key in ("pattern", "schema") if key in params)
        raise EvaluatorRefused(
            f"{kind.type_name}.{wrong}: {shorten(params[wrong])} {error}",
            field=wrong,
            value=params[wrong],
            rule=str(error),
        ) from None
    return bind_evaluator(made, weight=spec.get("weight", 1.0), settings=settings)


def _construct(kind: type[Builtin], params: Mapping[str, Any]) -> Builtin:
    try:
        return kind(**params)
    except ValidationError as error:
        known = [f.alias or key for key, f in kind.model_fields.items()]
        problems = []
        for problem in error.errors():
            where = ".".join(map(str, (kind.type_name, *problem["loc"])))
            if problem["type"] == "extra_forbidden":
                problems.append(f"{where}: is not a parameter; there are: {', '.join(known)}")
            else:
                problems.append(f"{where}: {shorten(problem['input'])} {problem['msg']}")
        raise EvaluatorRefused("; ".join(problems), field=kind.type_name) from None


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
        name = loaded.name if spec.get("name") is None else _checked_name(spec["name"])
        weight = _checked_weight(spec.get("weight", loaded.weight))
        return replace(loaded, name=name, weight=weight, named=loaded.named or "name" in spec)
    if inspect.isclass(loaded):
        try:
            loaded = loaded(**params)
        except (Exception, SystemExit) as error:
            raise EvaluatorRefused(
                f"{where}: {loaded.__name__}(**params) failed: {type(error).__name__}: {error}",
                field="params",
                value=dict(params),
                rule="must construct the evaluator",
            ) from error
    elif params:
        if not callable(loaded):
            rule = "are for functions and classes, and this is neither"
            raise EvaluatorRefused(field="params", value=dict(params), rule=rule)
        taken = Subject.of(loaded)
        variadic = any(p.kind is p.VAR_KEYWORD for p in (taken.parameters or {}).values())
        for key in () if variadic or taken.parameters is None else params:
            if key not in taken.named:
                raise EvaluatorRefused(
                    f"{where}: params.{key} is not a parameter of {taken.name}; "
                    f"there are: {', '.join(taken.named)}",
                    field=f"params.{key}",
                    value=params[key],
                    rule="must be a parameter of the evaluator",
                )
        loaded = functools.partial(loaded, **params)
    return bind_evaluator(
        loaded,
        name=spec.get("name"),
        weight=spec.get("weight", 1.0),
        kind=spec.get("kind"),
        scale=spec.get("scale"),
        settings=settings,
    )


def _fingerprint(subject: Any, **facts: Any) -> str:
    """SHA-256 over `facts` and what can be known of `subject`.

    For functions: where they are defined, their source (or code), defaults and the values they
    close over; for objects: their class, its source and their own attributes. What a function
    calls elsewhere is not looked at.
    """
    return content_hash({"facts": _stable(facts, 0), "subject": _stable(subject, 0)})


def _stable(value: Any, depth: int) -> Any:
    """A JSON value that is the same in every process for an equal `value`."""
    if value is None or isinstance(value, bool | int | str):
        return value if not isinstance(value, int) or abs(value) < 2**63 else str(value)
    if isinstance(value, float):
        return repr(value)
    if depth > _DEEPEST:
        return qualified_name(type(value))
    depth += 1
    if isinstance(value, Mapping):
        return {str(key): _stable(item, depth) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_stable(item, depth) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(content_hash(_stable(item, depth)) for item in value)
    if isinstance(value, functools.partial):
        parts = [value.func, list(value.args), value.keywords]
        return {"partial": [_stable(part, depth) for part in parts]}
    if inspect.ismethod(value):
        return {"method": value.__name__, "of": _stable(value.__self__, depth)}
    if inspect.isfunction(value):
        return _function(value, depth)
    if inspect.isclass(value):
        return {"class": qualified_name(value), "source": source_hash(value)}
    if inspect.ismodule(value):
        return {"module": value.__name__}
    if hasattr(value, "_llm_type"):
        found = {"model": qualified_name(type(value)), "name": model_name(value)}
        return {**found, "settings": _stable(model_settings(value), depth)}
    facts = {"type": qualified_name(type(value)), "source": source_hash(type(value))}
    return facts if depth > _DEEPEST_STATE else {**facts, "state": _state(value, depth)}


def _function(function: Any, depth: int) -> dict[str, Any]:
    closed = []
    for cell in function.__closure__ or ():
        try:
            closed.append(_stable(cell.cell_contents, depth))
        except ValueError:  # an empty cell: a function that refers to itself
            closed.append(None)
    return {
        "function": qualified_name(function),
        "source": source_hash(function),
        "defaults": _stable(list(function.__defaults__ or ()), depth),
        "keyword_defaults": _stable(function.__kwdefaults__ or {}, depth),
        "closure": closed,
    }


def _state(value: Any, depth: int) -> Any:
    """The public attributes of an object."""
    try:
        attributes = vars(value)
    except TypeError:
        return None
    return _stable({k: v for k, v in attributes.items() if not k.startswith("_")}, depth)


def model_name(model: Any) -> str | None:
    """The name a chat model goes by at its provider."""
    names = (getattr(model, key, None) for key in ("model_name", "model", "deployment_name"))
    return next((name for name in names if isinstance(name, str)), None)


def model_settings(model: Any) -> dict[str, Any]:
    """The settings of a chat model: those of its fields that are data, functions or models."""
    fields = {name: getattr(model, name, None) for name in getattr(type(model), "model_fields", ())}
    kinds = (bool, int, float, str, list, tuple, dict, set)
    return {
        name: value
        for name, value in fields.items()
        if name not in _NO_SETTINGS
        and (isinstance(value, kinds) or inspect.isfunction(value) or hasattr(value, "_llm_type"))
    }


_NO_SETTINGS = {"callbacks", "metadata", "name", "tags", "verbose", "cache"}

_sources: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def source_hash(thing: Any) -> str:
    """The hash of the source of a class or function; of its code where it has no source.

    It is kept, because a class is found by parsing its whole module.
    """
    try:
        if thing not in _sources:
            _sources[thing] = _hashed_source(thing)
        return _sources[thing]
    except TypeError:  # a method of a type that is written in C cannot be remembered
        return _hashed_source(thing)


def _hashed_source(thing: Any) -> str:
    try:
        text = source_of(thing)
    except (OSError, TypeError, SyntaxError, TokenError):  # no file, or no Python at that line
        code = getattr(thing, "__code__", None)
        text = _code(code) if isinstance(code, CodeType) else ""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _code(code: CodeType) -> str:
    consts = [_code(item) if isinstance(item, CodeType) else repr(item) for item in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {consts}"
