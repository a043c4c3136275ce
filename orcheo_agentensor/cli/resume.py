"""`agentensor resume`: a run goes on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orcheo_agentensor.cli import options
from orcheo_agentensor.cli.errors import EXIT_CODES, handled
from orcheo_agentensor.errors import BadInput

if TYPE_CHECKING:
    from orcheo_agentensor.storage import RunRecord


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("resume", epilog=EXIT_CODES)(resume)


@handled
def resume(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The id of the run.")],
    approve: Annotated[
        bool | None,
        typer.Option("--approve/--reject", help="Answer a training that waits for approval."),
    ] = None,
    actor: options.Actor = None,
    reason: options.Reason = "",
    min_score: options.MinScore = None,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Go on with a run that was interrupted, failed, or waits for approval.

    Nothing that is recorded runs again. A finished run shows its result.
    """
    from orcheo_agentensor.cli.ending import Ending
    from orcheo_agentensor.cli.gates import parse_gates, require_known
    from orcheo_agentensor.cli.stopping import Stopper, run_main
    from orcheo_agentensor.cli.stores import load_settings, make_importable, named_store, reading
    from orcheo_agentensor.cli.work import FOLDER, Desk

    settings = load_settings()
    opened = named_store(store, settings)
    gates = parse_gates(min_score)
    answer = _answer(approve, actor, reason)
    stopper = Stopper()

    async def main() -> int:
        async with reading(opened) as there:
            known = await there.runs.get(run_id)
        if known.mode == "run":
            raise BadInput(
                f"run {run_id!r} was one execution of a workflow; only evaluations and trainings "
                "can be resumed: start it again with `agentensor run`",
                field="run_id",
                value=run_id,
                rule="must be an evaluation or a training",
            )
        _require_paused(known, answer)
        ending = Ending(mode=known.mode, as_json=as_json, store_url=store, gates=gates)
        if known.status == "finished" and known.result is not None:
            require_known(gates, known.result["summary"]["evaluators"])
            return ending.report({**known.result, "run_id": run_id}, known)
        folders = [Path(known.refs[FOLDER])] if FOLDER in known.refs else []
        make_importable(*folders, Path.cwd())
        desk = Desk(mode=known.mode, store=opened, settings=settings)
        async with opened:
            prepared = await desk.workbench().recall(run_id)
            require_known(gates, [evaluator.name for evaluator in prepared.evaluators])
            found = await desk.drive(
                None,
                run_id,
                stopper,
                silent=quiet or as_json,
                graph=desk.graph(prepared.dataset),
                answer=answer,
            )
            return ending.report(found, await opened.runs.get(run_id))

    return run_main(main(), stopper)


def _answer(approve: bool | None, actor: str | None, reason: str) -> dict[str, Any] | None:
    if approve is None:
        return None
    return {"approve": approve, "actor": options.actor_name(actor), "reason": reason}


def _require_paused(run: RunRecord, answer: dict[str, Any] | None) -> None:
    if answer is not None and run.status != "paused":
        raise BadInput(
            f"run {run.run_id!r} is {run.status}, it does not wait for approval; "
            "leave --approve and --reject out",
            field="--approve",
            value=run.status,
            rule="needs a run that waits for approval",
        )
