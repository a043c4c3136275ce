"""`EvaluationReport`: what an evaluation found, typed, and as a table for people.

The functions that word numbers and lay out tables serve the command line and notebooks alike.
"""

from __future__ import annotations

import html
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import starmap
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias, overload

from orcheo_agentensor.datasets import Case, Dataset
from orcheo_agentensor.display import (
    Row,
    again,
    html_table,
    interval,
    milliseconds,
    number,
    percent,
    rich_table,
    spent,
)
from orcheo_agentensor.errors import BadInput, MissingExtra
from orcheo_agentensor.evaluation.results import (
    CaseResult,
    case_result,
    merged,
    outcome_of,
    settled,
    with_outputs,
)
from orcheo_agentensor.evaluation.work import EvaluationWork
from orcheo_agentensor.evaluators import BoundEvaluator, bind_evaluator
from orcheo_agentensor.evaluators.dialects import LangSmithSummary
from orcheo_agentensor.evaluators.threads import run_sync
from orcheo_agentensor.events import EventWriter, discard
from orcheo_agentensor.prompts import PromptsLike, as_prompts, prompts_to_json
from orcheo_agentensor.runs.arguments import (
    DatasetLike,
    EvaluatorLike,
    Target,
    check_arguments,
    name_call,
)
from orcheo_agentensor.runs.caller import is_alone
from orcheo_agentensor.runs.front import as_data, require_result, split_live, walk
from orcheo_agentensor.runs.job import Limits
from orcheo_agentensor.runs.manifest import stored_manifest
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.storage.records import StoredOutput
from orcheo_agentensor.usage import Usage

if TYPE_CHECKING:
    from orcheo_agentensor.storage import CaseRow, Store


# The functions that word numbers and lay out tables serve the command line and notebooks alike.


EvaluationStatus: TypeAlias = Literal["finished", "missed_threshold"]
"""`missed_threshold`: a threshold of the job was missed; `summary["missed"]` says which."""


@dataclass(frozen=True, kw_only=True)
class ScoreSummary:
    """The scores of one evaluator over all cases.

    `mean`, `se` (its standard error) and `ci95` (its 95 % interval) are None where too few cases
    were scored; `n` counts the cases that were. `pass_rate` is the share of passed verdicts,
    `failures` the number of cases on which the evaluator broke, `not_applicable` of those it does
    not apply to, `labels` how often each was given. `in_objective` is False for one of weight 0 or
    with scores outside [0, 1].
    """

    name: str
    mean: float | None
    se: float | None
    ci95: tuple[float, float] | None
    n: int
    pass_rate: float | None
    failures: int
    not_applicable: int = 0
    in_objective: bool = True
    labels: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, name: str, entry: Mapping[str, Any]) -> ScoreSummary:
        """One entry of `summary["evaluators"]`."""
        low_high = entry["ci95"]
        return cls(
            name=name,
            mean=entry["mean"],
            se=entry["se"],
            ci95=None if low_high is None else (low_high[0], low_high[1]),
            n=entry["n"],
            pass_rate=entry["pass_rate"],
            failures=entry["failures"],
            not_applicable=entry.get("not_applicable", 0),
            in_objective=entry.get("in_objective", True),
            labels=dict(entry.get("labels") or {}),
        )


