"""Printing: results to stdout, all else to stderr; printed text is never read as markup."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orcheo_agentensor.display import clean, clean_json, money, number, rich_table
from orcheo_agentensor.errors import BadInput
from orcheo_agentensor.logs import logs_json

if TYPE_CHECKING:
    from rich.console import Console

_log = logging.getLogger(__name__)
_PLAIN_WIDTH = 120


@lru_cache(maxsize=2)
def console(*, stderr: bool = False) -> Console:
    """The console for stdout or stderr; it follows redirections."""
    from rich.console import Console

    made = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _PLAIN_WIDTH
    return made


def say(text: str, *, style: str | None = None) -> None:
    """A line for the user, on stderr; in the log, where that is in JSON."""
    if logs_json():
        _log.log(logging.ERROR if style == "red" else logging.INFO, "%s", text)
        return
    console(stderr=True).print(clean(text), style=style, soft_wrap=True)


def show(text: str = "", *, style: str | None = None) -> None:
    """A line of a result, on stdout."""
    console().print(clean(text), style=style, soft_wrap=True)


def as_yaml(document: Mapping[str, Any]) -> str:
    """A document in YAML, with texts of several lines as blocks."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Texts of several lines as blocks."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump(dict(document), Dumper=Dumper, allow_unicode=True, sort_keys=False)


def print_json(document: Any) -> None:
    """One JSON document on stdout; finite numbers only."""
    text = clean_json(document) + "\n"
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:  # an output that cannot take every character
        sys.stdout.write(json.dumps(json.loads(text), indent=2) + "\n")


def require_new(path: Path | None, *, force: bool) -> None:
    """Refuse to write over a file, unless that is wanted."""
    if path is not None and path.exists() and not force:
        raise BadInput(f"{path} exists; --force writes over it", field="--output", value=str(path))


def write_whole(path: Path, parts: Iterable[str]) -> None:
    """Write a file that appears when it is complete."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            written = Path(folder) / path.name
            with written.open("w", encoding="utf-8") as file:
                file.writelines(parts)
            written.replace(path)
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be written ({error.strerror})", field="--output", value=str(path)
        ) from None
    say(f"{path} is written")


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table to stdout; columns named with a leading `>` are aligned to the right."""
    console().print(rich_table(columns, rows))


def show_diff(diff: str) -> None:
    """Print a unified diff to stdout, in colours on a terminal."""
    for line in diff.splitlines():
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        show(line, style="bold" if line.startswith(("+++", "---")) else style)


def show_next(*commands: str) -> None:
    """Suggest what to run next."""
    show("Next:")
    for command in commands:
        show(f"  {command}", style="cyan")


