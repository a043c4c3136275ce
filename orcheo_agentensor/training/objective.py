"""What a training looks for: the best score, within limits on cost, time and length of prompts.

The limits are relative to the baseline ("<= 1.1x"), or absolute ("<= 0.002"). A candidate that
breaks one may win no comparison; which of the others is best is decided by the score alone.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from orcheo_agentensor.display import milliseconds
from orcheo_agentensor.errors import ConfigError
from orcheo_agentensor.evaluation.results import CaseResult
from orcheo_agentensor.evaluation.statistics import mean_interval
from orcheo_agentensor.prompts import Candidate, TextTensor
from orcheo_agentensor.runs.schema import as_form

_LIMIT = re.compile(r"<=\s*(\d{1,12}(?:\.\d{1,12})?|\.\d{1,12})\s*(x?)")


@dataclass(frozen=True)
class Ceiling:
    """The most that a measure may be: so many times the baseline's, or so much."""

    most: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Ceiling | None:
        """The ceiling that a text such as "<= 1.1x" says; None where it says none."""
        found = _LIMIT.fullmatch(text.strip())
        most = float(found[1]) if found else 0.0
        return cls(most, bool(found[2])) if found and most > 0 else None

    def over(self, before: float) -> float:
        """The most, where the baseline's is `before`."""
        return self.most * before if self.relative else self.most


def _ceiling(text: str) -> str:
    if Ceiling.parse(text) is None:
        raise ValueError('must be "<= 1.1x" (of the baseline\'s) or "<= 0.002" (itself)')
    return text.strip()


def _length(text: str) -> str:
    if text.strip() != "min" and Ceiling.parse(text) is None:
        raise ValueError('must be "min", "<= 1.5x" (of the baseline\'s) or "<= 4000" (characters)')
    return text.strip()


Limit: TypeAlias = Annotated[str, AfterValidator(_ceiling)]
Length: TypeAlias = Annotated[str, AfterValidator(_length)]


class Objective(BaseModel):
    """What a training looks for: the highest score, within limits.

    A limit is relative to the baseline ("<= 1.1x") or absolute: dollars or milliseconds of a case
    on average, characters of all trainable prompts. `length: "min"` lets the shorter of two equally
    good candidates win, where otherwise the first does.

    Example:
        >>> from orcheo_agentensor import Objective
        >>> Objective(cost="<= 1.1x", length="<= 2000").score
        'max'
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, title="Objective", json_schema_extra=as_form
    )

    score: Literal["max"] = Field(
        default="max", title="Score", description="The score is what is maximised."
    )
    cost: Limit | None = Field(
        default=None, title="Cost", description="Most dollars of a case: <= 1.1x, or <= 0.002."
    )
    latency: Limit | None = Field(
        default=None, title="Latency", description="Most milliseconds of a case: <= 1.2x, <= 900."
    )
    length: Length | None = Field(
        default=None,
        title="Length",
        description="Most characters of the trainable prompts: <= 1.5x, <= 4000; or min: the "
        "shorter of equally good candidates wins.",
    )

    @property
    def is_measured(self) -> bool:
        """Whether a limit takes rollouts to be checked."""
        return self.cost is not None or self.latency is not None

    @property
    def prefers_short(self) -> bool:
        """Whether a shorter candidate wins at the same score."""
        return self.length == "min"

    def most_chars(self, baseline: int) -> int | None:
        """The most characters of the trainable prompts together; None without such a limit."""
        ceiling = None if self.length is None else Ceiling.parse(self.length)
        return None if ceiling is None else int(ceiling.over(baseline) + 1e-9)


def check_objective(
    objective: Objective, prompts: Mapping[str, TextTensor], *, cost_ratio: float | None
) -> None:
    """Raise `ConfigError` where the guardrail on cost rejects what the objective allows, and where
    the prompts have no room for a single character."""
    found = None if objective.cost is None else Ceiling.parse(objective.cost)
    if found and found.relative and cost_ratio is not None and cost_ratio < found.most:
        rule = (
            f"lets a candidate cost {found.most:g} times the baseline, and job.guardrail.cost "
            f"rejects it from {cost_ratio:g} times on: give one limit, or the same"
        )
        raise ConfigError(field="job.objective.cost", value=objective.cost, rule=rule)
    chars = total_chars(prompts)
    if objective.most_chars(chars) == 0:
        rule = f"leaves the trainable prompts no character; together they have {chars}"
        raise ConfigError(field="job.objective.length", value=objective.length, rule=rule)


def total_chars(prompts: Mapping[str, TextTensor]) -> int:
    """The characters of all trainable prompts together."""
    return sum(len(tensor.text) for tensor in prompts.values() if tensor.requires_grad)


def room(
    objective: Objective, baseline: Candidate, present: Mapping[str, TextTensor]
) -> dict[str, int]:
    """The most characters of each trainable prompt while the others stay as long as they are."""
    most = objective.most_chars(total_chars(baseline.prompts))
    if most is None:
        return {}
    rest = most - total_chars(present)
    return {
        name: max(0, len(tensor.text) + rest)
        for name, tensor in present.items()
        if tensor.requires_grad
    }


def too_long(objective: Objective, baseline: Candidate, child: Candidate) -> str | None:
    """Why a candidate is too long for the objective; None where it is not."""
    chars = total_chars(child.prompts)
    most = objective.most_chars(total_chars(baseline.prompts))
    if most is None or chars <= most:
        return None
    return f"the prompts have {chars} characters together; the objective allows {most}"


def measured(
    objective: Objective,
    baseline: Sequence[CaseResult],
    best: Sequence[CaseResult],
    *,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Cost and latency of a case under both, as far as the objective limits them, as JSON.

    Each has the means `baseline` and `best`, what is `allowed`, and whether the limit was `kept`:
    None where it is not known. A latency is over its limit where that is no chance: where the 95 %
    interval of what is too much lies above 0. May import scipy, so call it off the loop.
    """
    pairs = [
        (one, other)
        for one, other in zip(baseline, best, strict=True)
        if one.target_failure is None and other.target_failure is None
    ]
    found: dict[str, dict[str, Any]] = {}
    kinds: tuple[tuple[str, str | None, Callable[[CaseResult], float | None]], ...] = (
        ("cost", objective.cost, lambda result: result.usage.cost),
        ("latency", objective.latency, lambda result: result.latency_ms),
    )
    for name, limit, value in kinds:
        ceiling = None if limit is None else Ceiling.parse(limit)
        if ceiling is None:
            continue
        both = ((value(one), value(other)) for one, other in pairs)
        known = [(b, a) for b, a in both if b is not None and a is not None]
        told: dict[str, Any] = {"limit": limit, "baseline": None, "best": None, "allowed": None}
        if not known or len(known) < len(pairs):
            found[name] = {**told, "kept": None}
            continue
        before, after = fmean(b for b, _ in known), fmean(a for _, a in known)
        allowed = ceiling.over(before)
        kept = after <= allowed * (1 + 1e-9)
        if not kept and name == "latency":
            excess = [a - ceiling.over(b) for b, a in known]
            interval = mean_interval(excess, seed=seed)
            kept = interval is None or interval[0] <= 0
        found[name] = told | {"baseline": before, "best": after, "allowed": allowed, "kept": kept}
    return found


