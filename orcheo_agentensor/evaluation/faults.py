"""Everything that is wrong with a job, said at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orcheo_agentensor.callers import Caller
from orcheo_agentensor.errors import BadInput, ConfigError, problems_of
from orcheo_agentensor.evaluation.job import Job
from orcheo_agentensor.evaluation.resolve import Resolver


async def with_all_others(
    first: BadInput,
    data: Mapping[str, Any],
    *,
    job_model: type[Job],
    resolver: Resolver[Any],
    caller: Caller,
) -> BadInput:
    """`first`, and what else is wrong with the parts of a job, each looked at by itself."""
    found = _told(first)
    parts = [str(problem["field"]).split(".") for problem in found]
    said = {part[1] for part in parts if part[0] == "job" and len(part) > 1}
    if caller.identity is not None and not isinstance(data.get("dataset"), list):
        said.add("dataset")  # what is not the caller's tells nothing of itself
    others: list[BadInput] = []
    try:
        job = job_model.parse({key: value for key, value in data.items() if key not in said})
        others += await resolver.faults(job)
    except BadInput as error:
        others.append(error)
    for problem in [problem for other in others for problem in _told(other)]:
        part = str(problem["field"]).removeprefix("job.").split(".")[0]
        if part not in said and problem not in found:
            found.append(problem)
    if found == _told(first):
        return first
    lines = [f"{p['field']}: {p['value']} {p['rule']}" for p in found]
    text = f"{len(found)} problems in the job:\n  " + "\n  ".join(lines)
    return ConfigError(text, problems=found)


def _told(error: BadInput) -> list[dict[str, Any]]:
    return problems_of(error) or [{"field": "job", "value": None, "rule": error.message}]
