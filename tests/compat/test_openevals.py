"""openevals and agentevals, unmodified."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from agentevals.graph_trajectory.llm import create_graph_trajectory_llm_as_judge
from agentevals.graph_trajectory.strict import graph_trajectory_strict_match
from agentevals.trajectory.llm import create_trajectory_llm_as_judge
from agentevals.trajectory.match import (
    create_async_trajectory_match_evaluator,
    create_trajectory_match_evaluator,
)
from comparing import ANSWERS, CASES, EXPECTED, QUESTIONS, TALK, agent, one_case, said, scores
from langchain_core.embeddings import Embeddings
from langchain_openai import ChatOpenAI
from openevals.exact import exact_match, exact_match_async
from openevals.json import create_json_match_evaluator
from openevals.llm import create_async_llm_as_judge, create_llm_as_judge
from openevals.prompts import CORRECTNESS_PROMPT, RAG_GROUNDEDNESS_PROMPT
from openevals.simulators import create_llm_simulated_user
from openevals.string import embedding_similarity
from openevals.string.levenshtein import levenshtein_distance
from pydantic import BaseModel
from simulated_judge import REASON, OpenAIShaped, letters

from orcheo_agentensor import Conversation, evaluate
from orcheo_agentensor.evaluators import bind_evaluators
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.testing import RuleChatModel

compat = pytest.mark.compat


@pytest.mark.parametrize(
    "evaluator",
    [
        pytest.param(exact_match, marks=compat("evaluators", "openevals", "exact_match")),
        pytest.param(
            levenshtein_distance, marks=compat("evaluators", "openevals", "levenshtein_distance")
        ),
    ],
)
def test_functions_give_what_they_give_by_themselves(evaluator: Any) -> None:
    theirs = [
        evaluator(outputs=ANSWERS[name], reference_outputs=EXPECTED[name])["score"]
        for name in QUESTIONS
    ]
    assert scores(evaluator) == [float(score) for score in theirs]
    assert scores(exact_match_async) == scores(exact_match)


@compat("evaluators", "openevals", "create_json_match_evaluator")
def test_json_match_gives_a_metric_for_each_key_under_the_keys_name() -> None:
    output, expected = {"queue": "refunds", "urgent": True}, {"queue": "refunds", "urgent": False}
    (found,) = said(
        create_json_match_evaluator(), target=lambda inputs: output, cases=one_case(expected)
    )
    theirs = create_json_match_evaluator()(outputs=output, reference_outputs=expected)
    assert {one.name: one.score for one in found} == {
        one["key"].replace(":", "."): float(one["score"]) for one in theirs
    }
    assert sorted(one.name for one in found) == ["json_match.queue", "json_match.urgent"]


@compat("evaluators", "openevals", "create_llm_as_judge, sync and async, by model or by client")
def test_a_judge_gives_the_servers_verdict_and_its_call_is_counted(
    judge_server: OpenAIShaped,
) -> None:
    model = ChatOpenAI(model="gpt-4o")
    judge_server.score = 0.0
    for create in (create_llm_as_judge, create_async_llm_as_judge):
        judge = create(prompt=CORRECTNESS_PROMPT, judge=model, feedback_key="right")
        report = evaluate(lambda inputs: "Rome", dataset=CASES[:1], evaluators=[judge])
        (found,) = report.cases[0].outcomes
        assert (found.name, found.score, found.passed, found.reason) == (
            "right",
            0.0,
            False,
            REASON,
        )
        assert report.usage.calls == 1
        assert "Rome" in str(judge_server.requests[-1]["messages"])
    import openai

    judge = create_llm_as_judge(
        prompt=CORRECTNESS_PROMPT, judge=openai.OpenAI(), model="gpt-4o", continuous=True
    )
    judge_server.score = 0.25
    assert scores(judge, cases=CASES[:1]) == [0.25]


@compat(
    "evaluators",
    "openevals",
    "prompt variables of a judge, such as context",
    works_with="metadata of that name",
)
def test_the_variables_of_a_prompt_come_from_metadata(judge_server: OpenAIShaped) -> None:
    judge = create_llm_as_judge(prompt=RAG_GROUNDEDNESS_PROMPT, model="openai:gpt-4o")
    assert scores(
        judge, cases=one_case(context="Paris is large.")[:1], target=lambda inputs: "x"
    ) == [1.0]
    assert "Paris is large." in str(judge_server.requests[-1]["messages"])


class Graded(BaseModel):
    """What a judge is asked for."""

    reasoning: str
    tone: str
    accuracy: float
    polite: bool


@compat("evaluators", "openevals", "output_schema of a judge: a metric for each field")
def test_structured_output_is_a_metric_for_each_field(judge_server: OpenAIShaped) -> None:
    judge = create_llm_as_judge(
        prompt="{outputs}", model="openai:gpt-4o", output_schema=Graded, feedback_key="grade"
    )
    judge_server.score = 0.75
    (found,) = said(judge, cases=CASES[:1])
    assert {one.name: (one.score, one.reason) for one in found} == {
        "grade.tone": (None, REASON),
        "grade.accuracy": (0.75, REASON),
        "grade.polite": (1.0, REASON),
    }


class Letters(Embeddings):
    """Embeds a text as how often each letter is in it."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [letters(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return letters(text)


