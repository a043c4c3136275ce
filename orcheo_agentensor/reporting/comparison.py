"""Runs and versions compared case by case: differences with tests, flipped cases, strata, costs."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any

from orcheo_agentensor.display import (
    chance,
    clean,
    html_table,
    interval,
    milliseconds,
    money,
    number,
    percent,
    rich_table,
)
from orcheo_agentensor.errors import BadInput, ConfigError
from orcheo_agentensor.evaluation.api import EvaluationReport
from orcheo_agentensor.evaluation.results import CaseResult
from orcheo_agentensor.evaluation.statistics import (
    PairedDifference,
    describe,
    paired_difference,
    percentile,
)
from orcheo_agentensor.evaluators.threads import run_sync
from orcheo_agentensor.json_values import canonical_json
from orcheo_agentensor.reporting.cases import MeasuredCases, load_side
from orcheo_agentensor.reporting.preference import (
    Preference,
    prefer,
    require_pairwise,
    sign_test,
)
from orcheo_agentensor.runs.arguments import EvaluatorLike
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.storage import Store
from orcheo_agentensor.usage import Usage


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the runs or versions that are compared.

    Attributes:
        name: As it was given: a run, or WORKFLOW@VERSION.
        cases: How many cases it shares with the others.
        objective: The weighted mean of the scores of these cases.
        coverage: The share of them that was scored.
        latency_ms: Percentiles of the target's time.
        usage: What these cases cost, evaluators included.
        replicates: How often each case was run.
        pass_at: k -> the chance that at least one of k runs of a case passes (pass@k).
        pass_all: k -> the chance that all of k runs of a case pass (pass^k).
        variance: How much of the variance of the objective lies between cases and how much between
            runs of the same case; None without replicates.
    """

    name: str
    cases: int
    objective: float | None
    coverage: float
    latency_ms: Mapping[str, float | None]
    usage: Usage
    replicates: int
    pass_at: Mapping[int, float] = field(default_factory=dict)
    pass_all: Mapping[int, float] = field(default_factory=dict)
    variance: Mapping[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "name": self.name,
            "cases": self.cases,
            "objective": self.objective,
            "coverage": self.coverage,
            "latency_ms": dict(self.latency_ms),
            "usage": self.usage.to_json(),
            "replicates": self.replicates,
            "pass_at": {str(k): value for k, value in self.pass_at.items()},
            "pass_all": {str(k): value for k, value in self.pass_all.items()},
            "variance": None if self.variance is None else dict(self.variance),
        }


