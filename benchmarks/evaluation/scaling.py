"""100 to 100,000 cases: whether a case costs more when there are many."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

from benchmarks.evaluation import sides
from benchmarks.evaluation.measure import Plan, Result, Row, Side, interleave

SIZES = (100, 1_000, 10_000, 100_000)
REPEATS = {100: 20, 1_000: 4, 10_000: 1, 100_000: 1}
CONCURRENCY = 50
TARGET = 0.15


def run(plan: Plan) -> Result:
    """Cost per case at each size, beyond what a run of one case costs."""
    sizes = SIZES if plan.scale == 1.0 else SIZES[:2]
    largest = sizes[-1]
    seconds = interleave(
        {
            "1": repeated(1, REPEATS[100]),
            **{str(size): repeated(size, REPEATS[size]) for size in sizes[:-1]},
        },
        rounds=plan.rounds,
    )
    seconds |= interleave({str(largest): repeated(largest, 1)}, rounds=1, warm=False)
    fixed = median(seconds["1"])
    costs = {size: (median(seconds[str(size)]) - fixed) / (size - 1) * 1e6 for size in sizes}
    spread = max(costs.values()) / min(costs.values()) - 1
    return Result(
        setup=(
            "The instant target of throughput, from start to report. A run of one case gives the "
            "fixed cost (databases, graph, summary); the cost per case is what more cases add to "
            "it. Smaller runs are repeated within a sample, the largest is made once."
        ),
        rows=(
            Row(
                name="fixed cost of a run",
                value=fixed * 1e3,
                unit="ms",
                samples=tuple(value * 1e3 for value in seconds["1"]),
            ),
            *(
                Row(name=f"cost per case of {size:,}", value=cost, unit="µs")
                for size, cost in costs.items()
            ),
            Row(
                name="dearest over cheapest size",
                value=spread * 100,
                unit="%",
                target=f"≤ {TARGET * 100:.0f} %",
                met=spread <= TARGET,
            ),
        ),
        details={"seconds": seconds},
    )


def repeated(count: int, times: int) -> Side:
    """The mean of `times` runs, each on a new database."""
    once = sides.ours(sides.instant, count=count, concurrency=CONCURRENCY)

    async def sample(directory: Path) -> float:
        total = 0.0
        for _ in range(times):
            with tempfile.TemporaryDirectory(dir=directory) as fresh:
                total += await once(Path(fresh))
        return total / times

    return sample