@compat("evaluators", "openevals", "create_embedding_similarity_evaluator")
def test_embeddings_are_compared_as_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_similarity, "init_embeddings", lambda model: Letters())
    similar = embedding_similarity.create_embedding_similarity_evaluator()
    theirs = [
        similar(outputs=ANSWERS[name], reference_outputs=EXPECTED[name])["score"]
        for name in QUESTIONS
    ]
    ((found,), *_) = said(similar)
    assert found.name == "embedding_similarity"
    assert scores(similar) == theirs == [1.0, pytest.approx(0.75), 1.0]


REFERENCE = [
    *TALK[:1],
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"function": {"name": name, "arguments": arguments}}
            for name, arguments in (("open", '{"page": 2}'), ("search", '{"q": "Bonn"}'))
        ],
    },
    *TALK[2:],
]


@compat(
    "evaluators",
    "agentevals",
    "create_trajectory_match_evaluator: strict, unordered, subset, superset, sync and async",
)
@pytest.mark.parametrize("arguments", ["exact", "ignore"])
@pytest.mark.parametrize("mode", ["strict", "unordered", "subset", "superset"])
@pytest.mark.parametrize(
    "create", [create_trajectory_match_evaluator, create_async_trajectory_match_evaluator]
)
def test_trajectories_match_as_by_themselves(create: Any, mode: Any, arguments: Any) -> None:
    less = [*REFERENCE[:1], {**REFERENCE[1], "tool_calls": REFERENCE[1]["tool_calls"][:1]}]
    for reference in (REFERENCE, TALK, less, [*less, *REFERENCE[1:]]):
        made = create(trajectory_match_mode=mode, tool_args_match_mode=arguments)
        plain = create_trajectory_match_evaluator(
            trajectory_match_mode=mode, tool_args_match_mode=arguments
        )
        theirs = plain(outputs=copy.deepcopy(TALK), reference_outputs=copy.deepcopy(reference))
        ((found,),) = said(made, target=agent, cases=one_case(reference))
        assert (found.name, found.score) == (theirs["key"], float(theirs["score"]))


@compat(
    "evaluators",
    "agentevals",
    "graph_trajectory_strict_match",
    works_with="a target that returns {inputs, results, steps}",
)
def test_graph_trajectories_match_as_by_themselves() -> None:
    walked = {"inputs": [{}], "results": [{}], "steps": [["__start__", "triage", "reply"]]}
    for steps in (walked["steps"], [["__start__", "reply"]]):
        reference = {**walked, "steps": steps}
        theirs = graph_trajectory_strict_match(outputs=walked, reference_outputs=reference)
        ours = scores(
            graph_trajectory_strict_match, target=lambda inputs: walked, cases=one_case(reference)
        )
        assert ours == [float(theirs["score"])]


@compat(
    "evaluators",
    "agentevals",
    "create_trajectory_llm_as_judge, create_graph_trajectory_llm_as_judge",
)
def test_trajectories_are_judged(judge_server: OpenAIShaped) -> None:
    judge = create_trajectory_llm_as_judge(model="openai:gpt-4o")
    ((found,),) = said(judge, target=agent, cases=one_case())
    assert (found.name, found.score, found.reason) == ("trajectory_accuracy", 1.0, REASON)
    assert "It rains." in str(judge_server.requests[-1]["messages"])
    walked = {"inputs": [{}], "results": [{}], "steps": [["__start__", "triage"]]}
    graph = create_graph_trajectory_llm_as_judge(model="openai:gpt-4o")
    cases = [{"inputs": {"inputs": [{"q": "?"}]}}]
    assert scores(graph, target=lambda inputs: walked, cases=cases) == [1.0]


def test_several_of_one_factory_keep_names_of_their_own() -> None:
    judges = [create_llm_as_judge(prompt="p", model="openai:x", feedback_key=key) for key in "ab"]
    matchers = [
        create_trajectory_match_evaluator(trajectory_match_mode=mode)
        for mode in ("strict", "superset", "superset")
    ]
    matching = [create_json_match_evaluator(), create_json_match_evaluator(aggregator="all")]
    lambdas = [lambda outputs: 1.0, lambda outputs: 0.0]
    bound = bind_evaluators([*judges, *matchers, *matching, *lambdas], settings=Settings())
    assert [one.name for one in bound] == [
        "a",
        "b",
        "trajectory_strict_match",
        "trajectory_superset_match",
        "trajectory_superset_match_2",
        "json_match",
        "json_match_2",
        "lambda",
        "lambda_2",
    ]
    assert len({one.fingerprint for one in bound}) == len(bound)


@compat("targets", "openevals", "create_llm_simulated_user")
def test_a_simulated_user_talks_to_a_target() -> None:
    user = create_llm_simulated_user(
        system="You want a refund.",
        client=RuleChatModel(rule=lambda messages: f"heard: {messages[-1].text}"),
        fixed_responses=["Hello"],
    )

    def clerk(message: dict[str, Any], *, thread_id: str) -> dict[str, Any]:
        return {"role": "assistant", "content": f"You said {message['content']}"}

    target = Conversation(clerk, user=user, max_turns=2)
    report = evaluate(target, dataset=[{"inputs": {}}], evaluators=[exact_match_of_roles])
    assert [turn["user"] for turn in report.cases[0].output["turns"]] == [
        "Hello",
        "heard: You said Hello",
    ]
    assert report.usage.calls == 1
    assert report.objective == 1.0


def exact_match_of_roles(*, outputs: Any) -> dict[str, Any]:
    roles = [one["role"] for one in outputs["messages"]]
    return {"key": "roles", "score": roles == ["user", "assistant"] * 2}
