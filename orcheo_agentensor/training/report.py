"""`TrainingResult`: what a training found, typed, and as tables for people."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

from orcheo_agentensor.display import (
    Row,
    clean,
    compared,
    html_table,
    interval,
    milliseconds,
    rich_table,
)
from orcheo_agentensor.evaluation.report import measures
from orcheo_agentensor.prompts import FeedbackRecord
from orcheo_agentensor.training.decision import prompt_diff
from orcheo_agentensor.training.feedback import SHOWN_FIELDS
from orcheo_agentensor.usage import Usage

if TYPE_CHECKING:
    from orcheo_agentensor.storage import ConfigCheckpoint

DecisionStatus: TypeAlias = Literal["promoted", "kept", "rejected", "awaiting_approval"]
TrainingStatus: TypeAlias = Literal["finished", "missed_threshold", "awaiting_approval"]
"""`awaiting_approval`: a person has to answer; `missed_threshold`: too few cases were scored."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What follows from a training, with the reasons.

    Args:
        status: "promoted", "kept", "rejected" or "awaiting_approval".
        reasons: Why, in sentences.
        stopped: Why the search ended.
        target_gain: Whether the mean rose by the ten percent aimed for.
        published: Where the promoted version was published to.

    Example:
        >>> from orcheo_agentensor import MaxSteps, TextGrad, get_prompt, train
        >>> class Yes:
        ...     async def propose(self, request):
        ...         return {component.name: "yes" for component in request.components}
        >>> result = train(
        ...     lambda inputs: get_prompt("answer"),
        ...     prompts={"answer": "no"},
        ...     dataset=[{"inputs": "?", "expected_output": "yes"}],
        ...     evaluators=["exact_match"],
        ...     optimizer=TextGrad(proposer=Yes()),
        ...     stop=[MaxSteps(1)],
        ... )
        >>> result.decision.status, result.decision.reasons
        ('kept', ('the dataset has no holdout split: the gain is unproved',))
    """

    status: DecisionStatus
    reasons: tuple[str, ...]
    stopped: str | None
    target_gain: dict[str, Any]
    published: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a training found.

    Args:
        run_id: The run.
        status: "finished", "awaiting_approval", or "missed_threshold" where too few cases were
            scored.
        best: A stored version with its validation metrics; `baseline` where nothing was better.
        baseline: The version of the prompts that the search started from.
        checkpoints: All versions of the run, oldest first.
        holdout: The paired comparison on cases the search never saw; None where the dataset has
            none.
        summary: The summary of `best` on the validation cases.
        decision: What follows from it, with the reasons.
        usage: What was spent.
        gradients: What the last trial that began at `best` learnt about its prompts: the worst few,
            without inputs and outputs; empty where no trial began there.

    Example:
        >>> from orcheo_agentensor import MaxSteps, TextGrad, get_prompt, train
        >>> class Yes:
        ...     async def propose(self, request):
        ...         return {component.name: "yes" for component in request.components}
        >>> result = train(
        ...     lambda inputs: get_prompt("answer"),
        ...     prompts={"answer": "no"},
        ...     dataset=[{"inputs": "?", "expected_output": "yes"}],
        ...     evaluators=["exact_match"],
        ...     optimizer=TextGrad(proposer=Yes()),
        ...     stop=[MaxSteps(1)],
        ... )
        >>> result.baseline.metrics["objective"], result.best.metrics["objective"]
        (0.0, 1.0)
        >>> print(result.diff)
        --- answer (before)
        +++ answer (after)
        @@ -1 +1 @@
        -no
        +yes
    """

    run_id: str
    status: TrainingStatus
    best: ConfigCheckpoint
    baseline: ConfigCheckpoint
    checkpoints: tuple[ConfigCheckpoint, ...]
    holdout: dict[str, Any] | None
    summary: dict[str, Any]
    decision: Decision
    usage: Usage
    gradients: Mapping[str, tuple[FeedbackRecord, ...]] = field(default_factory=dict)

    @property
    def diff(self) -> str:
        """The prompts of `best` against those of `baseline`, as a unified diff."""
        before, after = (
            {name: tensor.text for name, tensor in version.prompts.items()}
            for version in (self.baseline, self.best)
        )
        return prompt_diff(before, after)

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON."""
        return {
            "run_id": self.run_id,
            "status": self.status,
            "best": self.best.model_dump(mode="json"),
            "baseline": self.baseline.model_dump(mode="json"),
            "checkpoints": [version.model_dump(mode="json") for version in self.checkpoints],
            "holdout": self.holdout,
            "summary": self.summary,
            "decision": {
                **asdict(self.decision),
                "reasons": list(self.decision.reasons),
                "published": list(self.decision.published),
            },
            "usage": self.usage.to_json(),
            "gradients": {
                name: [{key: getattr(one, key) for key in SHOWN_FIELDS} for one in found]
                for name, found in self.gradients.items()
            },
        }

    def print(self, *, file: IO[str] | None = None) -> None:
        """Print baseline and best, the proof, the decision and the diff of the prompts."""
        from rich.console import Console

        console = Console(file=file)
        console.print(rich_table(COMPARISON_COLUMNS, self._rows()))
        for line in self._lines():
            console.print(clean(line), markup=False, highlight=False)

    def _repr_html_(self) -> str:
        """The result in a notebook."""
        text = html.escape("\n".join(self._lines()))
        return f"{html_table(COMPARISON_COLUMNS, self._rows())}<pre>{text}</pre>"

    def _rows(self) -> list[Row]:
        shown = [
            {
                "config_version": version.config_version,
                "objective": version.metrics["objective"],
                "scores": {
                    name: entry["mean"] for name, entry in version.metrics["evaluators"].items()
                },
            }
            for version in (self.baseline, self.best)
        ]
        return comparison_table(shown[0], shown[1], self.holdout)

    def _lines(self) -> list[str]:
        return [
            gain_sentence(self.holdout),
            *measures(self.summary, self.usage.to_json()),
            f"decision: {self.decision.status}",
            *(f"  - {reason}" for reason in self.decision.reasons),
            *([self.diff] if self.diff else []),
        ]


COMPARISON_COLUMNS = ("", ">baseline", ">best", ">change", ">95 % interval")
"""Heads of the table of baseline and best; `>` marks a column of numbers."""


def comparison_table(
    baseline: Mapping[str, Any], best: Mapping[str, Any], holdout: Mapping[str, Any] | None
) -> list[Row]:
    """Baseline beside best: on validation, on holdout, and what a case takes.

    Both are mappings with `config_version`, `objective` and `scores` (means by evaluator).
    """
    names = sorted({*baseline["scores"], *best["scores"]})
    rows: list[Row] = [
        ("version", baseline["config_version"], best["config_version"], "", ""),
        ("validation", *compared(baseline["objective"], best["objective"]), ""),
    ]
    if len(names) > 1:
        rows += [
            (f"  {name}", *compared(baseline["scores"].get(name), best["scores"].get(name)), "")
            for name in names
        ]
    if holdout is not None:
        before, after = holdout["baseline"], holdout["best"]
        change = compared(before["objective"], after["objective"])
        rows.append(("holdout", *change, interval(holdout["ci95"])))
        if len(names) > 1:
            rows += [
                (f"  {name}", *compared(_mean(before, name), _mean(after, name)), "")
                for name in names
            ]
        p95 = (milliseconds(side["latency_ms"]["p95"]) for side in (before, after))
        rows.append(("holdout p95", *p95, "", ""))
        rows += _costs(holdout.get("deltas") or {})
    return rows


def _costs(deltas: Mapping[str, Any]) -> Iterator[Row]:
    """What a holdout case takes: time, tokens and money."""
    shown = {"latency_ms": milliseconds, "tokens": "{:.0f}".format, "cost": "${:.2g}".format}
    for name, text in shown.items():
        found = deltas.get(name) or {}
        change = found.get("difference")
        if change is None or (name != "latency_ms" and not (found["baseline"] or found["best"])):
            continue
        ends = [_signed(end, text, plus="") for end in found.get("ci95") or ()]
        yield (
            f"holdout {name.removesuffix('_ms')} per case",
            text(found["baseline"]),
            text(found["best"]),
            _signed(change, text, plus="+"),
            f"[{', '.join(ends)}]" if ends else "",
        )


def _signed(value: float, text: Any, *, plus: str) -> str:
    return f"{'-' if value < 0 else plus}{text(abs(value))}"


def gain_sentence(holdout: Mapping[str, Any] | None) -> str:
    """The gain on held-out cases."""
    if holdout is None:
        return "nothing was measured on held-out cases: the gain is unproved"
    return (
        f"holdout gain {holdout['gain']:+.4f} {interval(holdout['ci95'])} "
        f"on {holdout['n']} cases, p = {holdout['p_value']:.4f}"
    )


def _mean(summary: Mapping[str, Any], name: str) -> float | None:
    found: float | None = summary["evaluators"].get(name, {}).get("mean")
    return found