@dataclass(frozen=True, kw_only=True)
class LatencySummary:
    """How long the target took, in milliseconds; None where no case was run to its end."""

    p50: float | None
    p95: float | None


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """What an evaluation found.

    Args:
        run_id: The run; outputs and scores are stored under it.
        status: "finished", or "missed_threshold" where the job's `min_coverage` or
            `limits.min_within_sla` was missed.
        summary: The summary as plain JSON, as graphs, server and command line give it
            (`docs/reference/results.md`).
        usage: What was spent.
        cases: A `CaseResult` for each case, in dataset order.
        manifest: What the run was made of, as JSON (`docs/reference/manifest.md`).
        taped: Whether every case has its whole tape.

    Example:
        >>> from orcheo_agentensor import evaluate
        >>> report = evaluate(
        ...     lambda inputs: inputs["text"].upper(),
        ...     dataset=[{"id": "a", "inputs": {"text": "hi"}, "expected_output": "HI"}],
        ...     evaluators=["exact_match"],
        ... )
        >>> report.scores["exact_match"].mean
        1.0
        >>> report.cases[0].output
        'HI'
    """

    run_id: str
    status: EvaluationStatus
    summary: Mapping[str, Any] = field(repr=False)
    usage: Usage
    cases: Sequence[CaseResult] = field(repr=False)
    manifest: Mapping[str, Any] = field(default_factory=dict, repr=False)
    taped: bool = False

    @cached_property
    def scores(self) -> dict[str, ScoreSummary]:
        """Evaluator name -> its scores over all cases."""
        return {
            name: ScoreSummary.from_json(name, entry)
            for name, entry in self.summary["evaluators"].items()
        }

    @property
    def objective(self) -> float | None:
        """The weighted mean over all evaluators; None where nothing was scored."""
        found: float | None = self.summary["objective"]
        return found

    @property
    def coverage(self) -> float:
        """The share of cases that were scored completely, from 0 to 1."""
        return float(self.summary["coverage"])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the numbers leave out, and what to write so that they do not."""
        return tuple(self.summary.get("warnings", ()))

    @property
    def latency(self) -> LatencySummary:
        """Percentiles of the target's latency."""
        return LatencySummary(**self.summary["latency_ms"])

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON: run, status, summary, usage, manifest and a list of cases."""
        return {
            "run_id": self.run_id,
            "status": self.status,
            "summary": dict(self.summary),
            "usage": self.usage.to_json(),
            "manifest": dict(self.manifest),
            "cases": [
                {
                    **case.to_json(),
                    "inputs": case.inputs,
                    "expected_output": case.expected_output,
                    "output": case.output,
                    "reasons": case.reasons,
                }
                for case in self.cases
            ],
        }

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a row per case.

        Its columns are case id, inputs, outputs, each score, failure, latency, tokens and cost.

        Raises `MissingExtra` where pandas is not installed.
        """
        try:
            import pandas  # type: ignore[import-untyped,import-not-found,unused-ignore]
        except ImportError as error:
            raise MissingExtra("pandas", extra="pandas") from error
        return pandas.DataFrame(
            {
                "case_id": case.case_id,
                "inputs": case.inputs,
                "expected_output": case.expected_output,
                "output": case.output,
                **{name: case.scores.get(name) for name in self.scores},
                "failure": case.failure,
                "latency_ms": case.latency_ms,
                "tokens": case.usage.tokens,
                "cost": case.usage.cost,
            }
            for case in self.cases
        )

    def print(self, *, file: IO[str] | None = None) -> None:
        """Print the table of scores and what they cost, to stdout or `file`."""
        from rich.console import Console

        console = Console(file=file)
        console.print(rich_table(SCORE_COLUMNS, score_table(self.summary)))
        for line in measures(self.summary):
            console.print(line, markup=False, highlight=False)

    def _repr_html_(self) -> str:
        """The report in a notebook."""
        lines = "".join(f"<p>{html.escape(line)}</p>" for line in measures(self.summary))
        return html_table(SCORE_COLUMNS, score_table(self.summary)) + lines


SCORE_COLUMNS = ("evaluator", ">mean", ">95 % interval", ">passed", ">scored", ">failures")
"""Heads of the table of scores; `>` marks a column of numbers."""


def score_table(summary: Mapping[str, Any]) -> list[Row]:
    """A row per evaluator, and the objective where it is not the one evaluator's mean."""
    rows: list[Row] = [
        (
            name,
            number(entry["mean"]),
            interval(entry["ci95"]),
            percent(entry["pass_rate"]),
            entry["n"],
            entry["failures"],
        )
        for name, entry in summary["evaluators"].items()
    ]
    if [entry["mean"] for entry in summary["evaluators"].values()] != [summary["objective"]]:
        rows.append(("objective (weighted)", number(summary["objective"]), "", "", "", ""))
    return rows


