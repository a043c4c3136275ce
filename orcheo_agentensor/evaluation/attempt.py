"""One execution of a target: timed, counted, taped, and its trouble turned into a value."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from orcheo_agentensor.errors import (
    BadInput,
    PromptNotFound,
    TargetRefused,
    TargetUnavailable,
    TemplateError,
    is_transient,
    status_of,
)
from orcheo_agentensor.evaluation.deadlines import TimeLimits
from orcheo_agentensor.json_values import private_copy
from orcheo_agentensor.metering import UsageRecorder
from orcheo_agentensor.tape import prompts_in, record_tape
from orcheo_agentensor.targets import Target
from orcheo_agentensor.targets.output import to_json_output

MOST_RETRY_AFTER = 60.0  # seconds; whoever asks for longer is asked again before


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution: its output or failure. A `transient` failure is worth another attempt, in
    `retry_after` seconds where a server has said so; `lost` says that the connection was lost."""

    output: Any
    tape: dict[str, Any] | None
    failure: dict[str, Any] | None
    transient: bool
    latency_ms: float
    retry_after: float = 0.0
    lost: bool = False


async def execute(
    target: Target,
    inputs: Any,
    config: dict[str, Any],
    *,
    rollout_id: str,
    limits: TimeLimits,
    taped: bool,
    recorder: UsageRecorder,
) -> Attempt:
    """Run `target` once, on a copy of `inputs` that it may change; whatever goes wrong in it comes
    back as the attempt's failure.

    `recorder` knows afterwards, whatever happens, what its model calls took. Raises what is the
    job's trouble and not the case's, because every other case would fail in the same way:
    `PromptNotFound`, `TemplateError`, `TargetRefused`, `TargetUnavailable`. Raises
    `BudgetExhausted` where a model call was refused, even if the target went on without it.
    """
    inputs = private_copy(inputs)
    output, tape, failure, transient = None, None, None, False
    after, lost = 0.0, False
    with recorder:
        started = time.perf_counter()
        try:
            with limits.begin() as limit:
                if taped:
                    with record_tape(target.edges, prompts=prompts_in(config)) as recorded:
                        try:
                            raw = await target.run(inputs, config, rollout_id=rollout_id)  # type: ignore[arg-type]
                        finally:  # a failure teaches those who had a part in it
                            tape = recorded.to_json()
                else:
                    raw = await target.run(inputs, config, rollout_id=rollout_id)  # type: ignore[arg-type]
            latency = time.perf_counter() - started
            output = to_json_output(raw)
        except TimeoutError as error:
            latency = time.perf_counter() - started
            transient = True
            late = limit.expired
            reason = f"no answer within {limits.seconds:g} s" if late else _reason(error)
            failure = {"kind": "timeout" if late else "exception", "reason": reason}
        except asyncio.CancelledError as error:
            latency = time.perf_counter() - started
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            failure = {"kind": "exception", "reason": _reason(error)}  # the target's own doing
        except (PromptNotFound, TemplateError, TargetRefused, TargetUnavailable):
            raise
        except BadInput as error:
            latency = time.perf_counter() - started
            kind = "not_json" if "output" in error.message else "exception"
            failure = {"kind": kind, "reason": error.message}
        except Exception as error:  # noqa: BLE001 - any trouble of the target is its failure
            latency = time.perf_counter() - started
            transient = is_transient(error)
            lost = transient and status_of(error) is None
            after = retry_after(error)
            failure = {"kind": "exception", "reason": _reason(error)}
    if recorder.refused is not None:
        raise recorder.refused
    return Attempt(
        output=output,
        tape=tape,
        failure=failure,
        transient=transient,
        latency_ms=latency * 1000.0,
        retry_after=after,
        lost=lost,
    )


def retry_after(error: BaseException) -> float:
    """The seconds that a server asks to wait for: `Retry-After`, in seconds or as a date.

    At most `MOST_RETRY_AFTER`; 0.0 where it asks for nothing.
    """
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    asked = str(headers.get("retry-after") or "").strip()
    if not asked:
        return 0.0
    try:
        seconds = float(asked)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(asked).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(seconds, 0.0), MOST_RETRY_AFTER) if math.isfinite(seconds) else 0.0


def _reason(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