@dataclass(frozen=True, kw_only=True)
class MetricDifference:
    """One score on the cases that both sides scored.

    `p_value` is that of the paired permutation test; where every score is 0 or 1, `mcnemar` is the
    exact test of McNemar (1947) on the cases that flipped.
    """

    before: float | None
    after: float | None
    difference: PairedDifference
    wins: int
    losses: int
    ties: int
    mcnemar: float | None

    @property
    def p_value(self) -> float:
        """McNemar's where it is there, else that of the permutation test."""
        return self.difference.p_value if self.mcnemar is None else self.mcnemar

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        low_high = self.difference.ci95
        return {
            "before": self.before,
            "after": self.after,
            "gain": self.difference.gain,
            "ci95": None if low_high is None else list(low_high),
            "p_value": self.difference.p_value,
            "n": self.difference.n,
            "wins": self.wins,
            "losses": self.losses,
            "ties": self.ties,
            "mcnemar": self.mcnemar,
        }


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A case that passed on one side and not on the other; `broke` where the second failed it."""

    case_id: str
    broke: bool
    evaluators: tuple[str, ...]
    inputs: Any
    before: Any
    after: Any
    reasons: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "evaluators": list(self.evaluators), "reasons": dict(self.reasons)}


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The second of two sides against the first.

    Attributes:
        before: The name of the first side.
        after: The name of the second.
        metrics: Evaluator name -> its difference.
        objective: The difference of the weighted means, case by case.
        flips: The cases that flipped, those that broke first.
        strata: Value of the metadata field -> the difference of the objective on its cases.
        latency_ms: The paired difference of the target's time on cases that both sides finished.
        preference: Whose outputs a pairwise judge prefers, where one was asked.
    """

    before: str
    after: str
    metrics: Mapping[str, MetricDifference]
    objective: MetricDifference
    flips: tuple[Flip, ...]
    strata: Mapping[str, MetricDifference]
    latency_ms: PairedDifference
    preference: Preference | None = None

    def drops(self, *, most: float, alpha: float) -> list[str]:
        """A sentence for each score that fell by more than `most`, or significantly at `alpha`."""
        found = []
        for name, one in {**self.metrics, "objective": self.objective}.items():
            fell = -one.difference.gain
            if fell > most or (fell > 0 and one.p_value < alpha):
                found.append(
                    f"{name} fell from {number(one.before)} to {number(one.after)} "
                    f"({-fell:+.3f}, 95 % interval {interval(one.difference.ci95)}, "
                    f"p {chance(one.p_value)})"
                )
        return found

    @property
    def broke(self) -> tuple[Flip, ...]:
        """The cases that the second side broke."""
        return tuple(flip for flip in self.flips if flip.broke)

    @property
    def fixed(self) -> tuple[Flip, ...]:
        """The cases that the second side mended."""
        return tuple(flip for flip in self.flips if not flip.broke)

    def to_json(self, *, most_flips: int | None = None) -> dict[str, Any]:
        """As JSON, with `most_flips` of the cases that broke and were fixed each."""
        return {
            "before": self.before,
            "after": self.after,
            "objective": self.objective.to_json(),
            "evaluators": {name: found.to_json() for name, found in self.metrics.items()},
            "n_broke": len(self.broke),
            "n_fixed": len(self.fixed),
            "broke": [flip.to_json() for flip in self.broke[:most_flips]],
            "fixed": [flip.to_json() for flip in self.fixed[:most_flips]],
            "strata": {value: found.to_json() for value, found in self.strata.items()},
            "latency_ms": {
                "difference": self.latency_ms.gain,
                "ci95": self.latency_ms.ci95,
                "p_value": self.latency_ms.p_value,
                "n": self.latency_ms.n,
            },
            "preference": None if self.preference is None else self.preference.to_json(),
        }


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """What `compare` found: each side, and each against the first.

    Args:
        sides: The runs or versions, in the order given.
        contrasts: Each of the others against the first.
        front: The sides that no other beats on objective, latency and cost at once.
        notes: What was left out, for the reader.

    Example:
        >>> from orcheo_agentensor import compare, evaluate
        >>> cases = [{"inputs": n, "expected_output": n} for n in range(4)]
        >>> before, after = (
        ...     evaluate(lambda n, top=top: min(n, top), dataset=cases, evaluators=["exact_match"])
        ...     for top in (1, 2)
        ... )
        >>> found = compare(before, after).contrasts[0]
        >>> found.metrics["exact_match"].wins, len(found.fixed), len(found.broke)
        (1, 1, 0)
    """

    sides: tuple[Side, ...]
    contrasts: tuple[Contrast, ...]
    front: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_json(self, *, most_flips: int | None = None) -> dict[str, Any]:
        """As JSON, as `agentensor compare --json` prints it; with `most_flips` of either kind."""
        return {
            "sides": [side.to_json() for side in self.sides],
            "contrasts": [contrast.to_json(most_flips=most_flips) for contrast in self.contrasts],
            "front": list(self.front),
            "notes": list(self.notes),
        }

    def tables(self) -> list[tuple[str, Sequence[str], list[Sequence[object]]]]:
        """What there is to print: a title, the heads and the rows of each table."""
        found: list[tuple[str, Sequence[str], list[Sequence[object]]]]
        found = [("", _SIDE_COLUMNS, [_side_row(side, self.front) for side in self.sides])]
        if repeated := [side for side in self.sides if side.replicates > 1]:
            rows = [row for side in repeated for row in _replicate_rows(side)]
            found.append(("runs of the same case", _REPLICATE_COLUMNS, rows))
        for contrast in self.contrasts:
            title = f"{contrast.after} against {contrast.before}"
            rows = [_row(name, one) for name, one in contrast.metrics.items()]
            rows.append(_row("objective", contrast.objective))
            found.append((title, _COLUMNS, rows))
            if one := contrast.preference:
                row = (one.judge, one.wins, one.losses, one.ties, one.failures, chance(one.p_value))
                found.append((f"outputs of {contrast.after} preferred", _PREFERENCE_COLUMNS, [row]))
            if contrast.strata:
                rows = [_row(value, one) for value, one in contrast.strata.items()]
                found.append((f"{title}, by stratum", _COLUMNS, rows))
            for word, flips in (("broke", contrast.broke), ("fixed", contrast.fixed)):
                if flips:
                    rows = [_flip_row(flip) for flip in flips[:_SHOWN]]
                    more = f" (the first {_SHOWN})" if len(flips) > _SHOWN else ""
                    found.append((f"{len(flips)} cases {word}{more}", _FLIP_COLUMNS, rows))
        return found

    def print(self, *, file: IO[str] | None = None) -> None:
        """Print the tables and notes, to stdout or `file`."""
        from rich.console import Console

        console = Console(file=file, markup=False, highlight=False, emoji=False)
        for title, columns, rows in self.tables():
            if title:
                console.print(clean(title), style="bold")
            console.print(rich_table(columns, rows))
        for note in self.notes:
            console.print(f"note: {clean(note)}")

    def _repr_html_(self) -> str:
        """The comparison in a notebook."""
        import html

        parts = [
            f"<p><b>{html.escape(title)}</b></p>{html_table(columns, rows)}"
            for title, columns, rows in self.tables()
        ]
        return "".join(parts) + "".join(f"<p>note: {html.escape(note)}</p>" for note in self.notes)