def _whole(name: str, entry: Mapping[str, Any]) -> str:
    """What a summary evaluator has said."""
    if "failure" in entry:
        return f"over all cases, {name} failed: {entry['failure']['reason']}"
    said = number(entry["score"]) if "score" in entry else entry.get("label", "not applicable")
    reason = f" ({entry['reason']})" if entry.get("reason") else ""
    return f"over all {entry['n']} cases, {name}: {said}{reason}"


def measures(summary: Mapping[str, Any], usage: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Sentences on coverage and failures, on latency, on what was spent, and the warnings."""
    times = f", each run {summary['replicates']} times" if "replicates" in summary else ""
    latency = summary["latency_ms"]
    sla = summary.get("sla")
    kept = f", {percent(sla['share'])} of cases within {sla['limit_ms']:g} ms" if sla else ""
    silent = summary.get("not_applicable", 0)
    cases = f"{summary['cases'] - silent} cases" + (f" ({silent} not applicable)" * bool(silent))
    return (
        f"coverage {percent(summary['coverage'])} of {cases}{times}; "
        f"target failures {summary['n_target_failed']}, "
        f"evaluator failures {summary['n_evaluator_failed']}{again(summary)}",
        f"latency p50 {milliseconds(latency['p50'])}, p95 {milliseconds(latency['p95'])}{kept}",
        f"spent: {spent(usage or summary['usage'])}",
        *starmap(_whole, summary.get("summary_evaluators", {}).items()),
        *(f"warning: {warning}" for warning in summary.get("warnings", ())),
    )


async def aevaluate(
    target: Target,
    *,
    dataset: DatasetLike,
    evaluators: Sequence[EvaluatorLike] | EvaluatorLike,
    summary_evaluators: Sequence[EvaluatorLike] = (),
    prompts: PromptsLike | None = None,
    config: Mapping[str, Any] | None = None,
    context: Any = None,
    limits: Limits | Mapping[str, Any] | None = None,
    min_coverage: float = 1.0,
    replicates: int = 1,
    seed: int = 0,
    store: Store | str | None = None,
    run_id: str | None = None,
    workflow_id: str | None = None,
    reuse: str | None = None,
    cache: bool = False,
    memory_store: Literal["fresh", "shared", "seeded"] = "fresh",
    accept_drift: bool = False,
    retry_failed: bool = False,
    tape: bool = False,
    settings: Settings | None = None,
    on_event: EventWriter = discard,
) -> EvaluationReport:
    """Evaluate `target` on `dataset` with `evaluators`.

    A case that fails raises nothing: it is counted in the summary and explained in `cases`.

    Args:
        target: A LangGraph graph, a Runnable, a function `(inputs, config) -> output`, a
            "module:attribute" string, or the mapping of a remote target.
        dataset: A `Dataset`, a list of cases, a path, or `{"path": …, "split": …}`.
        evaluators: One or several, of any known form.
        summary_evaluators: These score all cases together.
        prompts: Prompt name to text, `TextTensor` or `ContentTensor`; nodes read them by
            `get_prompt` or where they bind.
        config: The `RunnableConfig` that the target runs with.
        context: The context of a graph that needs live objects there; all rollouts share it.
        limits: Concurrency, timeout and retries.
        min_coverage: The share of cases that must be scored for the run to count.
        replicates: How often each case is run and judged, where results are noisy; its score is the
            mean, and intervals are over cases as before.
        seed: What `get_seed()` gives in a rollout follows from it.
        store: A `Store`, a database URL, or None for memory.
        run_id: Submitting one again resumes that run and runs nothing twice.
        workflow_id: The name under which the run is stored; that of the target when left out.
        reuse: A run whose recorded rollouts are used where they fit.
        cache: Use those of the newest earlier run of the workflow that has measured these prompts
            with the same code of the target.
        memory_store: What the LangGraph `Store` of a rollout holds: nothing ("fresh"), what other
            rollouts left ("shared"), or a copy of what the graph's own held ("seeded").
        accept_drift: Go on although the target's code has changed since the run, or the one to
            `reuse`, was started.
        retry_failed: Of the known run `run_id`, try again what failed by an outage, a refused key
            or a timeout, and report anew.
        tape: Note which node read which prompt, and what it took in and gave out, for every case:
            what `abackward` goes along. It costs time in each rollout.
        settings: The operator's settings; those of the environment when left out.
        on_event: A plain function that hears of the progress.

    Returns:
        The report: scores by evaluator, coverage, latency, usage, and every case.

    Raises:
        BadInput: The job cannot run.
        RunFailed: The run broke; submit its `run_id` again.

    Example:
        >>> import asyncio
        >>> from orcheo_agentensor import aevaluate
        >>> async def shout(inputs):
        ...     return inputs.upper()
        >>> dataset = [{"inputs": "hi", "expected_output": "HI"}]
        >>> asyncio.run(aevaluate(shout, dataset=dataset, evaluators=["exact_match"])).objective
        1.0
    """
    check_arguments("aevaluate", locals())
    from orcheo_agentensor.storage import Store

    opened = store if isinstance(store, Store) else Store.from_url(store)
    cases: Sequence[CaseResult] = ()
    try:
        plain, live = split_live(
            target=target,
            dataset=dataset,
            evaluators=[*listed(evaluators), *map(_for_all_cases, summary_evaluators)],
            config=config,
        )
        named = await opened.media.kept(as_prompts(prompts))
        job = {
            **plain,
            "prompts": prompts_to_json(named) or None,
            "limits": as_data(limits),
            "min_coverage": min_coverage,
            "replicates": replicates,
            "seed": seed,
            "workflow_id": workflow_id,
            "reuse": reuse,
            "cache": cache,
            "memory_store": memory_store,
            "accept_drift": accept_drift,
            "retry_failed": retry_failed,
        }
        measured: dict[str, list[CaseResult]] = {}
        work = EvaluationWork(
            **live,
            prompts=named or None,  # for what the operator does not have to allow to who is here
            context=context,
            store=opened,
            settings=settings,
            on_results=measured.__setitem__,
            taped=tape,
        )
        run_id = run_id or uuid.uuid4().hex
        where: Any = {"store": opened, "run_id": run_id, "on_event": on_event}
        if is_alone():
            found = await walk(work.nodes, job, **where)
        else:
            from orcheo_agentensor.evaluation.graph import graph_of
            from orcheo_agentensor.runs.nodes import drive

            found = await drive(graph_of(work), job, **where)
        require_result(found, run_id)
        results = measured.get(run_id) or await stored_cases(opened, run_id)
        if StoredOutput in {type(one.output) for one in results}:
            cases = StoredCases(results, opened, run_id)
        else:
            cases = tuple(results)
        return EvaluationReport(
            run_id=run_id,
            status=found["status"],
            summary=found["summary"],
            usage=Usage.from_json(found["usage"]),
            cases=cases,
            manifest=await stored_manifest(opened, run_id),
            taped=tape,
        )
    except BadInput as error:
        name_call("aevaluate", error)
        raise
    finally:
        # A store in memory goes with the report that reads from it.
        if opened is not store and not (opened.target.in_memory and isinstance(cases, StoredCases)):
            await opened.close()


def evaluate(
    target: Target,
    *,
    dataset: DatasetLike,
    evaluators: Sequence[EvaluatorLike] | EvaluatorLike,
    summary_evaluators: Sequence[EvaluatorLike] = (),
    prompts: PromptsLike | None = None,
    config: Mapping[str, Any] | None = None,
    context: Any = None,
    limits: Limits | Mapping[str, Any] | None = None,
    min_coverage: float = 1.0,
    replicates: int = 1,
    seed: int = 0,
    store: Store | str | None = None,
    run_id: str | None = None,
    workflow_id: str | None = None,
    reuse: str | None = None,
    cache: bool = False,
    memory_store: Literal["fresh", "shared", "seeded"] = "fresh",
    accept_drift: bool = False,
    retry_failed: bool = False,
    tape: bool = False,
    settings: Settings | None = None,
    on_event: EventWriter = discard,
) -> EvaluationReport:
    """`aevaluate` for sync code, with the same arguments and errors; works in notebooks, too.

    Example:
        >>> from orcheo_agentensor import evaluate
        >>> report = evaluate(
        ...     lambda inputs: inputs["text"].upper(),
        ...     dataset=[{"id": "a", "inputs": {"text": "hi"}, "expected_output": "HI"}],
        ...     evaluators=["exact_match"],
        ... )
        >>> report.objective
        1.0
    """
    check_arguments("evaluate", locals())
    try:
        return run_sync(
            aevaluate(
                target,
                dataset=dataset,
                evaluators=evaluators,
                summary_evaluators=summary_evaluators,
                prompts=prompts,
                config=config,
                context=context,
                limits=limits,
                min_coverage=min_coverage,
                replicates=replicates,
                seed=seed,
                store=store,
                run_id=run_id,
                workflow_id=workflow_id,
                reuse=reuse,
                cache=cache,
                memory_store=memory_store,
                accept_drift=accept_drift,
                retry_failed=retry_failed,
                tape=tape,
                settings=settings,
                on_event=on_event,
            )
        )
    except BadInput as error:
        name_call("evaluate", error)
        raise


PAGE = 500


class StoredCases(Sequence[CaseResult]):
    """The cases of a report whose outputs take much memory: they are read from the store when they
    are asked for, a page at a time."""

    def __init__(self, results: list[CaseResult], store: Store, run_id: str) -> None:
        self._results, self._store, self._run_id = results, store, run_id
        self._page: tuple[int, list[CaseResult]] = (-1, [])

    def __len__(self) -> int:
        return len(self._results)

    @overload
    def __getitem__(self, index: int) -> CaseResult: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[CaseResult]: ...
    def __getitem__(self, index: int | slice) -> CaseResult | Sequence[CaseResult]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        number, at = divmod(range(len(self))[index], PAGE)
        if self._page[0] != number:
            some = self._results[number * PAGE : (number + 1) * PAGE]
            self._page = number, run_sync(with_outputs(self._store, self._run_id, some))
        return self._page[1][at]


async def stored_cases(store: Store, run_id: str) -> list[CaseResult]:
    """The cases of a finished evaluation from the store, in dataset order."""
    record = await store.runs.get(run_id)
    _metadata, cases = await store.datasets.load(
        str(record.dataset_id), record.dataset_version, record.dataset_metadata_version
    )
    rows = await store.runs.case_rows(run_id, phase="evaluation", limit=None)
    by_id: dict[str, list[CaseRow]] = {}
    for row in rows:  # in order of replicates
        by_id.setdefault(row.rollout.case_id, []).append(row)
    return settled(
        merged([stored_case(case, row) for row in by_id[case.id]], {})
        for case in Dataset.from_cases(cases).cases
        if case.id in by_id
    )


def stored_case(case: Case, row: CaseRow) -> CaseResult:
    """A stored case as the `CaseResult` it was."""
    usage = Usage.total([row.rollout.usage, *(score.usage for score in row.scores)])
    return case_result(case, row.rollout, map(outcome_of, row.scores), usage, replayed=True)


def _for_all_cases(evaluator: Any) -> Any:
    if isinstance(evaluator, BoundEvaluator):
        return evaluator
    if isinstance(evaluator, str | Mapping):
        named = {"entrypoint": evaluator} if isinstance(evaluator, str) else evaluator
        return {**named, "kind": LangSmithSummary.kind}
    return bind_evaluator(evaluator, kind=LangSmithSummary.kind)


def listed(evaluators: Any) -> list[Any]:
    """The evaluators of an argument that takes one or several."""
    return list(evaluators) if isinstance(evaluators, list | tuple) else [evaluators]