def show_plan(plan: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what a job would run, as `execution.describe` gives it."""
    if as_json:
        print_json({"dry_run": True, **plan, "exit_code": 0})
        return
    show(f"target     {plan['target']} (workflow {plan['workflow_id']!r})")
    dataset = plan["dataset"]
    times = f", each run {plan['replicates']} times" if plan["replicates"] > 1 else ""
    show(f"dataset    {dataset['id']} {dataset['version'][:12]}, {dataset['cases']} cases{times}")
    if dataset["splits"]:
        show(f"splits     {_listed(dataset['splits'])}")
    prompts = [
        name if prompt["requires_grad"] else f"{name} (frozen)"
        for name, prompt in plan["prompts"].items()
    ]
    start = f", from version {plan['base_version']}" if plan["base_version"] else ""
    show(f"prompts    {', '.join(prompts) or 'none'}{start}")
    for name, prompt in plan["prompts"].items():
        if prompt.get("bind"):
            show(f"           {name} binds to {prompt['bind']}")
        elif name in plan["unnamed_prompts"]:
            offered = f"; the target offers: {', '.join(plan['bind_places'])}"
            show(
                f"           {name} binds nowhere, and nothing in the target names it: read it by "
                f"get_prompt({name!r}), or give it a `bind`{offered * bool(plan['bind_places'])}"
            )
        else:
            show(f"           {name} is read by its name")
    show(f"limits     {_listed(plan['limits'])}")
    if "training" not in plan:
        judged = len(plan["evaluators"])
        show(f"runs       {plan['rollouts']} rollouts, each scored by {judged} evaluators")
    if training := plan.get("training"):
        computed = "" if training["budget_given"] else " (computed)"
        show(f"optimizer  {training['optimizer']['name']}, seed {plan['seed']}")
        show(f"budget     {_listed(training['budget'])}{computed}")
        if folds := training["folds"]:
            show(f"folds      {folds}, each with a training of its own and as large a budget")
        show(f"uses       {_listed(training['cases'])}")
        show(f"objective  {_listed(training['objective'])}")
        show(f"versions   {version_sentence(training['checkpoints'])}")
    rows = [(e["name"], f"{e['weight']:g}", e["binding"]) for e in plan["evaluators"]]
    show_table(("evaluator", ">weight", "bound as"), rows)
    show(f"expected   {_expected(plan['expected'], at_most='training' in plan)}")
    for warning in plan["warnings"]:
        show(f"warning: {warning}")
    show("dry run: nothing was written")


def _expected(found: Mapping[str, Any], *, at_most: bool) -> str:
    """What a job is to cost, as far as an earlier run tells."""
    rollouts = "no limit of" if found["rollouts"] is None else found["rollouts"]
    text = f"{'at most ' if at_most and found['rollouts'] is not None else ''}{rollouts} rollouts"
    if found["by"] is None:
        return f"{text}; calls, tokens and price are not known before a first run"
    tokens = "tokens unknown" if found["tokens"] is None else f"{found['tokens']} tokens"
    return (
        f"{text}, about {found['calls']} model calls, {tokens}, {money(found['cost'])}, "
        f"as run {found['by']} took; what is recorded already costs nothing again"
    )


def version_sentence(plan: Mapping[str, Any]) -> str:
    """When a training stores versions, and what those at intervals take."""
    if plan["every"] is None:
        return "of the baseline and each new best, which takes no rollouts of its own"
    most = "" if plan["rollouts_at_most"] is None else f", {plan['rollouts_at_most']} in all"
    return (
        f"of the baseline, each new best, and what the search stands at after every "
        f"{plan['every']} steps: at most {plan['rollouts_each']} rollouts each{most}"
    )


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def show_metadata(metadata: Mapping[str, Any] | None) -> None:
    """Print what describes a dataset, an entry a line."""
    for name, value in (metadata or {}).items():
        plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines = plain.splitlines() or [""]
        show(f"{name:<10} {lines[0]}")
        for line in lines[1:]:
            show(f"{'':<10} {line}")


def show_manifest(manifest: Mapping[str, Any]) -> None:
    """Print the main lines of a manifest; nothing of an empty one."""
    if not manifest:
        return
    dataset, target = manifest["dataset"], manifest["target"]
    if dataset is not None:
        show_metadata(dataset["metadata"])
    live = " (given in process)" if target["object"] else ""
    show(f"target     {target['name']}{live}")
    if training := manifest["training"]:
        show(f"optimizer  {training['optimizer']['name']}")
        proposer = training["proposer"]
        models = [str(model["name"]) for model in proposer["models"]]
        by = f" by {', '.join(models)}" if models else ""
        show(f"proposer   {proposer['object']['type']}{by}")
    if names := [one["name"] for one in manifest["evaluators"]]:
        show(f"evaluators {', '.join(names)}")
    if found := manifest["environment"]:
        show(f"python     {found['python']} on {found['platform']}")
        show(f"packages   {_listed(found['packages'])}")
        if git := found["git"]:
            show(f"commit     {git['commit'][:12]}{', with changes' if git['dirty'] else ''}")
    if manifest["rerun_of"]:
        show(f"rerun of   {manifest['rerun_of']}")


def show_run_diff(found: Mapping[str, Any]) -> None:
    """Print what differs between two runs."""
    before, after = found["before"], found["after"]
    columns = ("differs", before, after)
    entries = [*found["manifest"], *(found.get("results") or ())]
    if entries:
        show_table(columns, [(one["path"], *map(_brief, _ends(one))) for one in entries])
    if not found["manifest"]:
        show("both were made of the same parts")
    if "note" in found:
        show(found["note"])
    if cases := found.get("cases"):
        changed = {*cases["other_outputs"], *cases["other_scores"]}
        if not found["results"] and not changed:
            show(f"the results are the same; {cases['compared']} rollouts were compared")
            return
        show(f"{cases['compared']} rollouts were compared")
        for name in ("outputs", "scores"):
            if ids := cases[f"other_{name}"]:
                more = ", …" if len(ids) > _CASES_SHOWN else ""
                show(f"other {name} on {len(ids)} cases: {', '.join(ids[:_CASES_SHOWN])}{more}")


_CASES_SHOWN = 10


def _ends(difference: Mapping[str, Any]) -> tuple[Any, Any]:
    return difference["before"], difference["after"]


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "-" if value is None else text if len(text) <= 60 else f"{text[:59]}…"


def show_evaluators(summary: Mapping[str, Any]) -> None:
    """Print the table of evaluators with the objective."""
    from orcheo_agentensor.evaluation.api import SCORE_COLUMNS, score_table

    show_table(SCORE_COLUMNS, score_table(summary))


def show_measures(summary: Mapping[str, Any], usage: Mapping[str, Any] | None = None) -> None:
    """Print coverage, failures, latency, tokens and cost."""
    from orcheo_agentensor.evaluation.api import measures

    for line in measures(summary, usage):
        show(line)


def show_evaluation(
    found: Mapping[str, Any], gates: Sequence[Mapping[str, Any]], *, store: str
) -> None:
    """Print the result of an evaluation."""
    summary, run_id = found["summary"], found["run_id"]
    show_evaluators(summary)
    show_measures(summary, found["usage"])
    _show_missed(found["summary"])
    for gate in gates:
        met, value = gate["met"], number(gate["value"])
        text = f"{gate['name']} {value}, at least {gate['minimum']:g} wanted"
        show(f"{'met' if met else 'missed'}: {text}", style="green" if met else "red")
    show(f"run {run_id}")
    rates = [entry["pass_rate"] for entry in summary["evaluators"].values()]
    failed = summary["n_target_failed"] + summary["n_evaluator_failed"]
    failed = failed or any(rate is not None and rate < 1 for rate in rates)
    more = [f"agentensor runs show {run_id} --failed{store}"] if failed else []
    show_next(f"agentensor runs show {run_id} --cases{store}", *more)


def _show_missed(summary: Mapping[str, Any]) -> None:
    for missed in summary.get("missed", ()):
        show(f"missed: {missed}", style="red")


def show_training(found: Mapping[str, Any], *, job: str | None, store: str) -> None:
    """Print the result of a training; `job` is the job file, for a suggested command."""
    from orcheo_agentensor.training.api import COMPARISON_COLUMNS, comparison_table
    from orcheo_agentensor.training.objective import front_lines

    baseline, best, holdout = found["baseline"], found["best"], found["holdout"]
    show_table(COMPARISON_COLUMNS, comparison_table(baseline, best, holdout))
    show_gain(holdout)
    decision = found["decision"]
    for split, goal in decision["target_gain"]["by_split"].items():
        if goal["met"] is None:
            continue
        met = "met" if goal["met"] else "missed"
        cases = f", {goal['n']} of {goal['cases']} cases" if "n" in goal else ""
        ends = f"{number(goal['baseline'])} to {number(goal['best'])}"
        show(f"goal of {goal['gain']:+.0%} on {split}: {met} ({ends}{cases})")
    show_measures(found["summary"], found["usage"])
    if decision.get("stopped"):
        show(f"stopped: {decision['stopped']}")
    _show_missed(found["summary"])
    status, workflow_id = decision["status"], found["workflow_id"]
    colour = {"promoted": "green", "rejected": "red"}.get(status, "yellow")
    show(f"decision: {status}", style=colour)
    for line in front_lines(decision.get("objective", {})):
        show(line)
    _show_reasons(decision["reasons"], found["diff"])
    first, last = baseline["config_version"], best["config_version"]
    show(f"stored: workflow {workflow_id!r}, version {last}; run {found['run_id']}")
    commands = [f"show {workflow_id} {last}"]
    if first != last:
        commands.append(f"diff {workflow_id} {first} {last}")
        if status == "promoted":
            commands.append(f"show {workflow_id} production")
        elif status == "kept":
            commands.append(f"promote {workflow_id} {last} --alias production")
    commands = [f"agentensor checkpoints {command}{store}" for command in commands]
    if job is not None:
        split = " --split holdout" if holdout is not None else ""
        commands.append(f"agentensor evaluate {job} --checkpoint {last}{split}{store}")
    show_next(*commands)


def _show_reasons(reasons: Iterable[str], diff: str) -> None:
    for reason in reasons:
        show(f"  - {reason}")
    if diff:
        show()
        show_diff(diff)
        show()


def show_gain(holdout: Mapping[str, Any] | None) -> None:
    """Print the gain on held-out cases, in a sentence."""
    from orcheo_agentensor.training.api import gain_sentence

    show(gain_sentence(holdout), style="yellow" if holdout is None else None)


def show_request(request: Mapping[str, Any], *, store: str) -> None:
    """Print the question of a training that waits for approval, and how to answer it."""
    if "problem" in request:
        show(request["problem"], style="red")
    show(request["question"], style="bold")
    show_gain(request["holdout"])
    _show_reasons(request["reasons"], request["diff"])
    run_id = request["run_id"]
    show_next(
        f'agentensor resume {run_id} --approve --reason "…"{store}',
        f'agentensor resume {run_id} --reject --reason "…"{store}',
    )