_SHOWN = 20
_SIDE_COLUMNS = (
    *("side", ">cases", ">objective", ">coverage", ">p50", ">p95", ">tokens", ">cost", "front"),
)
_COLUMNS = (
    *("score", ">before", ">after", ">change", ">95 % interval", ">p"),
    *(">n", ">wins", ">losses", ">ties"),
)
_REPLICATE_COLUMNS = (
    *("side", ">k", ">pass@k", ">pass^k", ">variance between cases", ">between runs"),
)
_PREFERENCE_COLUMNS = ("judge", ">wins", ">losses", ">ties", ">no verdict", ">p (sign test)")
_FLIP_COLUMNS = ("case", "by", "before", "after")


def _side_row(side: Side, front: Sequence[str]) -> Sequence[object]:
    return (
        side.name,
        side.cases,
        number(side.objective),
        percent(side.coverage),
        milliseconds(side.latency_ms["p50"]),
        milliseconds(side.latency_ms["p95"]),
        side.usage.tokens,
        money(side.usage.cost),
        "yes" if side.name in front else "",
    )


def _replicate_rows(side: Side) -> list[Sequence[object]]:
    parts = side.variance or {}
    return [
        (
            side.name,
            k,
            percent(side.pass_at[k]),
            percent(side.pass_all[k]),
            number(parts.get("case"), 4),
            number(parts.get("run"), 4),
        )
        for k in side.pass_at
    ]


def _row(name: str, one: MetricDifference) -> Sequence[object]:
    return (
        name,
        number(one.before),
        number(one.after),
        f"{one.difference.gain:+.3f}" if one.difference.n else "-",
        interval(one.difference.ci95),
        chance(one.p_value),
        one.difference.n,
        one.wins,
        one.losses,
        one.ties,
    )


def _flip_row(flip: Flip) -> Sequence[object]:
    return (flip.case_id, ", ".join(flip.evaluators), _short(flip.before), _short(flip.after))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else canonical_json(value)
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:59]}…"