def breaches(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for each limit that was not kept, or cannot be told to be."""
    return [sentence(name, one) for name, one in found.items() if not one["kept"]]


def sentence(name: str, found: Mapping[str, Any]) -> str:
    """One measure against its limit."""
    if found["kept"] is None:
        return f"objective: {name} is not known, so {found['limit']} cannot be kept"
    shown = {"cost": "${:.3g}".format, "latency": milliseconds, "length": "{} characters".format}
    text = shown[name]
    told = f"objective: {name} {text(found['best'])}"
    told += f", the baseline's {text(found['baseline'])}"
    if found["allowed"] is None:
        return f"{told} ({found['limit']})"
    where = "is within" if found["kept"] else "is above"
    return f"{told}: {where} {text(found['allowed'])} ({found['limit']})"


async def limits_broken(
    objective: Objective,
    baseline: Sequence[CaseResult],
    child: Sequence[CaseResult],
    *,
    seed: int,
) -> list[str]:
    """What of the objective a candidate breaks, by rollouts of both on the same cases."""
    return breaches(await asyncio.to_thread(measured, objective, baseline, child, seed=seed))


def front(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Candidates with whether another one is as good in score, cost, latency and length, and better
    in one of them (`dominated`); what is not known is compared with nothing."""

    def beats(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        better = False
        for key, sign in (("score", -1), ("cost", 1), ("latency_ms", 1), ("length", 1)):
            mine, yours = one[key], other[key]
            if mine is None or yours is None or mine == yours:
                continue
            if sign * mine > sign * yours:
                return False
            better = True
        return better

    return [{**one, "dominated": any(beats(two, one) for two in points)} for one in points]


def front_lines(weighed: Mapping[str, Any]) -> list[str]:
    """The candidates of the front that no other one beats, a line each, the chosen one marked."""
    lines = []
    for one in weighed.get("front", ()):
        if one["dominated"] and not one["chosen"]:
            continue
        name = f"version {one['version']}" if one["version"] else f"candidate {one['candidate']}"
        told = [
            "no score" if one["score"] is None else f"score {one['score']:.4f}",
            "unknown cost" if one["cost"] is None else f"${one['cost']:.3g}",
            milliseconds(one["latency_ms"]),
            f"{one['length']} characters",
        ]
        lines.append(f"front: {name}{' (chosen)' if one['chosen'] else ''}: {', '.join(told)}")
    return lines
