"""Built-ins for tool calls, alone or as a trajectory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from orcheo_agentensor.evaluators.builtin.base import Comparing
from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.evaluators.result import Outcome
from orcheo_agentensor.evaluators.values import MISSING, same

Call = tuple[str, Any]
"""The name of a tool and its arguments; None as arguments matches any."""

Arguments = Literal["exact", "subset", "ignore"]


class _OfTools(Comparing):
    arguments: Arguments = Field(
        default="exact",
        description="exact: equal; subset: the expected ones are among them; ignore: names only",
    )

    def calls(self, ctx: EvaluatorContext) -> tuple[list[Call], list[Call]] | None:
        """Expected and actual calls; None where the case expects nothing."""
        expected = self.expected(ctx)
        if expected is MISSING:
            return None
        found = self.part(ctx)
        return list(tool_calls(expected)), list(tool_calls(found))

    def matching(self, expected: list[Call], actual: list[Call]) -> list[tuple[int, int]]:
        """Pairs of expected and actual calls that fit each other, as many as possible."""
        fits = [
            [n for n, call in enumerate(actual) if self._fits(wanted, call)] for wanted in expected
        ]
        taken: dict[int, int] = {}
        for wanted in range(len(expected)):
            _augment(wanted, fits, taken, set())
        return sorted((wanted, n) for n, wanted in taken.items())

    def _fits(self, wanted: Call, call: Call) -> bool:
        if wanted[0] != call[0]:
            return False
        if self.arguments == "ignore" or wanted[1] is None:
            return True
        if self.arguments == "subset" and isinstance(wanted[1], dict) and isinstance(call[1], dict):
            return all(k in call[1] and same(v, call[1][k]) for k, v in wanted[1].items())
        return same(wanted[1], call[1] or {})


class ToolCallMatch(_OfTools):
    """How well the tool calls fit the expected ones, in any order: their F1, passed at 1.

    Expected calls are tool names, `{"name", "args"}` objects or messages with tool calls, in a list
    or under `tool_calls` or `messages`; the output's are found likewise.
    """

    type_name: ClassVar[str] = "tool_call_match"

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        """Score one rollout."""
        calls = self.calls(ctx)
        if calls is None:
            return self.no_expected(ctx)
        expected, actual = calls
        pairs = self.matching(expected, actual)
        if len(pairs) == len(expected) == len(actual):
            return self.passes()
        score = 2 * len(pairs) / (len(expected) + len(actual))
        return self.falls_short(_told(expected, actual, pairs), score)


class TrajectoryMatch(_OfTools):
    """1 when the sequence of tool calls is as expected, else 0.

    `strict`: the same calls in the same order; `unordered`: the same calls in any order;
    `subset`: no call that is not expected; `superset`: at least the expected calls.
    """

    type_name: ClassVar[str] = "trajectory_match"

    mode: Literal["strict", "unordered", "subset", "superset"] = "strict"

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        """Score one rollout."""
        calls = self.calls(ctx)
        if calls is None:
            return self.no_expected(ctx)
        expected, actual = calls
        if self.mode == "strict":
            together = zip(expected, actual, strict=False)
            wrong = next((n for n, (a, b) in enumerate(together) if not self._fits(a, b)), None)
            if wrong is not None:
                return self.falls_short(
                    f"call {wrong + 1}: expected {_shown(expected[wrong])}, "
                    f"got {_shown(actual[wrong])}"
                )
        pairs = self.matching(expected, actual)
        complete = len(pairs) == len(expected) or self.mode == "subset"
        nothing_more = len(pairs) == len(actual) or self.mode == "superset"
        if complete and nothing_more:
            return self.passes()
        return self.falls_short(_told(expected, actual, pairs))


def tool_calls(value: Any) -> Iterator[Call]:
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


def _told(expected: list[Call], actual: list[Call], pairs: list[tuple[int, int]]) -> str:
    met, used = {wanted for wanted, _ in pairs}, {n for _, n in pairs}
    lacking = [_shown(call) for n, call in enumerate(expected) if n not in met]
    extra = [_shown(call) for n, call in enumerate(actual) if n not in used]
    told = []
    if lacking:
        told.append(f"not called: {', '.join(lacking)}")
    if extra:
        told.append(f"called besides: {', '.join(extra)}")
    return "; ".join(told)


def _shown(call: Call) -> str:
    arguments = "" if call[1] is None else json.dumps(call[1], ensure_ascii=False)
    return f"{call[0]}({arguments[:100]})"