async def acompare(
    first: EvaluationReport | str,
    *others: EvaluationReport | str,
    store: Store | str | None = None,
    by: str | None = None,
    judge: EvaluatorLike | None = None,
    seed: int = 0,
    settings: Settings | None = None,
) -> RunComparison:
    """Compare runs, versions or reports on the cases that they share.

    Args:
        first: What the others are compared with: a report, the id of an evaluation or a training
            (its best version), or "WORKFLOW@VERSION" with a version's number or alias.
        others: One or more of the same.
        store: Where runs and versions are stored; reports need none.
        by: A field of the cases' metadata, as "language"; differences are given for each value.
        judge: A pairwise `LLMJudge`, or its form in a job: asked of each case that both sides have
            answered which output it prefers. Its verdicts are kept in the store, and paid for once.
        seed: Of the permutation test and the bootstrap.
        settings: For the judge; from the environment when left out.

    Returns:
        Differences with intervals and tests, the cases that flipped, latency and cost.

    Raises:
        BadInput: The sides share no case, their cases differ under the same id, they share no
            evaluator or measure it otherwise, or a run still works.
        NotFound: There is no such run or version.

    Example:
        >>> import asyncio
        >>> from orcheo_agentensor import Store, acompare, aevaluate
        >>> cases = [{"inputs": n, "expected_output": n} for n in range(4)]
        >>> async def main():
        ...     store = Store.from_url(None)
        ...     for top in (1, 3):
        ...         target = lambda n, top=top: min(n, top)
        ...         settings = {"dataset": cases, "evaluators": ["exact_match"], "store": store}
        ...         await aevaluate(target, run_id=f"top-{top}", **settings)
        ...     return await acompare("top-1", "top-3", store=store)
        >>> asyncio.run(main()).contrasts[0].objective.difference.gain
        0.5
    """
    if not others:
        raise ConfigError("compare(): needs at least two runs, versions or reports")
    if judge is not None:
        require_pairwise(judge)
    opened = store if isinstance(store, Store) else Store.from_url(store)
    try:
        measured = [await load_side(side, opened) for side in (first, *others)]
        names = Counter(one.name for one in measured)
        for place, one in enumerate(measured):
            if names[one.name] > 1:
                one.name = f"{one.name} ({place + 1})"
        found = await asyncio.to_thread(_compare, measured, by, seed)
        if judge is None:
            return found
        base = measured[0]
        judged = []
        for contrast, other in zip(found.contrasts, measured[1:], strict=True):
            shared = [one for one in base.runs if all(one in o.runs for o in measured)]
            sides = ({one: side.runs[one][0] for one in shared} for side in (base, other))
            asked = await prefer(*sides, judge=judge, store=opened, settings=settings)
            judged.append(replace(contrast, preference=asked))
        return replace(found, contrasts=tuple(judged))
    finally:
        if not isinstance(store, Store):
            await opened.close()


def compare(
    first: EvaluationReport | str,
    *others: EvaluationReport | str,
    store: Store | str | None = None,
    by: str | None = None,
    judge: EvaluatorLike | None = None,
    seed: int = 0,
    settings: Settings | None = None,
) -> RunComparison:
    """`acompare` for scripts and notebooks, inside or outside a running event loop.

    Args:
        first: What the others are compared with.
        others: One or more reports, runs or versions.
        store: Where runs and versions are stored.
        by: A field of the cases' metadata.
        judge: A pairwise judge.
        seed: Of the permutation test and the bootstrap.
        settings: For the judge.

    Returns:
        What `acompare` returns.

    Raises:
        BadInput: The sides cannot be compared; the message says why.
        NotFound: There is no such run or version.

    Example:
        >>> from orcheo_agentensor import compare, evaluate
        >>> cases = [{"inputs": "a", "expected_output": "A"}]
        >>> reports = [
        ...     evaluate(target, dataset=cases, evaluators=["exact_match"])
        ...     for target in (str.lower, str.upper)
        ... ]
        >>> compare(*reports).contrasts[0].fixed[0].after
        'A'
    """
    return run_sync(
        acompare(first, *others, store=store, by=by, judge=judge, seed=seed, settings=settings)
    )


def _compare(measured: Sequence[MeasuredCases], by: str | None, seed: int) -> RunComparison:
    first, *others = measured
    shared = [case_id for case_id in first.runs if all(case_id in o.runs for o in others)]
    notes = _require_comparable(measured, shared)
    sides = tuple(_side(one, shared) for one in measured)
    contrasts = tuple(_contrast(first, other, shared, by, seed) for other in others)
    return RunComparison(sides=sides, contrasts=contrasts, front=_front(sides), notes=tuple(notes))


