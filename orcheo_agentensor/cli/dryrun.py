"""What `--dry-run` shows: everything a job resolves to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orcheo_agentensor.cli.output import print_json, show, show_table

if TYPE_CHECKING:
    from orcheo_agentensor.evaluation.resolve import Prepared


def show_plan(prepared: Prepared[Any], *, as_json: bool) -> None:
    """Print what would run."""
    plan = describe(prepared)
    if as_json:
        print_json({"dry_run": True, **plan, "exit_code": 0})
        return
    dataset = plan["dataset"]
    splits = ", ".join(f"{name} {count}" for name, count in dataset["splits"].items())
    show(f"target     {plan['target']} (workflow {plan['workflow_id']!r})")
    times = f", each run {plan['replicates']} times" if plan["replicates"] > 1 else ""
    show(f"dataset    {dataset['id']} {dataset['version'][:12]}, {dataset['cases']} cases{times}")
    if splits:
        show(f"splits     {splits}")
    prompts = [
        name if prompt["requires_grad"] else f"{name} (frozen)"
        for name, prompt in plan["prompts"].items()
    ]
    start = f", from version {plan['base_version']}" if plan["base_version"] else ""
    show(f"prompts    {', '.join(prompts) or 'none'}{start}")
    show(f"limits     {', '.join(f'{key} {value}' for key, value in plan['limits'].items())}")
    if training := plan.get("training"):
        computed = "" if training["budget_given"] else " (computed)"
        budget = ", ".join(f"{key} {value}" for key, value in training["budget"].items())
        show(f"optimizer  {training['optimizer']['name']}, seed {training['seed']}")
        show(f"budget     {budget}{computed}")
        show(f"uses       {', '.join(f'{k} {v}' for k, v in training['cases'].items())}")
    rows = [(e["name"], f"{e['weight']:g}", e["binding"]) for e in plan["evaluators"]]
    show_table(("evaluator", ">weight", "bound as"), rows)
    show("dry run: nothing was written")


def describe(prepared: Prepared[Any]) -> dict[str, Any]:
    """A checked job as JSON."""
    from orcheo_agentensor.tensor import prompts_to_json

    job, dataset, extra = prepared.job, prepared.dataset, prepared.extra
    plan: dict[str, Any] = {
        "mode": prepared.run.mode,
        "run_id": job.run_id,
        "workflow_id": prepared.run.workflow_id,
        "target": prepared.target.name,
        "dataset": {
            "id": dataset.id,
            "version": dataset.version,
            "cases": len(dataset),
            "splits": dataset.splits(),
        },
        "evaluators": [
            {"name": e.name, "weight": e.weight, "binding": e.binding} for e in prepared.evaluators
        ],
        "prompts": prompts_to_json(prepared.prompts),
        "base_version": prepared.base,
        "config": prepared.config.to_json(),
        "limits": job.limits.model_dump(exclude_none=True),
        "min_coverage": job.min_coverage,
        "replicates": job.replicates,
    }
    if extra is not None:
        from orcheo_agentensor.training.plan import describe as describe_optimizer

        plan["training"] = {
            "optimizer": describe_optimizer(extra.optimizer),
            "budget": extra.budget.model_dump(exclude_none=True),
            "budget_given": extra.budget_given,
            "cases": {
                "train": len(extra.train),
                "validation": len(extra.validation),
                "holdout": len(extra.holdout),
                "left_out": extra.left_out,
                "leaked": extra.leaked,
            },
            "trainable": list(extra.trainable),
            "promote": job.promote,
            "seed": job.seed,
        }
    return plan
