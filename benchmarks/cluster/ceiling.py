"""How many runs a second a server does at all, and how near a remote target comes.

`python -m benchmarks.cluster.ceiling [FILE] [--workers 1,2,4] [--rounds 2]` sends the same runs, of
20 ms each, by the cheapest requests that the server's API has, with nothing but an HTTP client, and
then as cases of a remote target, by turns in the same minutes. A way of asking is one of:

- `wait`: `POST /runs/wait`; nothing is kept, so that a lost answer is a lost run.
- `stream`: `POST /runs/stream`; the same with events.
- `thread wait`: `POST /threads/ID/runs/wait`, with one checkpoint at the end; the threads stay.
- `batch`: `POST /runs/batch` of as many runs as are at once, then `POST /threads/search` for all of
  them together until they have ended, and `POST /threads/prune`; no events, and so no usage.
- `ours`: cases of a remote target: events for usage, the result from the thread, no run twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from benchmarks.cluster.measure import ROOT, Measured, cluster, folder, remote, url_of

COUNT = 160


def _payload(number: int, **more: Any) -> dict[str, Any]:
    return {"assistant_id": "answer", "input": {"number": number}, **more}


async def _wait(http: httpx.AsyncClient, number: int) -> bool:
    answer = await http.post("/runs/wait", json=_payload(number))
    answer.raise_for_status()
    return "answer" in answer.json()


async def _stream(http: httpx.AsyncClient, number: int) -> bool:
    async with http.stream("POST", "/runs/stream", json=_payload(number)) as answer:
        answer.raise_for_status()
        return b'"answer"' in await answer.aread()


async def _thread_wait(http: httpx.AsyncClient, number: int) -> bool:
    payload = _payload(number, if_not_exists="create", durability="exit")
    answer = await http.post(f"/threads/{uuid4()}/runs/wait", json=payload)
    answer.raise_for_status()
    return "answer" in answer.json()


def _each(
    one: Callable[[httpx.AsyncClient, int], Awaitable[bool]],
) -> Callable[[httpx.AsyncClient, int, int], Awaitable[int]]:
    """All runs by `one`, so many at once; tells how many answers came without the output."""

    async def all_of_them(http: httpx.AsyncClient, count: int, concurrency: int) -> int:
        numbers, lost = iter(range(count)), 0

        async def worker() -> None:
            nonlocal lost
            for number in numbers:
                lost += not await one(http, number)

        await asyncio.gather(*(worker() for _ in range(concurrency)))
        return lost

    return all_of_them


async def _batch(http: httpx.AsyncClient, count: int, concurrency: int) -> int:
    """Runs are made as others end, in groups, so that the workers always have some waiting."""
    begun, waiting = 0, set[str]()
    while begun < count or waiting:
        free = min(concurrency - len(waiting), count - begun)
        if free >= concurrency // 2 or (free and begun + free == count):
            numbers = range(begun, begun + free)
            payload = [_payload(n, on_completion="keep", durability="exit") for n in numbers]
            answer = await http.post("/runs/batch", json=payload)
            waiting |= {run["thread_id"] for run in answer.json()}
            begun += free
        await asyncio.sleep(0.1)
        asked = {"ids": sorted(waiting), "limit": len(waiting), "select": ["thread_id", "values"]}
        found = (await http.post("/threads/search", json=asked | {"status": "idle"})).json()
        assert all(thread["values"]["answer"] == "yes" for thread in found)
        gone = [thread["thread_id"] for thread in found]
        if gone:
            waiting -= set(gone)
            await http.post("/threads/prune", json={"thread_ids": gone, "strategy": "delete"})
    return 0


RAW: dict[str, Callable[[httpx.AsyncClient, int, int], Awaitable[int]]] = {
    "wait": _each(_wait),
    "stream": _each(_stream),
    "thread wait": _each(_thread_wait),
    "batch": _batch,
}


@asynccontextmanager
async def dev_server(place: Path) -> AsyncIterator[Path]:
    """LangGraph's development server with ten job slots, told of as a cluster is."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    options = ["--no-browser", "--no-reload", "--n-jobs-per-worker", "10", "--port", port]
    quiet = {"LANGGRAPH_CLI_NO_ANALYTICS": "1", "LANGGRAPH_NO_VERSION_CHECK": "true"}
    with (place / "dev.log").open("wb") as log:
        server = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "langgraph_cli", "dev", *options),
            cwd=place,
            env={**os.environ, **quiet, "LANGSMITH_TRACING": "false", "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )
    state = place / "dev"
    state.mkdir()
    found = {"url": f"http://127.0.0.1:{port}", "workers": [server.pid], "REDIS_URI": "redis://-:1"}
    (state / "cluster.json").write_text(json.dumps(found))
    try:
        async with httpx.AsyncClient() as http:
            while server.returncode is None:
                with contextlib.suppress(httpx.HTTPError):
                    if (await http.get(f"{found['url']}/ok")).is_success:
                        break
                await asyncio.sleep(0.1)
        if server.returncode is not None:
            raise SystemExit(f"no development server:\n{(place / 'dev.log').read_text()}")
        yield state
    finally:
        if server.returncode is None:
            server.terminate()
        await server.wait()


async def measured(state: Path, mode: str, *, count: int, concurrency: int) -> dict[str, Any]:
    """What `count` runs took by one way of asking."""
    if mode == "ours":
        found = await remote(state, concurrency, count)
    else:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        async with httpx.AsyncClient(base_url=url_of(state), timeout=120, limits=limits) as http:
            meter = Measured(count, state)
            lost = await RAW[mode](http, count, concurrency)
            found = meter.end() | {"concurrency": concurrency, "lost": lost}
    return {"mode": mode, **found, "load": os.getloadavg()[0]}


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--workers", default="1,2,4", help="0 is the development server")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--concurrency", type=int, default=20)
    parser.add_argument("--modes", default=",".join([*RAW, "ours"]))
    asked = parser.parse_args()
    points: list[dict[str, Any]] = []
    for workers in map(int, asked.workers.split(",")):
        with folder() as place:
            server = cluster(place, workers) if workers else dev_server(place)
            async with server as state:
                await remote(state, 4, 20)  # the first ones wait for imports and caches
                for number in range(asked.rounds):
                    for mode in asked.modes.split(","):
                        found = await measured(
                            state, mode, count=asked.count, concurrency=asked.concurrency
                        )
                        points.append({"workers": workers, "round": number, **found})
                        print(json.dumps(points[-1]), flush=True)
    if asked.file is not None:
        asked.file.write_text(json.dumps(points, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
