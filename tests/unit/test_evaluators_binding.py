"""Binding: what is refused, names, fingerprints, and that scoring never raises."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from orcheo_agentensor.errors import EntrypointNotAllowed, EvaluatorRefused
from orcheo_agentensor.evaluators import (
    BUILTINS,
    BoundEvaluator,
    EvaluationResult,
    EvaluatorContext,
    EvaluatorFailure,
    ExactMatch,
    JsonFieldMatch,
    JsonSchema,
    bind_evaluator,
    bind_evaluators,
)
from orcheo_agentensor.evaluators.context import private_context
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.testing import RuleChatModel
from orcheo_agentensor.usage import Usage

CTX = EvaluatorContext(
    case_id="c", inputs={"q": [1]}, output={"a": [1]}, expected_output={"a": [1]}
)
SETTINGS = Settings()

MODULE = """
from orcheo_agentensor.evaluators import ExactMatch, bind_evaluator

def plain(outputs, reference_outputs):
    return outputs == reference_outputs

def scaled(outputs, factor):
    return factor

class Scorer:
    def __init__(self, level=0.5):
        self.level = level

    def evaluate(self, ctx):
        return self.level

bound = bind_evaluator(plain, name="bound", weight=3)
built_in = ExactMatch(field="a")
"""


@pytest.fixture
def evals_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "team_evals.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "team_evals", raising=False)
    return "team_evals"


def refusal(spec: Any, settings: Settings = SETTINGS) -> str:
    with pytest.raises(EvaluatorRefused) as error:
        bind_evaluators([spec], settings=settings)
    return error.value.message


async def failure(evaluator: Any, timeout: float | None = None) -> EvaluatorFailure:
    (found,), _ = await bind_evaluator(evaluator, name="e").score(CTX, timeout=timeout)
    assert isinstance(found, EvaluatorFailure)
    return found


class Summary:
    def evaluate(self, inputs: Any, outputs: Any) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("evaluator", "reason"),
    [
        (lambda x: 1, "nothing tells what lambda(x) would be given"),
        (lambda outputs, foo: 1, "nothing tells what lambda(outputs, foo)"),
        (lambda inputs, output: 1, "nothing tells what"),
        (lambda x, y, z: 1, "nothing tells what"),
        (lambda: 1, "nothing tells what"),
        (lambda *args: 1, "nothing tells what"),
        (lambda **kwargs: 1, "nothing tells what"),
        (ExactMatch, "ExactMatch is a class; pass an instance, such as ExactMatch()"),
        (3, "it cannot be called"),
        (Summary(), "evaluate(inputs, outputs) must take one context"),
    ],
)
def test_an_evaluator_of_no_known_form_is_refused_when_bound(evaluator: Any, reason: str) -> None:
    assert reason in refusal(evaluator)


def test_a_refusal_lists_the_forms_and_the_kinds() -> None:
    message = refusal(lambda x: 1)
    for form in ("EvaluatorContext", "reference_outputs", "MLflow", "DSPy", "promptfoo", "kind="):
        assert form in message


def test_a_kind_given_overrides_the_detection() -> None:
    bound = bind_evaluator(lambda output, context: 1, kind="braintrust")
    assert bound.binding.startswith("braintrust: lambda(output, expected)")
    with pytest.raises(EvaluatorRefused, match="kinds are trulens, phoenix, report_evaluator"):
        bind_evaluator(lambda ctx: 1, kind="magic")
    with pytest.raises(EvaluatorRefused, match="'deepeval' needs a_measure"):
        bind_evaluator(lambda ctx: 1, kind="deepeval")
    with pytest.raises(EvaluatorRefused, match="not of the kind 'context'"):
        bind_evaluator(lambda a, b: 1, kind="context")


def test_job_forms_of_built_ins() -> None:
    bound = bind_evaluators(
        [
            "exact_match",
            {"type": "exact_match", "name": "queue", "field": "queue", "weight": 2},
            {"type": "latency", "max_ms": 500},
            ExactMatch(name="mine"),
            bind_evaluator(lambda ctx: 1, name="function", weight=0.5),
        ],
        settings=SETTINGS,
    )
    assert [(one.name, one.weight) for one in bound] == [
        ("exact_match", 1.0),
        ("queue", 2.0),
        ("latency", 1.0),
        ("mine", 1.0),
        ("function", 0.5),
    ]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("exact_mach", "did you mean 'exact_match'? Built in are: assertions, contains, each_turn"),
        ({"type": "exact_match", "fild": "x"}, "exact_match.fild: is not a parameter; there are"),
        ({"type": "latency"}, "latency.max_ms"),
        ({"type": "latency", "max_ms": -1}, "latency.max_ms: -1 Input should be greater"),
        ({"type": "regex", "pattern": "("}, "is not a regular expression"),
        ({"type": "exact_match", "weight": -1}, "weight: -1 must be a number of at least 0"),
        ({"type": "exact_match", "weight": True}, "weight: True must be a number of at least 0"),
        ({"type": "exact_match", "weight": float("nan")}, "weight: nan must be"),
        ({"type": "exact_match", "name": "a.b"}, "name: 'a.b' must be 1 to 100 printable"),
        ({"type": "llm_judge", "rubric": "r", "model": {"x": 1}}, "must be a model's name"),
        ({}, "must have either a `type` or an `entrypoint`"),
        ({"type": "exact_match", "entrypoint": "a:b"}, "must have either"),
        ({"entrypoint": "a:b", "level": 1}, "its own go into `params`"),
        ({"entrypoint": 3}, "must be 'module:attribute'"),
    ],
)
def test_a_broken_job_form_is_refused(spec: Any, message: str) -> None:
    assert message in refusal(spec)


def test_two_evaluators_of_one_name_are_refused() -> None:
    with pytest.raises(EvaluatorRefused, match=r"evaluators\.1: the name 'one' is taken"):
        bind_evaluators([{"type": "exact_match", "name": "one"}] * 2, settings=SETTINGS)
    for none in ([], "exact_match", {"type": "exact_match"}):
        with pytest.raises(EvaluatorRefused, match="evaluators"):
            bind_evaluators(none, settings=SETTINGS)  # type: ignore[arg-type]


async def test_entry_points_come_only_from_allowed_modules(evals_module: str) -> None:
    with pytest.raises(EntrypointNotAllowed, match="AGENTENSOR_ALLOWED_MODULES"):
        bind_evaluators([f"{evals_module}:plain"], settings=SETTINGS)
    assert evals_module not in sys.modules
    settings = Settings(allowed_modules=(evals_module,))
    bound = bind_evaluators(
        [
            f"{evals_module}:plain",
            {"entrypoint": f"{evals_module}:scaled", "params": {"factor": 0.25}},
            {"entrypoint": f"{evals_module}:Scorer", "params": {"level": 0.75}, "weight": 2},
            {"entrypoint": f"{evals_module}:Scorer", "name": "half"},
            {"entrypoint": f"{evals_module}:bound", "weight": 4},
            f"{evals_module}:built_in",
        ],
        settings=settings,
    )
    scores = {}
    for one in bound:
        (found,), _ = await one.score(CTX)
        assert isinstance(found, EvaluationResult)
        scores[found.name] = (found.score, one.weight)
    assert scores == {
        "plain": (1.0, 1.0),
        "scaled": (0.25, 1.0),
        "Scorer": (0.75, 2.0),
        "half": (0.5, 1.0),
        "bound": (1.0, 4.0),
        "exact_match": (1.0, 1.0),
    }
    wrong = {"entrypoint": f"{evals_module}:Scorer", "params": {"nivel": 1}}
    assert "Scorer(**params) failed: TypeError" in refusal(wrong, settings)


async def test_whatever_an_evaluator_raises_is_a_failure_with_its_reason() -> None:
    class Odd(Exception):
        pass

    def raising(error: BaseException) -> Any:
        def evaluator(ctx: Any) -> Any:
            raise error

        return evaluator

    for error in (Odd("boom"), SystemExit("boom"), asyncio.CancelledError("boom")):
        found = await failure(raising(error))
        assert (found.name, found.kind) == ("e", "exception")
        assert found.reason == f"{type(error).__name__}: boom"

    async def times_out_itself(ctx: Any) -> Any:
        raise TimeoutError("upstream")

    assert (await failure(times_out_itself, timeout=60)).reason == "TimeoutError: upstream"


async def test_a_timeout_is_a_failure_of_async_and_blocking_evaluators() -> None:
    async def slow(ctx: Any) -> float:
        await asyncio.Event().wait()
        return 1.0

    release = threading.Event()

    def stuck(ctx: Any) -> float:
        release.wait()
        return 1.0

    for evaluator in (slow, stuck):
        found = await failure(evaluator, timeout=0.05)
        assert (found.kind, found.reason) == ("timeout", "took longer than 0.05 s")
    release.set()


def test_a_stuck_evaluator_does_not_keep_the_loop_from_ending() -> None:
    release = threading.Event()

    async def main() -> None:
        await failure(lambda ctx: release.wait(), timeout=0.05)

    asyncio.run(main())  # ends, or the test hangs: nobody has released the evaluator
    release.set()


async def test_cancelling_reaches_through() -> None:
    async def slow(ctx: Any) -> float:
        await asyncio.Event().wait()
        return 1.0

    for evaluator in (slow, lambda ctx: time.sleep(0.2)):
        task = asyncio.create_task(bind_evaluator(evaluator, name="e").score(CTX))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_blocking_evaluators_run_beside_each_other_and_off_the_loop() -> None:
    together = threading.Barrier(20)

    def blocking(ctx: Any) -> bool:
        together.wait()
        return threading.current_thread() is not threading.main_thread()

    bound = bind_evaluator(blocking)
    found = await asyncio.gather(*(bound.score(CTX) for _ in range(20)))
    assert all(outcomes[0].passed for outcomes, _ in found)  # type: ignore[union-attr]


async def test_every_evaluator_has_its_own_copy_of_the_values() -> None:
    def vandal(inputs: Any, outputs: Any, reference_outputs: Any) -> bool:
        inputs["q"].append(2)
        outputs["a"].clear()
        del reference_outputs["a"]
        return True

    def vandal_too(ctx: EvaluatorContext) -> bool:
        ctx.output["a"].clear()
        ctx.metadata["x"] = 1
        return True

    ctx = EvaluatorContext(
        case_id="c", inputs={"q": [1]}, output={"a": [1]}, expected_output=CTX.output
    )
    for evaluator in (vandal, vandal_too):
        (found,), _ = await bind_evaluator(evaluator).score(ctx)
        assert isinstance(found, EvaluationResult)
    assert (ctx.inputs, ctx.output, ctx.metadata) == ({"q": [1]}, {"a": [1]}, {})
    assert ctx.expected_output == {"a": [1]}


async def test_model_calls_of_an_evaluator_are_its_usage() -> None:
    model = RuleChatModel(rule=lambda messages: "two words")

    def blocking(ctx: Any) -> bool:
        return bool(model.invoke("a b c").text)

    async def native(ctx: Any) -> bool:
        await asyncio.gather(model.ainvoke("a b c"), model.ainvoke("a"))
        raise ValueError("after paying")

    _, usage = await bind_evaluator(blocking).score(CTX)
    assert (usage.calls, usage.input_tokens, usage.output_tokens, usage.cost) == (1, 3, 2, 0.0)
    _, usage = await bind_evaluator(native).score(CTX)
    assert (usage.calls, usage.tokens) == (2, 8)


def test_a_script_run_again_under_another_passing_name_has_the_same_evaluator() -> None:
    source = "def judge(outputs):\n    return outputs == {!r}\n"

    def fingerprint(name: str, *, right: str) -> str:
        script: dict[str, Any] = {"__name__": name}
        exec(source.format(right), script)  # noqa: S102 - as Orcheo runs its workflows
        return bind_evaluator(script["judge"]).fingerprint

    assert fingerprint("passing_1", right="a") == fingerprint("passing_2", right="a")
    assert fingerprint("passing_1", right="a") != fingerprint("passing_1", right="b")


def test_the_fingerprint_is_of_what_the_evaluator_is() -> None:
    def make(level: float) -> Any:
        def evaluator(outputs: Any, extra: int = 1) -> float:
            return level

        return evaluator

    class Scorer:
        def __init__(self, level: float) -> None:
            self.level = level

        def evaluate(self, ctx: Any) -> float:
            return self.level

    def fingerprint(evaluator: Any, **kwargs: Any) -> str:
        return bind_evaluator(evaluator, **kwargs).fingerprint

    assert fingerprint(make(1.0), name="a") == fingerprint(make(1.0), name="a", weight=3)
    different = [
        fingerprint(make(1.0), name="a"),
        fingerprint(make(2.0), name="a"),
        fingerprint(make(1.0), name="b"),
        fingerprint(functools.partial(make(1.0), extra=2), name="a"),
        fingerprint(lambda outputs: 1, name="a"),
        fingerprint(Scorer(1.0), name="a"),
        fingerprint(Scorer(2.0), name="a"),
        fingerprint(Scorer(1.0).evaluate, name="a"),
        fingerprint(ExactMatch(), name="a"),
        fingerprint(ExactMatch(field="q"), name="a"),
    ]
    assert len(set(different)) == len(different)
    assert fingerprint(Scorer(1.0)) == fingerprint(Scorer(1.0))


def test_changed_code_changes_the_fingerprint_even_without_source() -> None:
    def compiled(body: str) -> Any:
        namespace: dict[str, Any] = {"__name__": "m"}
        exec(f"def f(outputs):\n    return {body}", namespace)  # noqa: S102
        return namespace["f"]

    one, other = (bind_evaluator(compiled(body)).fingerprint for body in ("1", "2"))
    assert one != other
    assert one == bind_evaluator(compiled("1")).fingerprint


async def test_a_bound_evaluator_shows_how_it_will_be_called() -> None:
    def quality(outputs: Any, inputs: Any) -> float:
        return 1.0

    bound = bind_evaluator(quality)
    assert isinstance(bound, BoundEvaluator)
    assert bound.binding == "langsmith: quality(outputs, inputs), in a thread"
    assert bind_evaluator(ExactMatch(), settings=SETTINGS).binding == "builtin: exact_match, inline"


def test_a_builtin_with_aliased_parameters_can_be_named() -> None:
    schema = bind_evaluator(JsonSchema(schema={"type": "object"}), name="shape")
    fields = bind_evaluator(JsonFieldMatch(fields=["queue"]), name="same_queue")
    assert (schema.name, fields.name) == ("shape", "same_queue")


def test_a_private_context_is_equal_in_every_field() -> None:
    full = EvaluatorContext(
        case_id="c",
        inputs={"q": [1]},
        output=[{"a": 1}],
        expected_output={"x": None},
        metadata={"m": [1]},
        latency_ms=1.5,
        usage=Usage(calls=1),
        tape={"nodes": []},
    )
    copied = private_context(full)
    assert copied == full
    assert copied.inputs is not full.inputs
    assert copied.tape is not full.tape


def test_every_built_in_evaluator_is_known_by_its_name() -> None:
    assert len(BUILTINS) == 16
    assert {name: kind.type_name for name, kind in BUILTINS.items()} == {n: n for n in BUILTINS}
    found: set[str] = set()
    waiting: list[Any] = [
        kind for kind in BUILTINS["latency"].__mro__ if kind.__name__ == "Builtin"
    ]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("orcheo_agentensor.") and getattr(kind, "type_name", ""):
            found.add(kind.type_name)
    assert found == {*BUILTINS}