def _require_comparable(measured: Sequence[MeasuredCases], shared: Sequence[str]) -> list[str]:
    """Refuse what is not comparable, saying why; returns what the reader should know."""
    first, *others = measured
    notes: list[str] = []
    for other in others:
        names = f"{first.name} and {other.name}"

        def refused(why: str, names: str = names) -> BadInput:
            return BadInput(f"{names} cannot be compared: {why}", field="compare", value=names)

        if not shared:
            raise refused("they share no case; evaluate both on the same dataset")
        differ = [
            one for one in shared if _content(first.runs[one][0]) != _content(other.runs[one][0])
        ]
        if differ:
            raise refused(
                f"{len(differ)} cases have other inputs or expected outputs under the same id, "
                f"such as {differ[0]!r}; evaluate both on the same version of the dataset"
            )
        ours, theirs = (_metrics(one, shared) for one in (first, other))
        common = ours & theirs
        if not common:
            raise refused(
                f"they share no evaluator ({', '.join(sorted(ours)) or 'none'}; "
                f"{', '.join(sorted(theirs)) or 'none'})"
            )
        before, after = first.fingerprints or {}, other.fingerprints or {}
        changed = sorted(
            name for name in before.keys() & after.keys() if before[name] != after[name]
        )
        if changed:
            raise refused(
                f"the evaluator {changed[0]} has changed between them (its code, settings or "
                "model); evaluate both by the same one, with --reuse no target is run again"
            )
        if lone := sorted(ours ^ theirs):
            notes.append(f"only one of {names} was scored by {', '.join(lone)}")
    most = max(len(one.runs) for one in measured)
    if len(shared) < most:
        notes.append(f"compared on the {len(shared)} cases that all share, of {most}")
    return notes


def _content(result: CaseResult) -> str:
    return canonical_json([result.inputs, result.expected_output])


def _metrics(one: MeasuredCases, shared: Iterable[str]) -> set[str]:
    return {name for case_id in shared for run in one.runs[case_id] for name in run.scores}


def _side(one: MeasuredCases, shared: Sequence[str]) -> Side:
    results = [one.merged(case_id) for case_id in shared]
    replicates = max(len(one.runs[case_id]) for case_id in shared)
    objectives = [found for r in results if (found := r.objective(one.weights)) is not None]
    latencies = [r.latency_ms for r in results if r.target_failure is None]
    passes = [[run.passed for run in one.runs[case_id]] for case_id in shared]
    return Side(
        name=one.name,
        cases=len(shared),
        objective=math.fsum(objectives) / len(objectives) if objectives else None,
        coverage=sum(r.ok for r in results) / len(results),
        latency_ms={"p50": percentile(latencies, 0.5), "p95": percentile(latencies, 0.95)},
        usage=Usage.total(r.usage for r in results),
        replicates=replicates,
        pass_at=_pass_rates(passes, replicates, all_of=False),
        pass_all=_pass_rates(passes, replicates, all_of=True),
        variance=_variance(one, shared) if replicates > 1 else None,
    )


def _pass_rates(
    passes: Sequence[Sequence[bool]], replicates: int, *, all_of: bool
) -> dict[int, float]:
    """pass@k (Chen et al., 2021) or pass^k (Yao et al., 2024) for each k, without bias."""
    found: dict[int, float] = {}
    for k in range(1, replicates + 1):
        rates = []
        for case in passes:
            n, c = len(case), sum(case)
            if n >= k:
                missed = math.comb(n - c, k) / math.comb(n, k)
                rates.append(math.comb(c, k) / math.comb(n, k) if all_of else 1.0 - missed)
        if rates:
            found[k] = math.fsum(rates) / len(rates)
    return found


def _variance(one: MeasuredCases, shared: Sequence[str]) -> dict[str, float] | None:
    """The variance of the objective between cases and between runs of a case (one-way ANOVA)."""
    groups = [
        [found for run in one.runs[case_id] if (found := run.objective(one.weights)) is not None]
        for case_id in shared
    ]
    groups = [group for group in groups if len(group) > 1]
    if len(groups) < 2:
        return None
    size = math.fsum(map(len, groups)) / len(groups)
    means = [math.fsum(group) / len(group) for group in groups]
    within = math.fsum(
        math.fsum((value - mean) ** 2 for value in group) / (len(group) - 1)
        for group, mean in zip(groups, means, strict=True)
    ) / len(groups)
    grand = math.fsum(means) / len(means)
    between = math.fsum((mean - grand) ** 2 for mean in means) / (len(means) - 1) - within / size
    return {"case": max(0.0, between), "run": within}


