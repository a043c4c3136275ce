"""`evaluate` and `train`: what they refuse in a sentence, and the objects they give back."""

from __future__ import annotations

import inspect
import io
import json
import sys
from typing import Any

import pytest

from orcheo_agentensor import (
    Dataset,
    EvaluatorFailure,
    ExactMatch,
    Reflective,
    TargetFailure,
    TextTensor,
    aevaluate,
    atrain,
    backward,
    configure,
    evaluate,
    get_prompt,
    serve,
    step,
    train,
)
from orcheo_agentensor.errors import BadInput, ConfigError, MissingExtra

CASES = [
    {"id": name, "inputs": {"text": name}, "expected_output": "A", "metadata": {"n": n}}
    for n, name in enumerate("abc")
]
SPLIT = [
    {
        "id": f"{split}-{n}",
        "split": split,
        "inputs": {"text": "x", "of": split},
        "expected_output": "X",
    }
    for split in ("train", "validation", "holdout")
    for n in range(6)
]


def shout(inputs: dict[str, Any]) -> str:
    """Breaks on "c"."""
    if inputs["text"] == "c":
        raise ValueError("no voice")
    return inputs["text"].upper()


async def obedient(inputs: dict[str, Any], config: Any) -> str:
    return shout(inputs) if "shout" in get_prompt("task") else inputs["text"]


class Teacher:
    async def propose(self, request: Any) -> dict[str, str]:
        return {component.name: "shout <b>now</b>" for component in request.components}


def trained(**options: Any) -> Any:
    return train(
        obedient,
        prompts={"task": "speak"},
        dataset=SPLIT,
        evaluators=["exact_match", "contains"],
        optimizer=Reflective(proposer=Teacher()),
        **options,
    )


WRONG: list[tuple[str, Any, str]] = [
    ("target", 5, "a LangGraph graph, a Runnable, a function"),
    ("dataset", ExactMatch(), "a Dataset, a list of cases, a path"),
    ("dataset", 3, "a Dataset, a list of cases, a path"),
    ("evaluators", Dataset.from_cases(CASES), "a list of evaluators"),
    ("evaluators", 3, "a list of evaluators"),
    ("prompts", "text", "a mapping of names to texts or TextTensors"),
    ("config", 3, "a mapping such as"),
    ("limits", "many", "Limits(…)"),
    ("replicates", "3", "a whole number of at least 1"),
    ("store", 3, "a Store, a database URL, or None for memory"),
    ("on_event", 3, "a plain function of one event"),
    ("run_id", 3, "a text"),
    ("cache", "on", "True or False"),
    ("settings", 3, "Settings(…)"),
]


@pytest.mark.parametrize(("name", "value", "form"), WRONG)
def test_an_argument_of_a_wrong_form_is_refused_by_function_name_and_form(
    name: str, value: Any, form: str
) -> None:
    arguments = {"target": shout, "dataset": CASES, "evaluators": ["exact_match"], name: value}
    with pytest.raises(ConfigError) as refused:
        evaluate(**arguments)
    assert refused.value.message.startswith(f"evaluate(): {name}=")
    assert form in refused.value.message
    assert refused.value.field == name
    arguments.setdefault("prompts", {"task": "speak"})
    with pytest.raises(ConfigError, match=rf"^train\(\): {name}="):
        train(**arguments)


@pytest.mark.parametrize("name", ["optimizer", "budget", "stop"])
def test_arguments_of_training_are_refused_by_name(name: str) -> None:
    arguments: dict[str, Any] = {name: 3}
    with pytest.raises(ConfigError, match=rf"^train\(\): {name}=3 must be "):
        train(obedient, prompts={"a": "b"}, dataset=SPLIT, evaluators=["contains"], **arguments)


async def test_the_function_that_was_called_is_the_one_that_is_named() -> None:
    wrong: Any = 3
    with pytest.raises(ConfigError, match=r"^aevaluate\(\): dataset=3 must be "):
        await aevaluate(shout, dataset=wrong, evaluators=["exact_match"])
    call: Any = evaluate
    with pytest.raises(TypeError, match=r"^evaluate\(\) got an unexpected keyword .*'datset'"):
        call(shout, datset=CASES, evaluators=["exact_match"])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (
            {"limits": {"concurrency": 0}},
            "limits.concurrency: 0 must be greater than or equal to 1",
        ),
        ({"limits": {"many": 1}}, "limits.many: 1 is not a known field; known: case_sla_ms, "),
        ({"config": {"recursion": 3}}, "config.recursion: 'recursion' is not a key of a config "),
        ({"dataset": ["exact_match"]}, "dataset[0]: case: 'exact_match' must be an object with "),
        ({"dataset": "none.jsonl"}, "dataset: none.jsonl: cannot be read "),
        ({"evaluators": CASES}, "evaluators: {"),
        ({"evaluators": ["exactmatch"]}, "evaluators: 'exactmatch' is not a built-in evaluator; "),
        ({"prompts": {"a": 5}}, "prompts.a: 5 must be a text or "),
        ({"target": lambda: 1}, "target: '<lambda>' must take (inputs) or (inputs, config)"),
    ],
)
def test_what_is_refused_later_names_the_function_and_its_argument_too(
    wrong: dict[str, Any], told: str
) -> None:
    arguments = {"target": shout, "dataset": CASES, "evaluators": ["exact_match"], **wrong}
    with pytest.raises(BadInput) as refused:
        evaluate(**arguments)
    assert refused.value.message.startswith(f"evaluate(): {told}")
    assert not (refused.value.field or "").startswith("job.")
    arguments["prompts"] = {"task": "speak", **wrong.get("prompts", {})}
    with pytest.raises(BadInput) as refused:
        train(**arguments, optimizer=Reflective(proposer=Teacher()))
    assert refused.value.message.startswith(f"train(): {told}")


