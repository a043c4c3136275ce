"""What a store must do with versions and aliases."""

from __future__ import annotations

import asyncio
from typing import Any

from orcheo_agentensor.errors import (
    AliasConflict,
    BadInput,
    NotFound,
)
from orcheo_agentensor.storage import (
    Store,
)
from orcheo_agentensor.testing.store_conformance.builders import (
    ODD_JSON,
    new_version,
    refused,
)


class CheckpointConformance:
    """Versions."""

    async def test_versions_count_from_one_in_each_workflow(self, store: Store) -> None:
        numbers = [(await new_version(store, n)).config_version for n in range(3)]
        other = await new_version(store, 0, workflow_id="other")
        assert (numbers, other.config_version) == ([1, 2, 3], 1)
        assert await store.checkpoints.list_workflows() == ["other", "support"]

    async def test_a_version_comes_back_as_it_was_saved(self, store: Store) -> None:
        saved = await new_version(
            store,
            runnable_config={"configurable": {"prompts": {"triage": "Be brief."}, **ODD_JSON}},
            metrics={"objective": 1 / 3, "complete": True, "by_evaluator": {"exact": 0.1}},
            metadata=ODD_JSON,
            parent_version=None,
            run_id="run-1",
            artifact_url="https://example.org/a",
        )
        assert await store.checkpoints.get("support", 1) == saved
        assert await store.checkpoints.get("support", "1") == saved
        assert await store.checkpoints.get("support", "latest") == saved
        assert saved.prompts["triage"].text == "Be brief."

    async def test_saving_again_gives_the_version_that_is_there(self, store: Store) -> None:
        first = await new_version(store, run_id="run-1")
        assert await new_version(store, run_id="run-1", metrics={"objective": 0.9}) == first
        others: list[dict[str, Any]] = [
            {"run_id": "run-2"},
            {"run_id": "run-1", "dataset_version": "d2"},
            {"run_id": "run-1", "evaluator_set": "e2"},
        ]
        for fields in others:
            assert (await new_version(store, **fields)).id != first.id

    async def test_concurrent_saves_get_numbers_without_gaps(self, store: Store) -> None:
        saved = await asyncio.gather(*(new_version(store, n) for n in range(20)))
        assert sorted(version.config_version for version in saved) == list(range(1, 21))
        assert await store.aliases.resolve("support", "latest") == 20

    async def test_list_shows_pages_newest_first(self, store: Store) -> None:
        for number in range(5):
            await new_version(store, number, run_id=f"run-{number % 2}")
        page = await store.checkpoints.list("support", limit=2, offset=1)
        assert [version.config_version for version in page] == [4, 3]
        of_run = await store.checkpoints.list("support", run_id="run-1")
        assert [version.config_version for version in of_run] == [4, 2]

    async def test_an_unknown_version_lists_what_exists(self, store: Store) -> None:
        await new_version(store)
        with refused(NotFound, "'support' has no version 7", "versions: 1", "best, latest"):
            await store.checkpoints.get("support", 7)
        with refused(NotFound, "'production'", "versions: 1", "best, latest"):
            await store.checkpoints.get("support", "production")
        with refused(NotFound, "'nobody'", "support"):
            await store.checkpoints.get("nobody", 1)


class AliasConformance:
    """Aliases."""

    async def test_best_is_the_highest_complete_objective_and_the_earliest_of_equals(
        self, store: Store
    ) -> None:
        best = []
        for number, metrics in enumerate(
            [
                {"objective": 0.5, "complete": True},
                {"objective": 0.9, "complete": False},
                {"objective": 0.7, "complete": True},
                {"objective": 0.7, "complete": True},
                {"objective": 0.6},
                {"note": "no objective"},
                {"objective": 0.8},
            ]
        ):
            await new_version(store, number, metrics=metrics)
            best.append(await store.aliases.resolve("support", "best"))
        assert best == [1, 1, 3, 3, 3, 3, 7]
        assert await store.aliases.list("support") == {"best": 7, "latest": 7}

    async def test_best_compares_only_what_was_measured_alike(self, store: Store) -> None:
        await new_version(store, 1, metrics={"objective": 0.9})
        await new_version(store, 2, metrics={"objective": 0.2}, dataset_version="d2")
        assert await store.aliases.resolve("support", "best") == 2
        incomplete = {"objective": 1.0, "complete": False}
        await new_version(store, 3, metrics=incomplete, dataset_version="d3")
        assert await store.aliases.resolve("support", "best") == 2

    async def test_a_move_swaps_only_from_what_was_expected(self, store: Store) -> None:
        for number in range(3):
            await new_version(store, number)
        move = store.aliases.move
        by: dict[str, Any] = {"actor": "ada", "reason": "proved"}
        await move("support", "production", to=1, expect=None, **by)
        with refused(AliasConflict, "version 1", "no version"):
            await move("support", "production", to=2, expect=None, **by)
        with refused(AliasConflict, "version 1", "version 3"):
            await move("support", "production", to=2, expect=3, **by)
        moved = await move("support", "production", to=2, expect=1, **by)
        assert (moved.from_version, moved.to_version, moved.actor) == (1, 2, "ada")
        assert await store.aliases.resolve("support", "production") == 2

    async def test_one_of_many_concurrent_swaps_wins(self, store: Store) -> None:
        for number in range(8):
            await new_version(store, number)
        results = await asyncio.gather(
            *(
                store.aliases.move(
                    "support", "production", to=number, expect=None, actor="a", reason="r"
                )
                for number in range(1, 9)
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(result, AliasConflict) for result in results) == 7
        assert len(await store.aliases.log("support", "production")) == 1

    async def test_rollbacks_undo_one_move_after_the_other(self, store: Store) -> None:
        for number in range(3):
            await new_version(store, number)
        for to in (1, 2, 3):
            await store.aliases.move("support", "production", to=to, actor="ada", reason=f"to {to}")
        back: dict[str, Any] = {"actor": "bob", "reason": "complaints"}
        first = await store.aliases.rollback("support", "production", **back)
        second = await store.aliases.rollback("support", "production", **back)
        assert [(m.from_version, m.to_version) for m in (first, second)] == [(3, 2), (2, 1)]
        with refused(BadInput, "nothing before it"):
            await store.aliases.rollback("support", "production", **back)
        log = await store.aliases.log("support", "production")
        assert [(m.kind, m.from_version, m.to_version, m.actor) for m in log] == [
            ("rollback", 2, 1, "bob"),
            ("rollback", 3, 2, "bob"),
            ("move", 2, 3, "ada"),
            ("move", 1, 2, "ada"),
            ("move", None, 1, "ada"),
        ]

    async def test_latest_and_best_do_not_move_by_hand(self, store: Store) -> None:
        await new_version(store)
        for alias in ("latest", "best", "12", "", "Prod", "a b", "x" * 65):
            with refused(BadInput, "alias"):
                await store.aliases.move("support", alias, to=1, actor="a", reason="r")
            with refused(BadInput, "alias"):
                await store.aliases.rollback("support", alias, actor="a", reason="r")

    async def test_an_unknown_version_or_alias_lists_what_exists(self, store: Store) -> None:
        await new_version(store)
        with refused(NotFound, "version 9", "versions: 1"):
            await store.aliases.move("support", "production", to=9, actor="a", reason="r")
        with refused(NotFound, "'production'", "best, latest"):
            await store.aliases.rollback("support", "production", actor="a", reason="r")
        assert await store.aliases.resolve("support", "production") is None
