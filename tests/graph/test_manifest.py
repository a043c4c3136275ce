"""The manifest of a run says what it was made of, and what makes another job another one."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph

from orcheo_agentensor import (
    Dataset,
    LLMJudge,
    Manifest,
    Reflective,
    RunConfig,
    Settings,
    TextGrad,
    TextTensor,
    aevaluate,
    atrain,
    bind_evaluator,
    create_evaluation_graph,
    create_training_graph,
    get_prompt,
)
from orcheo_agentensor.errors import BadInput, RunMismatch
from orcheo_agentensor.storage import Store
from orcheo_agentensor.testing import RuleChatModel

CASES = [
    {"id": str(n), "inputs": {"n": n}, "expected_output": "yes", "split": split}
    for n, split in enumerate(["train", "train", "validation", "validation", "holdout", "holdout"])
]
DATASET = Dataset.from_cases(CASES, id="numbers", metadata={"domains": ["bank"], "rubric": "r"})
CANARY = "canary-4f1d9e"


class Yes:
    """Proposes one text."""

    async def propose(self, request: Any) -> dict[str, str]:
        return {component.name: "yes" for component in request.components}


class Also:
    """Proposes the same text."""

    async def propose(self, request: Any) -> dict[str, str]:
        return {component.name: "yes" for component in request.components}


class State(TypedDict, total=False):
    n: int
    answer: str


def answering(state: State) -> State:
    return {"answer": get_prompt("answer")}


def answers() -> Any:
    graph = StateGraph(State)
    graph.add_node("answering", answering)
    graph.add_edge(START, "answering")
    return graph.compile(name="answers")


def is_yes(outputs: Any) -> float:
    return 5.0 if outputs["answer"] == "yes" else 1.0


async def trained(store: Store, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "prompts": {"answer": "no"},
        "dataset": DATASET,
        "evaluators": [bind_evaluator(is_yes, weight=2, scale=(1, 5))],
        "optimizer": Reflective(minibatch=2, proposer=Yes()),
        "run_id": "t",
        "seed": 7,
        "store": store,
    }
    return await atrain(answers(), **{**arguments, **changes})


@pytest.mark.requirement("audit.manifest")
async def test_a_manifest_says_what_a_training_was_made_of(store: Store) -> None:
    result = await trained(store)
    found = Manifest.parse(await store.runs.manifest("t"))
    assert found.to_json() == result.manifest == result.to_json()["manifest"]
    assert (found.mode, found.seed, found.schema_version) == ("train", 7, 1)
    assert found.target.name == "answers"
    assert found.target.graph is not None
    assert found.target.modules[__name__]
    [scorer] = found.evaluators
    assert (scorer.name, scorer.weight, scorer.scale) == ("is_yes", 2.0, (1.0, 5.0))
    assert scorer.object.source_hash
    assert "is_yes(outputs)" in scorer.binding
    assert (found.dataset.id, found.dataset.version) == ("numbers", DATASET.version)
    assert found.dataset.metadata == {"domains": ["bank"], "rubric": "r"}
    assert found.dataset.splits == {"train": 2, "validation": 2, "holdout": 2}
    training = found.training
    assert training is not None
    assert training.optimizer.name == "reflective"
    assert set(training.optimizer.options) == set(Reflective.model_fields)
    assert training.optimizer.options["minibatch"] == 2
    assert (training.proposer.object.type, training.proposer.object.module) == ("Yes", __name__)
    assert training.splits["holdout"] == 2
    assert training.budget["rollouts"] > 0
    assert found.job["guardrail"]["min_ratio"] == 0.98
    assert found.job["limits"]["concurrency"] == 10
    assert found.environment is not None
    assert {"langgraph", "langchain-core", "orcheo-agentensor"} <= set(found.environment.packages)
    assert found.environment.python == ".".join(map(str, sys.version_info[:3]))
    assert set(found.live) == {"target", "dataset", "evaluators", "optimizer"} - {"dataset"}
    versions = found.checkpoints.versions
    assert [one["config_version"] for one in versions] == [1, 2]
    assert [one["content_hash"] for one in versions] == [v.content_hash for v in result.checkpoints]


@pytest.mark.requirement("audit.manifest")
async def test_the_langgraph_checkpoints_of_a_training_are_named(store: Store) -> None:
    await trained(store)
    at = Manifest.parse(await store.runs.manifest("t")).checkpoints.langgraph
    assert at is not None
    async with store.checkpointer() as saver:
        config: Any = {"configurable": {"thread_id": at["thread_id"]}}
        ids = [one.config["configurable"]["checkpoint_id"] async for one in saver.alist(config)]
    assert ids.index(at["last_checkpoint_id"]) < ids.index(at["first_checkpoint_id"])


@pytest.mark.requirement("audit.manifest", "checkpoint.stored")
async def test_a_version_names_the_langgraph_checkpoint_it_was_made_at(store: Store) -> None:
    result = await trained(store)
    named = Manifest.parse(await store.runs.manifest("t")).checkpoints.versions
    assert [one["langgraph"] for one in named] == [
        version.metadata["langgraph"] for version in result.checkpoints
    ]
    graph = create_training_graph(store=store)
    async with store.checkpointer() as saver:
        compiled = graph.compile(checkpointer=saver)
        for version in result.checkpoints:
            at = version.metadata["langgraph"]
            snapshot = await compiled.aget_state({"configurable": at})
            assert snapshot.values["step"] == version.metadata["step"]
            assert snapshot.next == ("checkpoint",)
    without = Store.from_url(None)
    await (
        create_training_graph(
            answers(),
            prompts={"answer": "no"},
            dataset=DATASET,
            evaluators=[is_yes],
            optimizer=Reflective(minibatch=2, proposer=Yes()),
            store=without,
        )
        .compile()
        .ainvoke({"run_id": "t", "workflow_id": "w"})
    )
    assert all("langgraph" not in one.metadata for one in await without.checkpoints.list("w"))


@pytest.mark.requirement("audit.manifest", "evaluation.tensors")
async def test_an_evaluation_graph_keeps_the_prompts_it_measured_with_their_scores() -> None:
    store = Store.from_url(None)
    graph = create_evaluation_graph(answers(), evaluators=[is_yes], store=store).compile(
        checkpointer=InMemorySaver()
    )
    config: Any = {"configurable": {"thread_id": "e"}}
    prompts = {"answer": TextTensor("yes", requires_grad=False, metadata={"max_chars": 9})}
    job = {"dataset": [{"inputs": {"n": 1}}], "prompts": prompts, "run_id": "e"}
    await graph.ainvoke(job, config)
    *_, begun, ended = reversed([one async for one in graph.aget_state_history(config)])
    assert begun.next == ("summarize",)
    for snapshot in (begun, ended):
        assert snapshot.values["prompts"] == prompts
        assert isinstance(snapshot.values["prompts"]["answer"], TextTensor)
    assert ended.values["summary"]["evaluators"]["is_yes"]["mean"] == 5.0
    at = Manifest.parse(await store.runs.manifest("e")).checkpoints.langgraph
    assert at is not None
    assert at["thread_id"] == "e"
    assert at["last_checkpoint_id"] == begun.config["configurable"]["checkpoint_id"]


@pytest.mark.requirement("audit.manifest")
async def test_three_optimizers_leave_three_manifests() -> None:
    async with Store.from_url(None) as store:
        optimizers = [
            Reflective(minibatch=2, proposer=Yes()),
            Reflective(minibatch=3, proposer=Also()),
            TextGrad(minibatch=2, proposer=Yes()),
        ]
        for n, optimizer in enumerate(optimizers):
            await trained(store, run_id=f"t{n}", optimizer=optimizer)
        found = [Manifest.parse(await store.runs.manifest(f"t{n}")).training for n in range(3)]
        told = [
            (t.optimizer.name, t.optimizer.options["minibatch"], t.proposer.object.type)
            for t in found
            if t is not None
        ]
        assert told == [("reflective", 2, "Yes"), ("reflective", 3, "Also"), ("textgrad", 2, "Yes")]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"optimizer": TextGrad(minibatch=2, proposer=Yes())}, "training.optimizer.name"),
        (
            {"optimizer": Reflective(minibatch=2, patience=9, proposer=Yes())},
            "training.optimizer.options.patience (9, was 3)",
        ),
        (
            {"optimizer": Reflective(minibatch=2, proposer=Also())},
            "training.proposer.object.type ('Also', was 'Yes')",
        ),
        ({"seed": 8}, "seed (8, was 7)"),
        ({"evaluators": [bind_evaluator(is_yes, scale=(1, 5))]}, "evaluators.is_yes.weight"),
        ({"evaluators": ["json_valid"]}, "evaluators.json_valid.fingerprint"),
        ({"prompts": {"answer": "never"}}, "config.resolved.configurable.prompts.answer.text"),
        ({"config": {"tags": ["a"]}}, "config.resolved.tags (['a'], was None)"),
        ({"dataset": Dataset.from_cases(CASES[1:], id="numbers")}, "dataset.version"),
        (
            {"dataset": Dataset.from_cases(CASES, id="numbers", metadata={"rubric": "v2"})},
            "dataset.metadata_version",
        ),
        ({"replicates": 2}, "replicates (2, was 1)"),
        ({"guardrail": {"alpha": 0.01}}, "guardrail.alpha (0.01, was 0.05)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.requirement("audit.same-job")
async def test_another_job_under_a_finished_run_id_is_refused_by_what_differs(
    changes: dict[str, Any], named: str
) -> None:
    async with Store.from_url(None) as store:
        await trained(store)
        with pytest.raises(RunMismatch) as refused:
            await trained(store, **changes)
        assert named in refused.value.message
        assert len(await store.runs.list()) == 1
        again = await trained(store, limits={"concurrency": 3})  # how fast is no other job
        assert again.usage.rollouts == (await store.runs.usage("t")).rollouts


@pytest.mark.requirement("audit.same-job", "durability.drift")
async def test_another_target_of_the_same_name_is_refused_and_not_reused() -> None:
    arguments: dict[str, Any] = {"dataset": [{"inputs": "a"}], "evaluators": ["json_valid"]}

    def made(text: str) -> Any:
        return lambda inputs: inputs + text

    async with Store.from_url(None) as store:
        await aevaluate(made("x"), run_id="r", store=store, **arguments)
        await aevaluate(made("x"), run_id="r", store=store, **arguments)
        with pytest.raises(RunMismatch, match="'r' has finished, and its result is that of other"):
            await aevaluate(made("y"), run_id="r", store=store, **arguments)
        with pytest.raises(RunMismatch, match="'r' cannot be reused"):
            await aevaluate(made("y"), reuse="r", store=store, **arguments)
        old = await aevaluate(made("y"), run_id="r", accept_drift=True, store=store, **arguments)
        assert [case.output for case in old.cases] == ["ax"]


@pytest.mark.requirement("audit.sources")
async def test_the_config_says_where_each_value_comes_from() -> None:
    async with Store.from_url(None) as store:
        await store.workflows.set_defaults(
            "w", {"tags": ["d"], "metadata": {"team": "a", "tier": 1}}, actor="t"
        )
        config = RunConfig.parse({"prompts": {"answer": "yes"}, "recursion_limit": 30}).to_json()
        await store.checkpoints.save(workflow_id="w", runnable_config=config, metrics={})
        report = await aevaluate(
            answers(),
            dataset=DATASET,
            evaluators=[is_yes],
            workflow_id="w",
            config={
                "tags": ["r"],
                "metadata": {"tier": 2},
                "configurable": {"agentensor": {"use": 1}},
                "max_concurrency": 900,
            },
            settings=Settings(max_target_concurrency=20),
            store=store,
        )
        found = Manifest.parse(report.manifest).config
        assert found.sources == {
            "tags.d": "default",
            "tags.r": "request",
            "metadata.team": "default",
            "metadata.tier": "request",
            "recursion_limit": "version",
            "configurable.prompts.answer.text": "version",
            "configurable.agentensor.use": "request",
            "max_concurrency": "override",
        } | {path: "version" for path in found.sources if path.startswith("configurable.prompts.")}
        assert found.resolved["max_concurrency"] == 20
        assert (found.version, found.defaults_version) == (1, 1)


@pytest.mark.requirement("audit.manifest", "audit.secrets")
async def test_models_are_described_with_their_settings_and_no_secret_is_kept() -> None:
    class Keyed(RuleChatModel):
        """A model with a key among its settings."""

        api_key: str = CANARY
        base_url: str = f"https://ann:{CANARY}@models.example/v1?api_key={CANARY}"
        default_headers: dict[str, str] = {"Authorization": CANARY}  # noqa: RUF012
        temperature: float = 0.3

    model = Keyed(model_name="grader", rule=lambda messages: {"reasoning": "", "score": 1})
    async with Store.from_url(None) as store:
        report = await aevaluate(
            lambda inputs: inputs,
            dataset=[{"inputs": "a"}],
            evaluators=[LLMJudge(name="tone", rubric="Is warm.", model=model)],
            config={"configurable": {"api_key": CANARY}},
            store=store,
        )
        [judge] = Manifest.parse(report.manifest).evaluators
        [found] = judge.models
        assert (found.name, found.settings["temperature"]) == ("grader", 0.3)
        assert judge.options["rubric"] == "Is warm."
        assert CANARY not in json.dumps(await store.runs.manifest(report.run_id))
        assert Manifest.parse(report.manifest).redacted == ["config.configurable.api_key"]


@pytest.mark.requirement("audit.manifest")
async def test_a_manifest_of_a_newer_schema_is_refused_in_one_sentence() -> None:
    async with Store.from_url(None) as store:
        report = await aevaluate(
            lambda inputs: inputs, dataset=[{"inputs": "a"}], evaluators=["json_valid"], store=store
        )
    with pytest.raises(BadInput) as refused:
        Manifest.parse({**report.manifest, "schema": 2, "more": True})
    assert refused.value.message == (
        "manifest.schema: 2 is newer than 1, which this release reads: upgrade orcheo-agentensor"
    )


@pytest.mark.requirement("dataset.metadata")
async def test_new_metadata_of_the_same_cases_are_kept_beside_the_old(store: Store) -> None:
    for rubric in ("v1", "v2"):
        await aevaluate(
            lambda inputs: inputs,
            dataset=Dataset.from_cases(CASES, id="numbers", metadata={"rubric": rubric}),
            evaluators=["json_valid"],
            run_id=rubric,
            store=store,
        )
    found = [Manifest.parse(await store.runs.manifest(run_id)).dataset for run_id in ("v1", "v2")]
    assert [one.metadata for one in found] == [{"rubric": "v1"}, {"rubric": "v2"}]
    assert len({one.version for one in found}) == 1
    assert len({one.metadata_version for one in found}) == 2


@pytest.mark.requirement("dataset.rubric")
async def test_a_judge_without_a_rubric_takes_the_datasets_which_makes_its_scores_its_own() -> None:
    asked: list[str] = []

    def rule(messages: Any) -> Any:
        asked.append(str(messages[0].content))
        return {"reasoning": "", "score": 1}

    judge = LLMJudge(name="tone", model=RuleChatModel(rule=rule))
    async with Store.from_url(None) as store:
        for rubric in ("Is warm.", "Is short."):
            await aevaluate(
                lambda inputs: inputs,
                dataset=Dataset.from_cases([{"inputs": "a"}], metadata={"rubric": rubric}),
                evaluators=[judge],
                run_id=rubric[3:-1],
                store=store,
            )
        found = [Manifest.parse(await store.runs.manifest(name)) for name in ("warm", "short")]
        assert ["Is warm." in text for text in asked] == [True, False]
        assert [one.evaluators[0].options["rubric"] for one in found] == ["Is warm.", "Is short."]
        assert len({one.evaluator_set for one in found}) == 2
        with pytest.raises(BadInput, match=r"tone\.rubric: None must be given"):
            await aevaluate(
                lambda inputs: inputs, dataset=[{"inputs": "a"}], evaluators=[judge], store=store
            )


GIT = ("-c", "user.name=t", "-c", "user.email=t@example.org")
SHOUT = "def shout(inputs):\n    return inputs.upper()\n"


@pytest.mark.requirement("audit.manifest")
async def test_the_commit_of_the_targets_working_tree_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gitshop.py").write_text(SHOUT)
    monkeypatch.syspath_prepend(tmp_path)

    async def state() -> Any:
        report = await aevaluate(
            "gitshop:shout",
            dataset=[{"inputs": "a"}],
            evaluators=["json_valid"],
            settings=Settings(allowed_modules=("gitshop",)),
        )
        return report.manifest["environment"]["git"]

    def git(*arguments: str) -> str:
        command = ["git", *GIT, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    monkeypatch.chdir("/")
    assert await state() is None
    git("init", "-q")
    assert await state() is None
    git("add", ".")
    git("commit", "-qm", "shout")
    commit = git("rev-parse", "HEAD").strip()
    assert await state() == {"commit": commit, "dirty": False}
    (tmp_path / "gitshop.py").write_text(SHOUT + "\n")
    assert await state() == {"commit": commit, "dirty": True}


@pytest.mark.parametrize("target", [str.upper, "-".join, math.sqrt], ids=["upper", "join", "sqrt"])
async def test_a_target_that_is_written_in_c_is_described_too(target: Any) -> None:
    store = Store.from_url(None)
    await aevaluate(
        target, dataset=[{"inputs": "ab"}], evaluators=["exact_match"], store=store, run_id="r"
    )
    found = Manifest.parse(await store.runs.manifest("r"))
    assert found.target.object is not None
    assert found.target.object.type == "function"