def _contrast(
    first: MeasuredCases, other: MeasuredCases, shared: Sequence[str], by: str | None, seed: int
) -> Contrast:
    pairs = {case_id: (first.merged(case_id), other.merged(case_id)) for case_id in shared}
    names = sorted(_metrics(first, shared) & _metrics(other, shared))
    metrics = {
        name: _difference(
            [(a.scores.get(name), b.scores.get(name)) for a, b in pairs.values()], seed
        )
        for name in names
    }
    weights = {**other.weights, **first.weights}
    objectives = {
        case_id: (a.objective(weights), b.objective(weights)) for case_id, (a, b) in pairs.items()
    }
    strata: dict[str, list[tuple[float | None, float | None]]] = defaultdict(list)
    if by is not None:
        for case_id, (result, _) in pairs.items():
            known = result.case.metadata if result.case is not None else {}
            value = known.get(by)
            strata["(none)" if value is None else str(value)].append(objectives[case_id])
        if set(strata) == {"(none)"}:
            raise BadInput(f"--by {by}: no case has metadata.{by}", field="by", value=by)
    times = [
        (a.latency_ms, b.latency_ms)
        for a, b in pairs.values()
        if a.target_failure is None and b.target_failure is None
    ]
    flips = [flip for pair in pairs.values() if (flip := _flip(*pair, names)) is not None]
    return Contrast(
        before=first.name,
        after=other.name,
        metrics=metrics,
        objective=_difference(list(objectives.values()), seed),
        flips=tuple(sorted(flips, key=lambda flip: not flip.broke)),
        strata={value: _difference(found, seed) for value, found in sorted(strata.items())},
        latency_ms=paired_difference([a for a, _ in times], [b for _, b in times], seed=seed),
    )


def _difference(pairs: Iterable[tuple[float | None, float | None]], seed: int) -> MetricDifference:
    scored = [(a, b) for a, b in pairs if a is not None and b is not None]
    before, after = [a for a, _ in scored], [b for _, b in scored]
    wins, losses = sum(b > a for a, b in scored), sum(b < a for a, b in scored)
    mcnemar = None
    if scored and {*before, *after} <= {0.0, 1.0}:
        mcnemar = sign_test(wins, losses)
    return MetricDifference(
        before=describe(before).mean if before else None,
        after=describe(after).mean if after else None,
        difference=paired_difference(before, after, seed=seed),
        wins=wins,
        losses=losses,
        ties=len(scored) - wins - losses,
        mcnemar=mcnemar,
    )


def _flip(before: CaseResult, after: CaseResult, names: Sequence[str]) -> Flip | None:
    """The flip of a case, if it is one: by verdicts, and by failures of the target."""
    old, new = _verdicts(before, names), _verdicts(after, names)
    broke = [name for name in names if old.get(name) and new.get(name) is False]
    fixed = [name for name in names if old.get(name) is False and new.get(name)]
    if not broke and not fixed:
        return None
    reasons = {f"before {name}": text for name, text in before.reasons.items() if name in fixed}
    reasons |= {f"after {name}": text for name, text in after.reasons.items() if name in broke}
    if after.target_failure is not None:
        reasons["after"] = after.target_failure.reason
    if before.target_failure is not None:
        reasons["before"] = before.target_failure.reason
    return Flip(
        case_id=before.case_id,
        broke=bool(broke),
        evaluators=tuple(broke or fixed),
        inputs=before.inputs,
        before=before.output,
        after=after.output,
        reasons=reasons,
    )


def _verdicts(result: CaseResult, names: Sequence[str]) -> dict[str, bool]:
    return result.verdicts if result.target_failure is None else dict.fromkeys(names, False)


def _front(sides: Sequence[Side]) -> tuple[str, ...]:
    """The sides that no other equals or beats on objective, p95 and cost, and beats on one."""

    def merits(side: Side) -> tuple[float, float, float]:
        worst = math.inf
        p95, cost = side.latency_ms["p95"], side.usage.cost
        return (
            side.objective if side.objective is not None else -worst,
            -(p95 if p95 is not None else worst),
            -(cost if cost is not None else worst),
        )

    def beaten(side: Side) -> bool:
        mine = merits(side)
        return any(
            all(a >= b for a, b in zip(merits(other), mine, strict=True)) and merits(other) != mine
            for other in sides
        )

    return tuple(side.name for side in sides if not beaten(side))
