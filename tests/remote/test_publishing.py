"""Stored versions published to assistants of a real server, and rolled back there."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from deployments import Deployment
from test_remote_target import Tutor, cases, right
from typer.testing import CliRunner

from orcheo_agentensor import (
    Settings,
    Store,
    TextGrad,
    aevaluate,
    apublish,
    arollback_publication,
    atrain,
    get_prompt,
)
from orcheo_agentensor.cli.app import app
from orcheo_agentensor.errors import AliasConflict, BadInput, RunMismatch, TargetRefused
from orcheo_agentensor.publishing import alias_of


async def save(store: Store, workflow_id: str, config: dict[str, Any]) -> int:
    """Store a version; gives its number."""
    configurable = dict(config)
    prompts = {
        name: {"type": "TextTensor", "text": text, "requires_grad": True, "metadata": {}}
        for name, text in configurable.pop("prompts").items()
    }
    stored = await store.checkpoints.save(
        workflow_id=workflow_id,
        runnable_config={"configurable": {**configurable, "prompts": prompts}},
        metrics={},
    )
    return stored.config_version


async def said(client: Any, assistant: str, text: str = "hi") -> str:
    """What the graph's model was told: it repeats its messages."""
    found = await client.runs.wait(
        None, assistant, input={"messages": [{"role": "user", "content": text}]}
    )
    answer: str = found["messages"][-1]["content"]
    return answer


@pytest.mark.requirement("promotion.published")
async def test_a_published_prompt_is_in_the_models_messages_and_leaves_them_on_rollback(
    deployed: Deployment, client: Any, store: Store
) -> None:
    made = await client.assistants.create(
        "persona", name="greeter", context={"tone": "warm"}, metadata={"team": "cards"}
    )
    place: dict[str, Any] = {"url": deployed.url, "assistant": "greeter", "store": store}
    one = await save(store, "greeting", {"prompts": {"system_prompt": "Version one."}})
    two = await save(
        store, "greeting", {"prompts": {"system_prompt": "Version two."}, "tone": "cold"}
    )
    await apublish("greeting", one, **place, actor="ana")
    assert await said(client, made["assistant_id"]) == "Version one. (warm)|hi"
    [published] = await apublish("greeting", two, **place, actor="ana", reason="it is better")
    assert await said(client, made["assistant_id"]) == "Version two. (cold)|hi"
    found = await client.assistants.get(made["assistant_id"])
    assert found["version"] == published.assistant_version
    assert found["metadata"]["team"] == "cards"
    assert found["metadata"]["workflow_id"] == "greeting"
    assert found["metadata"]["config_version"] == two
    assert found["metadata"]["content_hash"] == published.content_hash
    assert await store.aliases.resolve("greeting", published.alias) == two
    [back] = await arollback_publication("greeting", **place, actor="ben")
    assert (back.config_version, back.rollback_of) == (one, two)
    assert await said(client, made["assistant_id"]) == "Version one. (warm)|hi"
    found = await client.assistants.get(made["assistant_id"])
    assert found["version"] == published.assistant_version + 1
    assert found["metadata"]["rollback_of"] == two
    log = await store.aliases.log("greeting", published.alias)
    assert [(move.to_version, move.actor) for move in log] == [
        (one, "ben"),
        (two, "ana"),
        (one, "ana"),
    ]
    assert "it is better" in log[1].reason
    [before] = await arollback_publication("greeting", **place)  # as others had set it
    assert (before.config_version, before.rollback_of) == (None, one)
    assert await said(client, made["assistant_id"]) == "You are helpful. (warm)|hi"
    found = await client.assistants.get(made["assistant_id"])
    assert found["metadata"]["config_version"] is None
    assert found["metadata"]["team"] == "cards"
    with pytest.raises(BadInput, match="nothing to roll back to"):
        await arollback_publication("greeting", **place)
    await apublish("greeting", two, **place)
    assert (await client.assistants.get(made["assistant_id"]))["metadata"]["rollback_of"] is None


async def test_publishing_twice_changes_nothing_unless_forced_or_edited_by_hand(
    deployed: Deployment, client: Any, store: Store
) -> None:
    version = await save(store, "twice", {"prompts": {"system_prompt": "Once."}})
    place: dict[str, Any] = {"url": deployed.url, "assistant": "twice", "store": store}
    with pytest.raises(TargetRefused, match="'twice' is no assistant"):
        await apublish("twice", version, **place)
    with pytest.raises(BadInput, match="create needs the graph"):
        await apublish("twice", version, **place, create=True)
    [first] = await apublish("twice", version, **place, create=True, graph="persona")
    assert (first.created, first.changed, first.assistant_version) == (True, True, 1)
    [again] = await apublish("twice", version, **place, create=True, graph="persona")
    assert (again.created, again.changed, again.assistant_version) == (False, False, 1)
    [forced] = await apublish("twice", version, **place, force=True)
    assert (forced.changed, forced.assistant_version) == (True, 2)
    await client.assistants.update(first.assistant_id, context={"system_prompt": "By hand."})
    conflict = "'twice' was edited since version 1 of workflow 'twice'"
    with pytest.raises(AliasConflict, match=conflict):
        await apublish("twice", version, **place)
    with pytest.raises(AliasConflict, match=conflict):
        await arollback_publication("twice", **place)
    assert await said(client, first.assistant_id) == "By hand. (plain)|hi"
    [mended] = await apublish("twice", version, **place, force=True)
    assert mended.changed
    assert await said(client, first.assistant_id) == "Once. (plain)|hi"


