"""Rules of the store against their plain models."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_conformance import new_version, rollout, score

from orcheo_agentensor.storage import Store
from orcheo_agentensor.storage.tables import clean_text, decode, encode

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(
                st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=9
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
versions = st.lists(
    st.tuples(
        st.sampled_from([None, 0.0, 0.25, 0.5, 1.0]),
        st.sampled_from([True, False]),
        st.sampled_from(["d1", "d2"]),
        st.sampled_from(["e1", "e2", None]),
    ),
    min_size=1,
    max_size=8,
)


@given(json_values)
def test_json_survives_encoding(value: Any) -> None:
    assert decode(encode(value)) == value


@given(st.text(st.characters()))
def test_any_text_can_be_encoded_and_cleaned(text: str) -> None:
    clean = clean_text(text)
    assert clean is not None
    assert decode(encode({text: [text]})) == {clean: [clean]}
    clean.encode()
    assert "\x00" not in clean


@settings(max_examples=25, deadline=None)
@given(versions)
def test_best_is_what_its_definition_says(saved: list[tuple[Any, ...]]) -> None:
    async def check() -> None:
        best: int | None = None
        async with Store.from_url(None) as store:
            for number, (objective, complete, dataset, evaluators) in enumerate(saved, start=1):
                await new_version(
                    store,
                    number,
                    metrics={"objective": objective, "complete": complete},
                    dataset_version=dataset,
                    evaluator_set=evaluators,
                )
                alike = [
                    (-candidate[0], position)
                    for position, candidate in enumerate(saved[:number], start=1)
                    if candidate[2:] == (dataset, evaluators)
                    and candidate[1]
                    and candidate[0] is not None
                ]
                best = min(alike)[1] if alike else best
                assert await store.aliases.resolve("support", "best") == best
                assert await store.aliases.resolve("support", "latest") == number

    asyncio.run(check())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=12))
@pytest.mark.requirement("promotion.rollback")
def test_rollbacks_undo_moves_as_a_stack_does(actions: list[int]) -> None:
    """An action is a version to move to, or 0: roll back. To move to where the alias points is
    nothing to undo."""

    async def check() -> None:
        by = {"actor": "a", "reason": "r"}
        stack: list[int] = []
        async with Store.from_url(None) as store:
            for number in (1, 2, 3):
                await new_version(store, number)
            for action in actions:
                if action:
                    await store.aliases.move("support", "production", to=action, **by)
                    if stack[-1:] != [action]:
                        stack.append(action)
                elif stack:
                    await store.aliases.rollback("support", "production", **by)
                    stack.pop()
                found = await store.aliases.resolve("support", "production")
                assert found == (stack[-1] if stack else None)

    asyncio.run(check())


@settings(max_examples=25, deadline=None)
@given(st.lists(json_values, min_size=1, max_size=5), st.floats(-1e9, 1e9))
def test_the_ledger_gives_back_what_was_put(outputs: list[Any], value: float) -> None:
    async def check() -> None:
        from store_conformance import leased_run

        async with Store.from_url(None) as store:
            lease = await leased_run(store)
            async with store.ledger("run-1", lease=lease) as ledger:
                for number, output in enumerate(outputs):
                    ledger.put_rollout(rollout(number, output=output))
                await ledger.put_scores("rollout-0", "e", [score(score=value)])
            rows = await store.runs.case_rows("run-1")
            assert [row.rollout.output for row in rows] == outputs
            assert rows[0].scores[0].score == value

    asyncio.run(check())
