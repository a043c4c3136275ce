"""What a job brings and nothing reads is told once, by name, before anything is paid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import ConfigurableField, RunnableConfig, RunnableLambda
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from rule_task import Target, trained
from typing_extensions import TypedDict

from orcheo_agentensor import EvaluatorContext, LLMJudge, aevaluate, get_prompt
from orcheo_agentensor.testing import SimulatedChatModel

CASES = [{"id": str(n), "inputs": {"question": str(n)}, "expected_output": "x"} for n in range(3)]


class State(TypedDict, total=False):
    question: str
    answer: str


def graph_of(node: Any, schema: Any = State, **options: Any) -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(schema, **options)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder


async def told(target: Any, **job: Any) -> tuple[str, ...]:
    """The warnings of an evaluation, which are told once as events too."""
    events: list[dict[str, Any]] = []
    given: dict[str, Any] = {"dataset": CASES, "evaluators": ["exact_match"], **job}
    report = await aevaluate(target, on_event=events.append, **given)
    assert [one["message"] for one in events if one["type"] == "warning"] == [*report.warnings]
    return report.warnings


def read_style(config: RunnableConfig) -> Any:
    return config["configurable"].get("style_guide")


def asking(state: State, config: RunnableConfig) -> State:
    return {"answer": f"{config['configurable'].get('tone')} {read_style(config)}"}


def conf(**keys: Any) -> dict[str, Any]:
    return {"config": {"configurable": keys}}


async def test_a_config_key_that_nothing_names_is_told_with_the_nearest() -> None:
    assert await told(graph_of(asking), **conf(tone="kind", style_guide="short")) == ()
    (warning,) = await told(graph_of(asking), **conf(tone="kind", style_giude="short"))
    assert warning == (
        "nothing in the target reads 'style_giude' of config.configurable, so it changes nothing: "
        "did you mean 'style_guide'?"
    )


async def test_a_key_of_the_context_is_one_of_its_schema() -> None:
    @dataclass
    class Context:
        persona: str = "clerk"

    def node(state: State, runtime: Runtime[Context]) -> State:
        return {"answer": runtime.context.persona}

    graph = graph_of(node, context_schema=Context)
    assert await told(graph, **conf(persona="nurse")) == ()
    (warning,) = await told(graph, **conf(personna="nurse"))
    assert "did you mean 'persona'? The target offers: persona" in warning


async def test_a_field_that_a_runnable_declares_is_read() -> None:
    model = FakeListChatModel(responses=["a"]).configurable_fields(
        responses=ConfigurableField(id="answers")
    )

    async def node(state: State, config: RunnableConfig) -> State:
        return {"answer": (await model.ainvoke("hi", config)).text}

    assert await told(graph_of(node), **conf(answers=["b"])) == ()
    (warning,) = await told(graph_of(node), **conf(replies=["b"]))
    assert "'replies'" in warning


async def test_what_prompts_bind_to_and_what_we_read_is_not_told() -> None:
    def node(state: State, config: RunnableConfig) -> State:
        return {"answer": config["configurable"]["system"] + get_prompt("p")}

    prompts = {"s": {"text": "A", "bind": "configurable.system"}, "p": "B"}
    job = {**conf(agentensor={"use": None}, user_id="ann"), "prompts": prompts}
    assert await told(graph_of(node), **job) == ()


async def test_a_function_a_wrapper_and_a_factory_are_looked_into() -> None:
    async def function(inputs: Any, config: RunnableConfig) -> str:
        return str(config["configurable"]["tone"])

    def make_graph(config: RunnableConfig) -> Any:
        assert config["configurable"]["tone"]
        return graph_of(asking)

    sequence = RunnableLambda(function) | RunnableLambda(str)
    for target in (function, sequence, sequence.with_retry(), make_graph):
        assert await told(target, **conf(tone="kind")) == ()
        (warning,) = await told(target, **conf(tone="kind", tune="kind"))
        assert "'tune'" in warning


async def test_nothing_is_said_where_the_code_is_of_another_package() -> None:
    assert await told(yaml.safe_dump, **conf(anything=1)) == ()


async def test_a_field_of_the_inputs_that_the_schema_drops_is_told() -> None:
    cases = [
        {"inputs": {"question": "a", "lang": "en"}, "expected_output": "x"},
        {"inputs": {"question": "b", "lang": "de"}, "expected_output": "x"},
    ]
    (warning,) = await told(graph_of(asking), dataset=cases)
    assert warning == (
        "the target's input schema has no 'lang', so LangGraph drops it from the inputs of "
        "2 of 2 cases: it takes: question, answer"
    )

    def by_language(inputs: dict[str, Any], outputs: Any, reference_outputs: Any) -> bool:
        return inputs["lang"] == "en"

    assert await told(graph_of(asking), dataset=cases, evaluators=[by_language]) == ()


def only_outputs(outputs: Any) -> bool:
    return True


def by_reference(outputs: Any, reference_outputs: Any) -> bool:
    return True


def by_example(run: Any, example: Any) -> bool:
    return True


def context_alone(ctx: EvaluatorContext) -> bool:
    return bool(ctx.output)


def context_helper(ctx: EvaluatorContext) -> bool:
    return compared(ctx)


def compared(ctx: EvaluatorContext) -> bool:
    return ctx.output == ctx.expected_output


class Plain:
    def evaluate(self, ctx: Any) -> bool:
        return True


class Comparing:
    def evaluate(self, ctx: Any) -> bool:
        return bool(ctx.expected_output)


JUDGE = SimulatedChatModel()


@pytest.mark.parametrize(
    ("evaluator", "reads"),
    [
        (only_outputs, False),
        (context_alone, False),
        (Plain(), False),
        ("json_valid", False),
        ({"type": "contains", "value": "a"}, False),
        (LLMJudge(rubric="r", model=JUDGE, include_reference=False), False),
        (by_reference, True),
        (by_example, True),
        (context_helper, True),
        (Comparing(), True),
        ("contains", True),
        (LLMJudge(rubric="r", model=JUDGE), True),
    ],
)
async def test_an_expected_output_that_no_evaluator_reads_is_told(
    evaluator: Any, reads: bool
) -> None:
    warnings = await told(graph_of(asking), evaluators=[evaluator])
    found = [
        one for one in warnings if "no evaluator reads the expected_output of 3 of 3 cases" in one
    ]
    assert len(found) == (not reads)


async def test_a_training_tells_what_nothing_reads_at_its_start() -> None:
    events: list[dict[str, Any]] = []
    result = await trained(
        Target(), config={"configurable": {"temprature": 0.1}}, on_event=events.append
    )
    warnings = [one for one in events if one["type"] == "warning"]
    assert [one["message"].split(" of config")[0] for one in warnings] == [
        "nothing in the target reads 'temprature'"
    ]
    assert events.index(warnings[0]) == 1
    assert result.best.metrics["objective"] == 1.0


def test_a_dry_run_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from orcheo_agentensor.cli.app import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("AGENTENSOR_ALLOWED_MODULES", "toneflow")
    (tmp_path / "toneflow.py").write_text(
        "def target(inputs, config):\n    return config['configurable']['tone']\n"
    )
    (tmp_path / "job.yaml").write_text(
        "target: toneflow:target\n"
        "dataset: [{inputs: hi, expected_output: ho}]\n"
        "evaluators: [json_valid]\n"
        "config: {configurable: {tone: kind, tune: kind}}\n"
    )
    result = CliRunner().invoke(app, ["evaluate", "job.yaml", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "warning: nothing in the target reads 'tune'" in result.output
    assert "no evaluator reads the expected_output of 1 of 1 cases" in result.output
