"""Two tenants and the names of their workflows, on both databases."""

from __future__ import annotations

from typing import Any

import pytest

from orcheo_agentensor import Store, create_evaluation_graph
from orcheo_agentensor.identity import Identity

ANA, BEN = Identity(name="ana"), Identity(name="ben")
JOB: dict[str, Any] = {
    "target": "orcheo_agentensor.demo.workflow:create_support_triage",
    "dataset": [{"inputs": {"ticket": "My card was stolen"}}],
    "evaluators": ["orcheo_agentensor.demo.evaluators:queue_accuracy"],
}


async def test_an_id_is_each_owners_and_a_transfer_takes_it_along(store: Store) -> None:
    flows = store.workflows
    assert await flows.id_for("payments", "ana") == "payments"
    await flows.claim("payments", "ana")
    assert await flows.id_for("payments", "ana") == "payments"
    assert await flows.id_for("payments", "ben") == "ben~payments"
    await flows.claim("ben~payments", "ben")
    assert await flows.id_for("ben~payments", "ana") == "ana~ben~payments"  # not a way in
    assert await flows.id_for("ments", "ben") == "ments"
    assert await flows.id_for("payments", None) == "payments"
    await flows.set_owner("payments", "cem")
    assert await flows.id_for("payments", "cem") == "payments"
    assert await flows.id_for("payments", "ana") == "ana~payments"
    await flows.set_owner("ben~payments", "dan")
    assert await flows.id_for("payments", "dan") == "ben~payments"
    await flows.set_owner("payments", None)  # shared again
    assert await flows.id_for("payments", "ana") == "payments"


async def test_two_tenants_run_the_same_job_and_an_evaluation_takes_no_name(store: Store) -> None:
    graph = create_evaluation_graph(store=store)
    for caller in (ANA, BEN, ANA):
        checked = await graph.check_job({**JOB, "workflow_id": "payments-prod"}, caller=caller)
        assert checked.record.workflow_id == "payments-prod"
        await store.runs.create(
            checked.record.model_copy(update={"refs": {"identity": caller.name}})
        )
    assert await store.workflows.get("payments-prod") is None
    assert len(await store.runs.list(hidden_from="ana")) == 2
    await store.workflows.claim("payments-prod", "ana")  # as her first training does
    assert (await store.workflows.get("payments-prod")).owner == "ana"  # type: ignore[union-attr]
    assert len(await store.runs.list(hidden_from="ben")) == 1  # his own run stays his
    checked = await graph.check_job({**JOB, "workflow_id": "payments-prod"}, caller=BEN)
    assert checked.record.workflow_id == "ben~payments-prod"
    assert checked.record.job["job"]["workflow_id"] == "payments-prod"


@pytest.mark.parametrize("name", ["ben~x", "~x", "x~"])
async def test_nobody_names_the_id_of_another_owner(store: Store, name: str) -> None:
    from orcheo_agentensor.errors import ConfigError

    graph = create_evaluation_graph(store=store)
    with pytest.raises(ConfigError):
        await graph.check_job({**JOB, "workflow_id": name}, caller=ANA)


async def test_what_the_operator_made_is_not_a_tenants_to_take(store: Store) -> None:
    await store.checkpoints.save(workflow_id="prod", runnable_config={"tags": ["x"]}, metrics={})
    assert await store.workflows.claim("prod", "ana") is None
    assert await store.workflows.id_for("prod", "ana") == "prod"  # shared
    await store.workflows.set_owner("prod", "ops")
    assert await store.workflows.id_for("prod", "ana") == "ana~prod"