async def test_the_first_publication_is_rolled_back_to_what_was_set_before(
    deployed: Deployment, client: Any, store: Store
) -> None:
    made = await client.assistants.create("clerk", name="bare")
    place: dict[str, Any] = {"url": deployed.url, "assistant": "bare", "store": store}
    with pytest.raises(BadInput, match="nothing of workflow 'bare' was published"):
        await arollback_publication("bare", **place)
    version = await save(store, "bare", {"prompts": {"skills": "card"}})
    await apublish("bare", version, **place)
    await arollback_publication("bare", **place)
    found = await client.assistants.get(made["assistant_id"])
    assert (found["version"], found["config"].get("configurable") or {}) == (3, {})
    assert found["context"] == {}
    [again] = await apublish("bare", version, **place)
    assert again.changed
    # One that was made by publishing has nothing to go back to.
    place["assistant"] = "fresh"
    await apublish("bare", version, **place, create=True, graph="clerk")
    with pytest.raises(BadInput, match="nothing to roll back to"):
        await arollback_publication("bare", **place)


async def test_rollbacks_between_publications_end_at_the_settings_before_the_first(
    deployed: Deployment, client: Any, store: Store
) -> None:
    made = await client.assistants.create("persona", name="often", context={"tone": "own"})
    place: dict[str, Any] = {"url": deployed.url, "assistant": "often", "store": store}
    for number in (1, 2, 3):
        await save(store, "often", {"prompts": {"system_prompt": f"Version {number}."}})
    await apublish("often", 1, **place)
    await apublish("often", 3, **place)
    await arollback_publication("often", **place)
    await arollback_publication("often", **place)
    await apublish("often", 2, **place)
    assert await said(client, made["assistant_id"]) == "Version 2. (own)|hi"
    await arollback_publication("often", **place)
    assert await said(client, made["assistant_id"]) == "You are helpful. (own)|hi"
    with pytest.raises(BadInput, match="nothing to roll back to"):
        await arollback_publication("often", **place)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ({"assistant": "nobody"}, "'nobody' is no assistant"),
        ({"assistant": "new", "create": True, "graph": "nothing"}, "'nothing' is no assistant"),
        ({"assistant": "persona", "prompts_in": "context"}, "is not in the deployed graph's"),
    ],
)
async def test_a_place_that_cannot_be_published_to_is_refused_before_the_training_is_paid(
    deployed: Deployment, settings: Settings, store: Store, place: dict[str, Any], said: str
) -> None:
    calls = []

    async def target(inputs: dict[str, Any]) -> Any:
        calls.append(inputs)

    with pytest.raises(BadInput, match=said):
        await atrain(
            target,
            prompts={"skills": "card"},
            dataset=[*cases("train", 8)],
            evaluators=[right],
            optimizer=TextGrad(proposer=Tutor()),
            publish={"url": deployed.url, **place},
            store=store,
            settings=settings,
        )
    assert not calls
    assert await store.runs.list() == []


