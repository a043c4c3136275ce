"""Patterns, schemas and services of jobs: none holds the others up, and all mean the same."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from orcheo_agentensor import Settings, aevaluate
from orcheo_agentensor.errors import BadInput


async def scores(evaluator: dict[str, Any], outputs: list[Any], **options: Any) -> Any:
    return await aevaluate(
        lambda inputs: inputs,
        dataset=[{"id": str(n), "inputs": output} for n, output in enumerate(outputs)],
        evaluators=[{"name": "it", **evaluator}],
        **options,
    )


HOSTILE = [
    r"(a+)+$", r"(a|aa)+$", r"(a|a?)+$", r"(.*a){25}$", r"([a-zA-Z]+)*$", r"(?:a*)*$", r"(a+)+!",
    r"a*a*a*a*a*a*!", r"(a{0,40}){0,20}!", r"(?i:(A+)+$)", r"^(([a-z])+.)+[A-Z]([a-z])+$",
]  # fmt: skip


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pattern", HOSTILE)
async def test_the_time_of_a_jobs_pattern_is_linear_in_the_text(
    pattern: str, full: bool, processor_time: Callable[[], AbstractContextManager[list[float]]]
) -> None:
    """Python's own engine takes days over these; ours is called on texts up to 20,000 long."""
    for evaluator in (
        {"type": "regex", "pattern": pattern, "full": full},
        {"type": "json_schema", "schema": {"items": {"pattern": pattern}}},
        {"type": "json_schema", "schema": {"items": {"patternProperties": {pattern: False}}}},
    ):
        spent = []
        for size in (4_000, 20_000):
            text = "a" * size + "\t"
            value: Any = text if evaluator["type"] == "regex" else [text]
            with processor_time() as seconds:
                report = await scores(evaluator, [value])
            spent += seconds
            assert report.summary["n_evaluator_failed"] == 0
        assert (
            spent[1] < 20 * spent[0] + 0.5
        )  # 5 times as long: a quadratic one would take 25 times


@pytest.mark.parametrize(
    "pattern",
    [r"(?=a)b", r"(?<!a)b", r"(a)\1", r"(?P<x>a)(?P=x)", r"a{1001}", r"[^\W\dx]", "a" * 10_001],
)
async def test_what_cannot_be_matched_so_is_refused_with_the_reason(pattern: str) -> None:
    for evaluator in (
        {"type": "regex", "pattern": pattern},
        {"type": "json_schema", "schema": {"properties": {"x": {"allOf": [{"pattern": pattern}]}}}},
        {"type": "json_schema", "schema": {"patternProperties": {pattern: True}}},
    ):
        with pytest.raises(BadInput, match=r"linear time|longer than") as caught:
            await scores(evaluator, ["x"])
        assert caught.value.field in ("pattern", "schema")


TEXTS = [
    "Order 1234 is on its way.",
    "Größe: ０１２ ok",
    "naïve café",
    "a\n",
    "",
    "x_1",
    "A1\u2003B",
    "tab\t",
    "[x]",
    "a]b",
    "é",
    "Ünder_score",
    "12,5 €",
    "line\nline two\n",
    "a{,3}",
    "٣",
    "no-break\u00a0space",
    "\x1f",
    "x{2}",
    "AAA",
    "²³",
    "Ⅷ",
    "^$",
]
PATTERNS = [
    r"\d+",
    r"\w+",
    r"\s",
    r"\D",
    r"\W",
    r"\S+",
    r"^\w+$",
    r"[\w\s]+",
    r"[^\W\d_]+",
    r"[\W_]",
    r"a$",
    r"^$",
    r"\Aa\Z",
    r"[]x]+",
    r"[^]]",
    r"[[x]",
    r"a{,3}",
    r"x{2}",
    r"(?i)aaa",
    r"(?m)two$",
    r"\u00e9",
    r"(?#note)a",
    r"[a\]b]+",
    r"\$",
    r"(?P<n>\d)",
    r"\.",
    r"[\d,]+ €",
    r"(?s).+two",
    r"\x61",
    r"[^\s]+",
    r"\N{LATIN SMALL LETTER E WITH ACUTE}",
    r"caf\w",
    r"(a|é)$",
    r"[$]",
    r"\\",
    r"[.$^]",
]


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_a_jobs_pattern_means_what_it_means_in_python(pattern: str) -> None:
    for full in (False, True):
        found = await scores({"type": "regex", "pattern": pattern, "full": full}, TEXTS)
        match = re.fullmatch if full else re.search
        told = [case.scores["it"] for case in found.cases]
        assert told == [1.0 if match(pattern, text) else 0.0 for text in TEXTS]


async def test_a_schema_that_leads_to_very_many_others_ends_as_a_failure() -> None:
    """Thirty references that fork are a billion ways."""
    defined = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)}
    schema = {"$defs": {**defined, "d30": {"type": "object"}}, "$ref": "#/$defs/d0"}
    report = await scores({"type": "json_schema", "schema": schema}, [{"n": 1}])
    [case] = report.cases
    assert "checks" in case.outcomes[0].reason


async def test_distinct_items_are_told_apart_in_time() -> None:
    """Objects cannot be sorted: comparing each with each would take 2 * 10^8 comparisons."""
    schema = {"type": "json_schema", "schema": {"uniqueItems": True}}
    distinct = [{"n": n} for n in range(20_000)]
    report = await scores(schema, [distinct, [*distinct, {"n": 7.0}], [1, True, "1"]])
    assert [case.scores["it"] for case in report.cases] == [1.0, 0.0, 1.0]


@pytest.fixture
async def dripping() -> AsyncIterator[str]:
    """A service that answers one byte at a time, for ever; each well within a read timeout."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        with contextlib.suppress(asyncio.CancelledError):
            while not writer.is_closing():
                writer.write(b" ")
                await asyncio.sleep(0.01)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield f"http://{host}:{port}/"
    server.close()


async def test_the_timeout_of_a_service_is_for_its_whole_answer(dripping: str) -> None:
    settings = Settings(allowed_hosts=("127.0.0.1",))
    evaluator = {"type": "http", "url": dripping, "timeout": 0.2}
    report = await scores(evaluator, ["x"], settings=settings, limits={"retries": 0})
    assert "took longer than 0.2 s" in report.cases[0].outcomes[0].reason
