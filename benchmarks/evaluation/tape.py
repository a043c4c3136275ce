"""What the tape costs, and that an evaluation which is not training does not pay for it."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from benchmarks.evaluation import sides
from benchmarks.evaluation.measure import Plan, Result, Row, Side, Stopwatch, interleave
from orcheo_agentensor.tape import TapeRecorder, record_tape

CASES = 500
CONCURRENCY = 50


class State(TypedDict, total=False):
    """The state of the graph under test."""

    question: str
    n: int
    answer: int


def graph() -> Any:
    """Two nodes, no model."""
    flow = StateGraph(State)
    flow.add_node("read", _read)
    flow.add_node("answer", _answer)
    flow.add_edge(START, "read")
    flow.add_edge("read", "answer")
    flow.add_edge("answer", END)
    return flow.compile()


async def _read(state: State) -> State:
    return {"n": state["n"]}


async def _answer(state: State) -> State:
    return {"answer": state["n"] + 1}


def run(plan: Plan) -> Result:
    """The same graph bare, evaluated, and evaluated with a tape."""
    count = plan.size(CASES)
    workflow = graph()

    async def taped(inputs: Any) -> Any:
        with record_tape():
            return await workflow.ainvoke(inputs)

    made = 0
    original = TapeRecorder.__init__

    def counted(self: TapeRecorder, *args: Any, **kwargs: Any) -> None:
        nonlocal made
        made += 1
        original(self, *args, **kwargs)

    untaped = sides.ours(workflow, count=count, concurrency=CONCURRENCY)

    async def watched(directory: Path) -> float:
        TapeRecorder.__init__ = counted  # type: ignore[method-assign]
        try:
            return await untaped(directory)
        finally:
            TapeRecorder.__init__ = original  # type: ignore[method-assign]

    seconds = interleave(
        {
            "bare graph.ainvoke": invoked(workflow, count),
            "evaluated": watched,
            "evaluated inside a tape": sides.ours(taped, count=count, concurrency=CONCURRENCY),
        },
        rounds=plan.rounds,
    )
    return Result(
        setup=(
            f"{count:,} cases through a LangGraph graph of two nodes without a model; the "
            "evaluation as in throughput. The last side records a tape by hand inside the target."
        ),
        rows=(
            *(
                Row(
                    name=f"{name}, per case",
                    value=median(values) / count * 1e6,
                    unit="µs",
                    samples=tuple(value / count * 1e6 for value in values),
                )
                for name, values in seconds.items()
            ),
            Row(
                name="tapes begun by the evaluation",
                value=made,
                unit="",
                target="0",
                met=made == 0,
            ),
        ),
    )


def invoked(workflow: Any, count: int) -> Side:
    """The graph alone, one case after the other."""

    async def sample(_directory: Path) -> float:
        given = sides.cases(count)
        with Stopwatch() as watch:
            for case in given:
                await workflow.ainvoke(case["inputs"])
        return watch.seconds

    return sample
