"""From what a run gave back to what is printed, and to the exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orcheo_agentensor.cli.errors import ExitCode
from orcheo_agentensor.cli.gates import Gate
from orcheo_agentensor.cli.output import print_json, say
from orcheo_agentensor.cli.stores import store_option

if TYPE_CHECKING:
    from orcheo_agentensor.cli.work import Mode
    from orcheo_agentensor.storage import RunRecord

_PARTS = {
    "evaluate": ("status", "summary", "usage"),
    "train": ("status", "baseline", "best", "holdout", "decision", "summary", "usage"),
}


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a command reports the end of a run; `job` is the job file, to be named in suggestions."""

    mode: Mode
    as_json: bool
    store_url: str | None
    gates: Sequence[Gate] = ()
    job: str | None = None

    def report(self, found: Mapping[str, Any], run: RunRecord) -> int:
        """Print the end of a run; gives the exit code."""
        status = found["status"]
        if status == "interrupted":
            return self._interrupted(run.run_id)
        if status == "awaiting_approval":
            return self._asking(found["request"], run)
        checked = [gate.check(found["summary"]) for gate in self.gates]
        missed = status == "missed_threshold" or not all(gate["met"] for gate in checked)
        code = ExitCode.THRESHOLD if missed else ExitCode.OK
        document: dict[str, Any] = {"run_id": run.run_id, "workflow_id": run.workflow_id}
        document |= {key: found.get(key) for key in _PARTS[self.mode]}
        if self.mode == "train":
            document["diff"] = _diff(found)
        else:
            document["gates"] = checked
        if self.as_json:
            print_json({**document, "exit_code": int(code)})
        else:
            self._show(document, checked)
        return code

    def _show(self, document: Mapping[str, Any], checked: Sequence[Mapping[str, Any]]) -> None:
        from orcheo_agentensor.cli import reports

        store = store_option(self.store_url)
        if self.mode == "evaluate":
            reports.show_evaluation(document, checked, store=store)
            return
        reports.show_training(
            document,
            workflow_id=document["workflow_id"],
            diff=document["diff"],
            job=self.job,
            store=store,
        )

    def _interrupted(self, run_id: str) -> int:
        command = f"agentensor resume {run_id}{store_option(self.store_url)}"
        say(f"interrupted; what is finished is kept. Go on with: {command}", style="yellow")
        if self.as_json:
            print_json(
                {
                    "run_id": run_id,
                    "status": "interrupted",
                    "resume": command,
                    "exit_code": int(ExitCode.INTERRUPTED),
                }
            )
        return ExitCode.INTERRUPTED

    def _asking(self, request: Mapping[str, Any], run: RunRecord) -> int:
        if self.as_json:
            print_json(
                {
                    "run_id": run.run_id,
                    "workflow_id": run.workflow_id,
                    "status": "awaiting_approval",
                    "request": request,
                    "exit_code": int(ExitCode.OK),
                }
            )
        else:
            from orcheo_agentensor.cli.reports import show_request

            show_request(request, store=store_option(self.store_url))
        return ExitCode.OK


def _diff(found: Mapping[str, Any]) -> str:
    from orcheo_agentensor.training.decide import prompt_diff

    before, after = (
        {name: prompt["text"] for name, prompt in found[which]["prompts"].items()}
        for which in ("baseline", "best")
    )
    return prompt_diff(before, after)
