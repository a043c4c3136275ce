"""What a store must do with everything else."""

from __future__ import annotations

from typing import Any

from orcheo_agentensor.errors import (
    NotFound,
)
from orcheo_agentensor.storage import (
    Store,
)
from orcheo_agentensor.testing.store_conformance.builders import (
    ODD_JSON,
    refused,
    run_record,
)


class SideDataConformance:
    """Datasets, workflows, training state, checkpointer."""

    async def test_a_dataset_version_is_stored_once_with_its_cases_in_order(
        self, store: Store
    ) -> None:
        cases = [{"id": f"c{n}", "inputs": ODD_JSON, "split": "train"} for n in (3, 1, 2)]
        saved = await store.datasets.save(
            "tickets", "v1", metadata={"rubric": "r"}, counts={"train": 3}, cases=cases
        )
        again = await store.datasets.save("tickets", "v1", metadata={}, counts={}, cases=[])
        assert again == saved
        assert await store.datasets.load("tickets", "v1") == ({"rubric": "r"}, cases)
        assert await store.datasets.load("tickets") == ({"rubric": "r"}, cases)
        assert [record.version for record in await store.datasets.list()] == ["v1"]
        with refused(NotFound, "'v2'", "v1"):
            await store.datasets.load("tickets", "v2")
        with refused(NotFound, "'nothing'", "tickets"):
            await store.datasets.load("nothing")

    async def test_runs_and_their_datasets_are_seen_by_who_submitted_them(
        self, store: Store
    ) -> None:
        for run_id, workflow, identity in (
            ("anas", "shared", "ana"),
            ("anybodys", "shared", None),
            ("of-anas", "owned", None),
        ):
            run = run_record(
                run_id,
                workflow_id=workflow,
                dataset_id=run_id,
                dataset_version="v1",
                refs={"identity": identity} if identity else {},
            )
            await store.runs.create(run)
            await store.datasets.save(run_id, "v1", metadata={}, counts={}, cases=[])
        await store.workflows.set_owner("owned", "ana")
        for who, seen in (("ana", {"anas", "anybodys", "of-anas"}), ("ben", {"anybodys"})):
            assert {run.run_id for run in await store.runs.list(hidden_from=who)} == seen
            assert {one.dataset_id for one in await store.datasets.list(seen_by=who)} == seen

    async def test_workflow_defaults_are_versioned(self, store: Store) -> None:
        assert await store.workflows.get("support") is None
        assert await store.workflows.defaults("support") == {}
        await store.workflows.set_defaults("support", {"tags": ["a"]}, actor="ada")
        await store.workflows.set_defaults("support", {"tags": ["a"]}, actor="ada")
        await store.workflows.set_defaults("support", {"tags": ["b"]}, actor="ada")
        await store.workflows.set_flags("support", {"x": True, "y": 1})
        await store.workflows.set_flags("support", {"y": None})
        record = await store.workflows.set_owner("support", "team")
        assert record == await store.workflows.get("support")
        assert (record.default_version, record.owner) == (2, "team")
        assert (record.default_config, record.feature_flags) == ({"tags": ["b"]}, {"x": True})
        assert await store.workflows.defaults("support", 1) == {"tags": ["a"]}
        assert [w.workflow_id for w in await store.workflows.list()] == ["support"]

    async def test_training_state_survives(self, store: Store) -> None:
        training = store.training
        assert await training.changes("run-1") == {}
        for candidate in ("b", "a"):
            await training.save_candidate(
                "run-1", candidate, prompts={"p": "x"}, parents=[], status="proposed"
            )
        await training.save_candidate(
            "run-1", "b", prompts={}, parents=[], status="accepted", info={"score": 1}
        )
        found = await training.candidates("run-1")
        assert [(c.candidate_hash, c.position, c.status) for c in found] == [
            ("b", 0, "accepted"),
            ("a", 1, "proposed"),
        ]
        assert found[0].prompts == {"p": "x"}
        assert await training.candidates("run-1", status="accepted") == found[:1]
        for step in (10, 2, 3):
            await training.save_change("run-1", step, {"step": step})
        await training.save_change("run-1", 3, ODD_JSON)
        changed = await training.changes("run-1")
        assert list(changed.items()) == [(2, {"step": 2}), (3, ODD_JSON), (10, {"step": 10})]

    async def test_the_checkpointer_keeps_graph_state(self, store: Store) -> None:
        from langgraph.graph import START, StateGraph

        from orcheo_agentensor.tensor import TextTensor

        graph: Any = StateGraph(dict)
        graph.add_node("write", lambda _: {"prompt": TextTensor("Be brief.")})
        graph.add_edge(START, "write")
        config: Any = {"configurable": {"thread_id": "t"}}
        async with store.checkpointer() as saver:
            await graph.compile(checkpointer=saver).ainvoke({"prompt": None}, config)
        async with store.checkpointer() as saver:
            state = await graph.compile(checkpointer=saver).aget_state(config)
        assert state.values["prompt"] == TextTensor("Be brief.")
