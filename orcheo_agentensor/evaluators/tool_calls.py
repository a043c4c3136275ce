"""The built-in evaluators of tool calls, and how calls are found in a state or in messages."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from orcheo_agentensor.evaluators.builtin import (
    MISSING,
    Comparing,
    same,
)
from orcheo_agentensor.evaluators.context import (
    EvaluationResult,
    EvaluatorContext,
    Outcome,
)

ToolCall = tuple[str, Any]
"""The name of a tool and its arguments; None as arguments matches any."""


class _ComparingToolCalls(Comparing):
    arguments: Literal["exact", "subset", "ignore"] = Field(
        default="exact",
        description="exact: equal; subset: the expected ones are among them; ignore: names only",
    )

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        wanted = self.expected(ctx)
        if wanted is MISSING:
            return self.no_expected(ctx)
        return self.compare(list(tool_calls(wanted)), list(tool_calls(self.part(ctx))))

    @abstractmethod
    def compare(self, expected: list[ToolCall], actual: list[ToolCall]) -> EvaluationResult:
        """The score of the calls that the output holds."""

    def matching(self, expected: list[ToolCall], actual: list[ToolCall]) -> list[tuple[int, int]]:
        """Pairs of expected and actual calls that fit each other, as many as possible."""
        fits = [
            [n for n, call in enumerate(actual) if self._fits(wanted, call)] for wanted in expected
        ]
        taken: dict[int, int] = {}
        for wanted in range(len(expected)):
            _augment(wanted, fits, taken, set())
        return sorted((wanted, n) for n, wanted in taken.items())

    def _fits(self, wanted: ToolCall, call: ToolCall) -> bool:
        if wanted[0] != call[0]:
            return False
        if self.arguments == "ignore" or wanted[1] is None:
            return True
        if self.arguments == "subset" and isinstance(wanted[1], dict) and isinstance(call[1], dict):
            return all(k in call[1] and same(v, call[1][k]) for k, v in wanted[1].items())
        return same(wanted[1], call[1] or {})


class ToolCallMatch(_ComparingToolCalls):
    """How well the tool calls fit the expected ones, in any order: their F1, passed at 1.

    Expected calls are tool names, `{"name", "args"}` objects or messages with tool calls, in a list
    or under `tool_calls` or `messages`; the output's are found likewise.

    Example:
        >>> from orcheo_agentensor import EvaluatorContext, ToolCallMatch
        >>> calls = [{"name": "search", "args": {"q": "parcel"}}]
        >>> ctx = EvaluatorContext(case_id="a", inputs={}, output=calls, expected_output=["search"])
        >>> ToolCallMatch().evaluate(ctx).score
        1.0
    """

    type_name: ClassVar[str] = "tool_call_match"

    def compare(self, expected: list[ToolCall], actual: list[ToolCall]) -> EvaluationResult:
        pairs = self.matching(expected, actual)
        if len(pairs) == len(expected) == len(actual):
            return self.full_score
        score = 2 * len(pairs) / (len(expected) + len(actual))
        return self.falls_short(_difference(expected, actual, pairs), score)


class TrajectoryMatch(_ComparingToolCalls):
    """1 when the sequence of tool calls is as expected, else 0.

    Args:
        mode: "strict": the same calls in the same order; "unordered": the same calls in any order;
            "subset": no call that is not expected; "superset": at least the expected calls.

    Example:
        >>> from orcheo_agentensor import EvaluatorContext, TrajectoryMatch
        >>> calls = [{"name": "search", "args": {}}, {"name": "reply", "args": {}}]
        >>> wanted = ["reply", "search"]
        >>> ctx = EvaluatorContext(case_id="a", inputs={}, output=calls, expected_output=wanted)
        >>> TrajectoryMatch().evaluate(ctx).score
        0.0
        >>> TrajectoryMatch(mode="unordered").evaluate(ctx).score
        1.0
    """

    type_name: ClassVar[str] = "trajectory_match"

    mode: Literal["strict", "unordered", "subset", "superset"] = "strict"

    def compare(self, expected: list[ToolCall], actual: list[ToolCall]) -> EvaluationResult:
        if self.mode == "strict":
            together = zip(expected, actual, strict=False)
            wrong = next((n for n, (a, b) in enumerate(together) if not self._fits(a, b)), None)
            if wrong is not None:
                return self.falls_short(
                    f"call {wrong + 1}: expected {_call_text(expected[wrong])}, "
                    f"got {_call_text(actual[wrong])}"
                )
        pairs = self.matching(expected, actual)
        complete = len(pairs) == len(expected) or self.mode == "subset"
        nothing_more = len(pairs) == len(actual) or self.mode == "superset"
        if complete and nothing_more:
            return self.full_score
        return self.falls_short(_difference(expected, actual, pairs))


def tool_calls(value: Any) -> Iterator[ToolCall]:
    """The tool calls in a state, in messages or in a list of calls, in order."""
    if isinstance(value, str):
        yield value, None
    elif isinstance(value, list):
        for item in value:
            yield from tool_calls(item)
    elif isinstance(value, dict):
        function = value.get("function")
        if "tool_calls" in value:
            yield from tool_calls(_objects(value["tool_calls"]))
        elif "messages" in value:
            yield from tool_calls(_objects(value["messages"]))
        elif isinstance(function, dict) and "name" in function:
            yield str(function["name"]), _arguments(function.get("arguments"))
        elif "name" in value and "role" not in value and value.get("type") in _CALL_TYPES:
            yield str(value["name"]), _arguments(value.get("args", value.get("arguments")))


_CALL_TYPES = (None, "tool_call", "function")


def _objects(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _arguments(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _augment(wanted: int, fits: list[list[int]], taken: dict[int, int], seen: set[int]) -> bool:
    """One step of bipartite matching (Kuhn): find a partner, moving others where that helps."""
    for n in fits[wanted]:
        if n not in seen:
            seen.add(n)
            if n not in taken or _augment(taken[n], fits, taken, seen):
                taken[n] = wanted
                return True
    return False


def _difference(
    expected: list[ToolCall], actual: list[ToolCall], pairs: list[tuple[int, int]]
) -> str:
    met, used = {wanted for wanted, _ in pairs}, {n for _, n in pairs}
    lacking = [_call_text(call) for n, call in enumerate(expected) if n not in met]
    extra = [_call_text(call) for n, call in enumerate(actual) if n not in used]
    parts = [("not called", lacking), ("called besides", extra)]
    return "; ".join(f"{what}: {', '.join(calls)}" for what, calls in parts if calls)


def _call_text(call: ToolCall) -> str:
    arguments = "" if call[1] is None else json.dumps(call[1], ensure_ascii=False)
    return f"{call[0]}({arguments[:100]})"