async def test_of_publishers_who_race_one_wins_and_its_version_is_served(
    deployed: Deployment, client: Any, store: Store
) -> None:
    made = await client.assistants.create("persona", name="raced")
    place: dict[str, Any] = {"url": deployed.url, "assistant": "raced", "store": store}
    texts = [f"Version {number}." for number in range(1, 6)]
    versions = [await save(store, "raced", {"prompts": {"system_prompt": t}}) for t in texts]

    async def served() -> str:
        version = await store.aliases.resolve("raced", alias_of(deployed.url, "raced"))
        assert version is not None
        return f"{texts[version - 1]} (plain)|hi"

    done = await asyncio.gather(
        *(apublish("raced", version, **place) for version in versions), return_exceptions=True
    )
    assert all(isinstance(one, list | AliasConflict) for one in done), done
    assert await said(client, made["assistant_id"]) == await served()
    for version in versions[:3]:
        await apublish("raced", version, **place)
    done = await asyncio.gather(
        *(arollback_publication("raced", **place) for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(one, list | AliasConflict) for one in done), done
    assert await said(client, made["assistant_id"]) == await served()


async def test_a_graph_that_reads_configurable_gets_prompts_there(
    deployed: Deployment, client: Any, store: Store
) -> None:
    version = await save(store, "clerk", {"prompts": {"skills": "card", "greeting": "good day"}})
    [made] = await apublish(
        "clerk",
        version,
        url=deployed.url,
        assistant="desk",
        create=True,
        graph="clerk",
        store=store,
    )
    found = await client.runs.wait(None, made.assistant_id, input={"kind": "card"})
    assert found == {"kind": "card", "draft": "good day", "answer": "card"}


async def skilled(inputs: dict[str, Any]) -> dict[str, Any]:
    """The clerk, in this process: what it is trained here is published to the deployed one."""
    return {"answer": inputs["kind"] if inputs["kind"] in get_prompt("skills").split() else "?"}


@pytest.mark.parametrize("url", [None, "http://10.1.2.3"])
async def test_a_promoted_version_is_published_by_policy(
    deployed: Deployment, settings: Settings, client: Any, store: Store, url: str | None
) -> None:
    made = await client.assistants.create("clerk", name="trained")
    job: dict[str, Any] = {
        "target": skilled,
        "prompts": {"skills": "card"},
        "dataset": [*cases("train", 8), *cases("validation", 8), *cases("holdout", 40)],
        "evaluators": [right],
        "optimizer": TextGrad(proposer=Tutor()),
        "stop": [{"type": "target_score", "score": 1.0}],
        "promote": "auto",
        "publish": {"url": url or deployed.url, "assistant": made["assistant_id"]},
        "workflow_id": "trained",
        "limits": {"concurrency": 1},
        "store": store,
        "settings": settings,
    }
    if url is not None:
        with pytest.raises(BadInput, match=r"^atrain\(\): publish\.url: host '10\.1\.2\.3'"):
            await atrain(**job)
        return
    result = await atrain(**job)
    assert result.decision.status == "promoted", result.decision.reasons
    assert result.decision.published[0]["config_version"] == result.best.config_version
    found = await client.runs.wait(None, made["assistant_id"], input={"kind": "transfer"})
    assert found["answer"] == "transfer"


async def test_a_server_that_cannot_be_published_to_does_not_undo_the_promotion(
    settings: Settings, store: Store
) -> None:
    result = await atrain(
        skilled,
        prompts={"skills": "card"},
        dataset=[*cases("train", 8), *cases("validation", 8), *cases("holdout", 40)],
        evaluators=[right],
        optimizer=TextGrad(proposer=Tutor()),
        stop=[{"type": "target_score", "score": 1.0}],
        promote="auto",
        publish={"url": "http://127.0.0.1:9", "assistant": "clerk"},
        limits={"concurrency": 1},
        store=store,
        settings=settings,
    )
    assert result.decision.status == "promoted"
    assert result.decision.published == ()
    assert "could not be published" in result.decision.reasons[-1]


async def test_publishing_to_the_target_of_a_run_leaves_it_the_same_job(
    deployed: Deployment, settings: Settings, client: Any, store: Store
) -> None:
    made = await client.assistants.create("clerk", name="measured")
    place = {"url": deployed.url, "assistant": made["assistant_id"]}
    version = await save(store, "measured", {"prompts": {"skills": "card"}})
    job: dict[str, Any] = {
        "dataset": cases("test", 4),
        "evaluators": [right],
        "prompts": {"skills": "card login"},
        "store": store,
        "settings": settings,
        "run_id": "measured",
    }
    report = await aevaluate(place, **job)
    await apublish("measured", version, **place, store=store)
    again = await aevaluate(place, **job)
    assert again.summary == report.summary
    with pytest.raises(RunMismatch):
        await aevaluate(place, **{**job, "prompts": {}})


async def test_the_command_publishes_and_rolls_back(
    deployed: Deployment, client: Any, store: Store
) -> None:
    made = await client.assistants.create("persona", name="shell")
    for text in ("First.", "Second."):
        await save(store, "shell", {"prompts": {"system_prompt": text}})
    await store.aliases.move("shell", "production", to=2, actor="ana", reason="")

    def call(*arguments: str) -> tuple[int, Any]:
        place = ["--url", deployed.url, "--assistant", "shell", "--store", str(store.target.shown)]
        done = CliRunner().invoke(app, ["publish", *arguments, *place, "--json"])
        return done.exit_code, json.loads(done.stdout)

    code, shown = await asyncio.to_thread(call, "shell", "1")
    assert (code, shown["published"][0]["config_version"]) == (0, 1)
    code, shown = await asyncio.to_thread(call, "shell")
    assert (code, shown["published"][0]["config_version"]) == (0, 2)
    assert await said(client, made["assistant_id"]) == "Second. (plain)|hi"
    code, shown = await asyncio.to_thread(call, "shell", "--rollback")
    assert (code, shown["published"][0]["rollback_of"]) == (0, 2)
    assert await said(client, made["assistant_id"]) == "First. (plain)|hi"
    code, shown = await asyncio.to_thread(call, "nothing")
    assert code == 2
    assert "nothing" in shown["error"]["message"]
