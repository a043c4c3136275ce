"""What a measure is, and how the sides of a comparison are timed."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

Side: TypeAlias = Callable[[Path], Coroutine[Any, Any, float]]
"""Runs one sample in an empty directory of its own and returns the seconds it took."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the results: a value, and the target it is held against, if any.

    `samples` are the values behind a median.
    """

    name: str
    value: float
    unit: str
    target: str = ""
    met: bool | None = None
    samples: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a measure found; `setup` says in words what was run and what the time includes."""

    setup: str
    rows: tuple[Row, ...]
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured: the brief's sizes, or a fraction of them to try things out."""

    rounds: int = 5
    scale: float = 1.0

    def size(self, full: int, *, least: int = 1) -> int:
        """`full`, scaled."""
        return max(least, round(full * self.scale))


FULL = Plan()
QUICK = Plan(rounds=3, scale=0.1)


def interleave(
    sides: Mapping[str, Side], *, rounds: int, warm: bool = True
) -> dict[str, list[float]]:
    """Seconds of each side, `rounds` times; the sides take turns, so noise hits all of them.

    Where `warm`, a first round, not counted, loads what is loaded once per process. Every other
    round goes through the sides in reverse. What is in memory before a sample is kept out of its
    garbage collections: the sides share a process and would pay for each other's imports.
    """
    import asyncio

    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-1 if warm else 0, rounds):
        order = list(sides.items())
        for name, side in order if number % 2 == 0 else reversed(order):
            gc.collect()
            gc.freeze()
            with scratch() as directory:
                took = asyncio.run(side(directory))
            gc.unfreeze()
            if number >= 0:
                seconds[name].append(took)
    return seconds


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty directory, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="agentensor-bench-") as directory:
        yield Path(directory)


class Stopwatch:
    """`with Stopwatch() as watch: …`, then `watch.seconds`."""

    seconds: float

    def __enter__(self) -> Stopwatch:
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started


def paired_ratio(over: list[float], under: list[float]) -> tuple[float, tuple[float, ...]]:
    """The ratio of the medians, and the ratio of each round."""
    ratios = tuple(a / b for a, b in zip(over, under, strict=True))
    return statistics.median(over) / statistics.median(under), ratios