def test_a_stop_condition_of_a_wrong_form_is_refused_by_its_place() -> None:
    with pytest.raises(ConfigError, match=r"^train\(\): stop\.0: 5 must be an object$"):
        trained(stop=[5])


def test_the_loop_by_hand_and_configure_name_their_arguments_too() -> None:
    report = evaluate(shout, dataset=CASES, evaluators=["exact_match"], tape=True)
    wrong: list[tuple[Any, tuple[Any, ...], dict[str, Any], str]] = [
        (backward, (3, {"task": TextTensor("a")}), {}, "backward(): report=3 must be the report "),
        (backward, (report, {"task": "a"}), {}, "backward(): tensors={'task': 'a'} must be a "),
        (step, ({"task": "a"},), {}, "step(): tensors={'task': 'a'} must be a mapping of names "),
        (configure, (3,), {"workflow_id": "w"}, "configure(): graph=3 must be a LangGraph graph "),
        (serve, (shout,), {"workflow_id": "w"}, "serve(): graph=<function shout at "),
    ]
    for function, arguments, options, told in wrong:
        with pytest.raises(ConfigError) as refused:
            function(*arguments, **options)
        assert refused.value.message.startswith(told)
    assert "RunnableLambda(shout)" in refused.value.message


@pytest.mark.requirement("door.python")
def test_sync_and_async_functions_take_the_same_arguments() -> None:
    for sync, twin in ((evaluate, aevaluate), (train, atrain)):
        assert inspect.signature(sync) == inspect.signature(twin)


@pytest.mark.requirement("door.python")
def test_a_report_is_typed_and_shows_itself() -> None:
    report = evaluate(shout, dataset=CASES, evaluators=["exact_match"])
    exact = report.scores["exact_match"]
    assert (exact.mean, exact.n, exact.pass_rate, exact.failures) == (0.5, 2, 0.5, 0)
    assert exact.ci95 is not None
    assert exact.ci95[0] < 0.5 < exact.ci95[1]
    assert (report.objective, report.coverage, report.status) == (0.5, 2 / 3, "missed_threshold")
    assert report.latency.p95 is not None
    good, wrong, broken = report.cases
    assert (good.inputs, good.expected_output, good.output) == ({"text": "a"}, "A", "A")
    assert wrong.scores == {"exact_match": 0.0}
    assert "expected 'A'" in wrong.reasons["exact_match"]
    assert good.failure is None
    assert isinstance(broken.failure, TargetFailure)
    assert "no voice" in broken.failure.reason

    shown = io.StringIO()
    report.print(file=shown)
    assert "exact_match" in shown.getvalue()
    assert "coverage 66.7% of 3 cases; target failures 1" in shown.getvalue()
    assert "<td>exact_match</td><td>0.500</td>" in report._repr_html_()
    written = json.loads(json.dumps(report.to_json()))
    assert written["summary"] == report.summary
    assert [case["inputs"]["text"] for case in written["cases"]] == ["a", "b", "c"]


def test_a_broken_evaluator_is_the_failure_of_its_case() -> None:
    def broken(outputs: dict[str, Any]) -> float:
        raise LookupError("nothing to compare")

    report = evaluate(shout, dataset=CASES[:1], evaluators=[broken])
    assert isinstance(report.cases[0].failure, EvaluatorFailure)
    assert report.scores["broken"].mean is None
    assert report.scores["broken"].failures == 1


def test_a_report_becomes_a_data_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    report = evaluate(shout, dataset=CASES, evaluators=["exact_match"])
    frame = report.to_pandas()
    assert list(frame["case_id"]) == ["a", "b", "c"]
    assert list(frame["exact_match"])[:2] == [1.0, 0.0]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match=r"pip install 'orcheo-agentensor\[pandas\]'"):
        report.to_pandas()


def test_the_cases_of_a_resubmitted_run_are_the_same(tmp_path: Any) -> None:
    arguments: dict[str, Any] = {"dataset": CASES, "evaluators": ["exact_match"], "run_id": "r"}
    first = evaluate(shout, store=str(tmp_path / "a.db"), **arguments)
    again = evaluate(shout, store=str(tmp_path / "a.db"), **arguments)
    assert [case.to_json() for case in again.cases] == [case.to_json() for case in first.cases]
    assert [case.inputs for case in again.cases] == [case["inputs"] for case in CASES]


def test_a_training_result_is_typed_and_shows_itself() -> None:
    result = trained(promote="auto")
    assert result.status == "finished"
    assert result.decision.status in ("promoted", "kept")
    assert result.diff.splitlines()[-2:] == ["-speak", "+shout <b>now</b>"]
    shown = io.StringIO()
    result.print(file=shown)
    text = shown.getvalue()
    assert "holdout gain +1.0000" in text
    assert f"decision: {result.decision.status}" in text
    assert "+shout <b>now</b>" in text
    notebook = result._repr_html_()
    assert "&lt;b&gt;now&lt;/b&gt;" in notebook
    assert "<b>now" not in notebook
    written = json.loads(json.dumps(result.to_json()))
    assert written["best"]["config_version"] == result.best.config_version
    assert written["decision"]["status"] == result.decision.status
