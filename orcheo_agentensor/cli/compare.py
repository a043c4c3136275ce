"""`agentensor compare`, `report` and `export`: results against each other, and results to share."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from orcheo_agentensor.cli import options
from orcheo_agentensor.cli.errors import ExitCode
from orcheo_agentensor.cli.output import print_json, require_new, show, show_table, write_whole
from orcheo_agentensor.errors import BadInput, MissingExtra, NotFound

if TYPE_CHECKING:
    from orcheo_agentensor.integrations.tracking import Exported
    from orcheo_agentensor.reporting import RunComparison
    from orcheo_agentensor.storage import Store

Against = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="RUN|VERSION|ALIAS",
        help="Exit with 1 when a score is worse than there, by --max-drop or significantly.",
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        metavar="X", help="Exit with 1 when a score falls by more than X, or significantly."
    ),
]
Alpha = Annotated[
    float,
    typer.Option(min=0.0, max=1.0, metavar="P", help="The level of significance for --max-drop."),
]

By = Annotated[
    str | None,
    typer.Option(metavar="FIELD", help="Differences for each value of this metadata field."),
]


def compare(
    sides: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|WORKFLOW@VERSION…",
            help="Two or more runs or versions; each is compared with the first.",
        ),
    ],
    by: By = None,
    judge: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Ask this pairwise judge (YAML or JSON) whose output is better."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The seed of the tests.")] = 0,
    max_drop: MaxDrop = None,
    alpha: Alpha = 0.05,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> int:
    """Compare runs or versions case by case: differences, tests, and the cases that flipped.

    A training stands for its best version, on the cases that its search never saw.
    """
    from orcheo_agentensor.cli.jobfile import read_document
    from orcheo_agentensor.reporting import acompare

    if len(sides) < 2:
        raise BadInput(field="compare", value=sides, rule="needs at least two runs or versions")

    settings = options.load_settings()
    spec = None if judge is None else read_document(judge)

    async def work(opened: Store) -> RunComparison:
        return await acompare(*sides, store=opened, by=by, judge=spec, seed=seed, settings=settings)

    found = options.read_from(store, work)
    drops = drops_of(found, most=max_drop, alpha=alpha)
    code = ExitCode.THRESHOLD if drops else ExitCode.OK
    if as_json:
        print_json({**found.to_json(), "drops": drops, "exit_code": int(code)})
        return code
    show_comparison(found, drops)
    return code


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What an evaluation must not be worse than: a run, WORKFLOW@VERSION, or a version or alias of
    the job's own workflow."""

    side: str
    max_drop: float
    alpha: float

    async def find(self, workflow_id: str, store: Store) -> str:
        """Its full name; raises as `acompare` does where it has no measured cases."""
        from orcheo_agentensor.reporting.cases import require_measured

        full = self.side
        if "@" not in full:
            try:
                await store.runs.get(full)
            except NotFound:
                full = f"{workflow_id}@{full}"
        try:
            await require_measured(full, store)
        except NotFound as error:
            raise NotFound(f"--baseline {self.side}: {error.message}") from None
        return full

    def drops(self, found: RunComparison) -> list[str]:
        """What is worse by more than is allowed."""
        return drops_of(found, most=self.max_drop, alpha=self.alpha)


def report(
    sides: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN [RUN|WORKFLOW@VERSION…]",
            help="A run; or two or more runs or versions, to be compared with the first.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="A .html page, .md for a pull request, .xml (JUnit), or .json.",
        ),
    ],
    by: By = None,
    force: options.Force = False,
    store: options.StoreUrl = None,
) -> None:
    """Write the report of a finished run, or of a comparison, to one file to share."""
    from orcheo_agentensor.reporting import acompare
    from orcheo_agentensor.reporting.comparison_report import COMPARISON_WRITERS
    from orcheo_agentensor.reporting.report import WRITERS, load_report

    kind = output.suffix.lower()
    if kind not in WRITERS:
        raise BadInput(
            field="--output", value=str(output), rule=f"must end in {', '.join(WRITERS)}"
        )
    require_new(output, force=force)
    if by is not None and len(sides) == 1:
        raise BadInput(field="--by", value=by, rule="is for comparisons: name two runs or more")

    async def work(opened: Store) -> str:
        if len(sides) == 1:
            return WRITERS[kind](await load_report(sides[0], store=opened))
        return COMPARISON_WRITERS[kind](await acompare(*sides, store=opened, by=by))

    write_whole(output, [options.read_from(store, work)])


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A finished evaluation or training.")],
    to: Annotated[
        Literal["mlflow", "langfuse"],
        typer.Option(help="The service; its address and keys come from the environment."),
    ],
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Send a finished run with its scores, cases and report to MLflow or Langfuse.

    Sent again, it is brought up to date.
    """
    from orcheo_agentensor.integrations.tracking import aexport
    from orcheo_agentensor.reporting.report import WRITERS, load_report

    settings = options.load_settings()

    async def work(opened: Store) -> Exported:
        files = {}
        if to == "mlflow":
            with contextlib.suppress(MissingExtra):  # of the page, without which the rest goes
                files["report.html"] = WRITERS[".html"](
                    await load_report(run, store=opened)
                ).encode()
        return await aexport(run, to=to, store=opened, files=files, settings=settings)

    found = options.read_from(store, work)
    if as_json:
        print_json({**asdict(found), "exit_code": 0})
        return
    show(f"{found.cases} cases of run {run} are at {found.url}")
    for note in found.notes:
        show(f"note: {note}")


def against_baseline(side: str | None, *, max_drop: float | None, alpha: float) -> Baseline | None:
    """The baseline that the options of `evaluate` name, if any; by default 0.02 may be lost."""
    if side is None:
        if max_drop is not None:
            raise BadInput(field="--max-drop", value=max_drop, rule="needs a --baseline")
        return None
    return Baseline(side=side, max_drop=0.02 if max_drop is None else max_drop, alpha=alpha)


def drops_of(found: RunComparison, *, most: float | None, alpha: float) -> list[str]:
    """The drops of each side against the first that are too large; none without a limit."""
    if most is None:
        return []
    return [drop for one in found.contrasts for drop in one.drops(most=most, alpha=alpha)]


def show_comparison(found: RunComparison, drops: Sequence[str]) -> None:
    """Print the tables and notes of a comparison to stdout, and the drops that are too large."""
    for title, columns, rows in found.tables():
        if title:
            show(title, style="bold")
        show_table(columns, rows)
    for note in found.notes:
        show(f"note: {note}")
    for drop in drops:
        show(f"missed: {drop}", style="red")
