"""The local pages: who may see them, what they answer, and what is in their files."""

from __future__ import annotations

import asyncio
import html.parser
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from orcheo_agentensor import Store, TextGrad, aevaluate, atrain, get_prompt
from orcheo_agentensor.server.local import create_view

PAGES = Path(__file__).parents[2] / "orcheo_agentensor" / "server" / "pages"
REPORT = PAGES.parents[1] / "reporting" / "templates" / "style.css"
API = "/agentensor/v1"
HOSTILE = "<script>alert(1)</script>"
KEY = {"x-agentensor-key": "secret"}


@pytest.fixture(scope="module")
def stored() -> Iterator[Store]:
    """A store with two evaluations of nine cases and a training."""

    def target(inputs: Any, config: Any) -> Any:
        if inputs["n"] % 4 == 0:
            raise ValueError(HOSTILE)
        return {"messages": [{"role": "assistant", "content": get_prompt("tone", config)}]}

    class Teacher:
        async def propose(self, request: Any) -> dict[str, str]:
            return {one.name: f"{one.text} kindly" for one in request.components}

    def kind(outputs: Any) -> float:
        return float("kindly" in outputs["messages"][-1]["content"])

    def cases(split: str) -> list[dict[str, Any]]:
        return [{"id": f"{split}/{n}", "inputs": {"n": n}, "split": split} for n in range(9)]

    async def fill(store: Store) -> None:
        settings: Any = {"evaluators": [kind], "store": store, "workflow_id": "w"}
        settings |= {"limits": {"retries": 0}, "min_coverage": 0.0}
        for run_id, tone in (("before", "say"), ("after", f"say kindly {HOSTILE}")):
            await aevaluate(
                target, dataset=cases("a"), prompts={"tone": tone}, run_id=run_id, **settings
            )
        await atrain(
            target,
            dataset=[case for split in ("train", "validation") for case in cases(split)],
            prompts={"tone": "say"},
            optimizer=TextGrad(proposer=Teacher()),
            budget={"rollouts": 100},
            run_id="trained",
            **settings,
        )

    store = Store.from_url(None)
    asyncio.run(fill(store))
    yield store
    asyncio.run(store.close())


@pytest.fixture
async def http(stored: Store) -> AsyncIterator[httpx.AsyncClient]:
    """A browser at the address of the pages, with the key."""
    app = create_view(stored, port=8765, key="secret")
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8765", headers=KEY
    ) as opened:
        yield opened


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {}, 200),
        ("GET", "/", {"host": "evil.example"}, 403),
        ("GET", f"{API}/runs", {"host": "evil.example:8765"}, 403),
        ("GET", f"{API}/runs", {"host": "localhost:8765"}, 200),
        ("GET", f"{API}/runs", {"x-agentensor-key": "guess"}, 401),
        ("GET", f"{API}/runs", {"sec-fetch-site": "cross-site"}, 403),
        ("PUT", f"{API}/workflows/w/aliases/production", {}, 405),
        ("POST", f"{API}/workflows/w/aliases/production/rollback", {}, 405),
        ("GET", f"{API}/nothing", {}, 404),
        ("GET", "/../pyproject.toml", {}, 404),
    ],
)
async def test_only_this_machine_with_the_key_looks_and_nobody_changes_anything(
    http: httpx.AsyncClient, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = await http.request(method, path, headers=headers)
    assert answer.status_code == status
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_cases_come_in_pages_by_how_they_ended(http: httpx.AsyncClient) -> None:
    async def ids(**query: Any) -> list[str]:
        found, cursor = [], None
        while True:
            given = {"limit": 2, **query, **({"cursor": cursor} if cursor else {})}
            answer = (await http.get(f"{API}/runs/before/cases", params=given)).json()
            found += [one["case_id"] for one in answer["items"]]
            cursor = answer["next_cursor"]
            if cursor is None:
                assert answer["total"] == len(found)
                return found

    every = [f"a/{n}" for n in range(9)]
    assert await ids() == every
    assert await ids(failed=True) == ["a/0", "a/4", "a/8"]
    assert await ids(passed=False) == every
    assert await ids(order="worst") == [
        "a/0",
        "a/4",
        "a/8",
        *(e for e in every if e[2] not in "048"),
    ]
    assert await ids(where="kind<0.5", passed=False) == ["a/1", "a/2", "a/3", "a/5", "a/6", "a/7"]
    assert await ids(where="kind>0.5") == []
    wrong = await http.get(f"{API}/runs/before/cases", params={"where": "tone<1"})
    assert wrong.status_code == 404
    assert wrong.json()["error"]["message"] == "run 'before' has no score of 'tone'; it has: kind"


async def test_a_case_a_lineage_a_comparison_and_a_report_are_there(
    http: httpx.AsyncClient,
) -> None:
    [one] = (await http.get(f"{API}/runs/after/cases/a/1")).json()["items"]
    assert one["messages"][0]["content"] == f"say kindly {HOSTILE}"
    assert one["scores"][0]["score"] == 1.0
    candidates = (await http.get(f"{API}/runs/trained/lineage")).json()["candidates"]
    assert candidates[1]["parents"] == [0]
    assert ["added", " kindly"] in candidates[1]["changes"]["tone"]
    assert (await http.get(f"{API}/runs/before/lineage")).json() == {"candidates": []}
    found = (await http.get(f"{API}/compare", params={"side": ["before", "after"]})).json()
    assert found["contrasts"][0]["n_fixed"] == 6
    report = await http.get(f"{API}/runs/after/report")
    assert report.headers["content-disposition"] == 'attachment; filename="after.html"'
    assert "sandbox" in report.headers["content-security-policy"]
    assert HOSTILE not in report.text


def test_the_files_of_the_pages_hold_no_code_in_markup_and_no_address_elsewhere() -> None:
    class Reader(html.parser.HTMLParser):
        """Checks each tag as it comes."""

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            given = dict(attrs)
            assert not any(name.startswith("on") or name == "style" for name in given)
            assert tag != "style"
            if tag == "script":
                assert given["src"] == "/view.js"

    page = (PAGES / "index.html").read_text()
    Reader().feed(page)
    assert re.search(r'<html lang="\w+">', page)
    script = (PAGES / "view.js").read_text()
    for risky in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function(",
    ):
        assert risky not in script
    addresses = re.findall(r"https?://[^\"' ]+", page + script + (PAGES / "view.css").read_text())
    assert set(addresses) == {"http://www.w3.org/2000/svg"}


def palettes(css: str) -> Iterator[dict[str, str]]:
    """The colours of a style sheet by name: those by day, and those by night."""
    for block in re.findall(r":root \{([^}]*)\}", css):
        yield dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})", block))


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("sheet", [PAGES / "view.css", REPORT])
def test_texts_stand_out_by_day_and_by_night_and_there_are_rules_for_phones_and_print(
    sheet: Path,
) -> None:
    css = sheet.read_text()
    themes = list(palettes(css))
    assert len(themes) == 2
    for theme in themes:
        for ink in ("ink", "soft", "good", "bad", *(["link"] if "link" in theme else [])):
            for ground in ("page", "card"):
                assert contrast(theme[ink], theme[ground]) >= 4.5, (ink, ground)
        for ground in ("add", "del"):
            assert contrast(theme["ink"], theme[ground]) >= 4.5, ground
        assert contrast(theme["fill"], theme["page"]) >= 3  # focus rings and bars
    for rule in (
        "@media print",
        "max-width: 40rem",
        ":focus-visible",
        "prefers-color-scheme: dark",
    ):
        assert rule in css
