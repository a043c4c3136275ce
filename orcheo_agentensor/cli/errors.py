"""Exit codes, error messages, and the decorator that makes a function a command."""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Callable
from enum import IntEnum
from typing import Any, ParamSpec

import typer

from orcheo_agentensor.cli.output import print_json, say
from orcheo_agentensor.errors import (
    AgentensorError,
    AliasConflict,
    BadInput,
    NotFound,
    RunPaused,
    StoreError,
    shorten,
)
from orcheo_agentensor.logs import configure_logging

P = ParamSpec("P")

DEBUG = "AGENTENSOR_DEBUG"
LOG_FORMAT = "AGENTENSOR_LOG_FORMAT"


class ExitCode(IntEnum):
    """The exit codes of a command."""

    OK = 0
    THRESHOLD = 1
    BAD_INPUT = 2
    FAILED = 3
    INTERRUPTED = 130


EXIT_CODES = (
    "Exit codes: 0 fine, 1 a threshold was missed, 2 bad input, 3 the run failed, "
    "130 interrupted and resumable."
)


class ThresholdMissed(AgentensorError):
    """A version is not promoted because its measurements speak against it."""


def exit_code(error: BaseException) -> ExitCode:
    """The exit code for an error."""
    if isinstance(error, KeyboardInterrupt | RunPaused):
        return ExitCode.INTERRUPTED
    if isinstance(error, ThresholdMissed):
        return ExitCode.THRESHOLD
    if isinstance(error, BadInput | NotFound | StoreError | AliasConflict):
        return ExitCode.BAD_INPUT
    return ExitCode.FAILED


def message_of(error: BaseException) -> str:
    """The message that a user reads about an error."""
    problems: list[dict[str, Any]] = getattr(error, "problems", [])
    if len(problems) > 1 and isinstance(error, AgentensorError) and "\n" not in error.message:
        lines = [f"{entry['field']}: {entry['value']} {entry['rule']}" for entry in problems]
        return "\n  ".join([f"{len(problems)} problems:", *lines])
    if isinstance(error, AgentensorError):
        return error.message
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return (
        f"internal error: {type(error).__name__}: {error} "
        f"(set {DEBUG}=1 to see where it comes from)"
    )


def error_json(error: BaseException) -> dict[str, Any]:
    """An error as `--json` prints it."""
    found: dict[str, Any] = {"type": type(error).__name__, "message": message_of(error)}
    if isinstance(error, BadInput) and error.field is not None:
        found |= {"field": error.field, "value": shorten(error.value), "rule": error.rule}
    if problems := getattr(error, "problems", None):
        found["problems"] = problems
    return found


def report_error(error: BaseException, *, as_json: bool) -> ExitCode:
    """Print an error to stderr (and to stdout with `--json`); returns the exit code."""
    code = exit_code(error)
    if os.environ.get(DEBUG, "") not in ("", "0"):
        say("".join(traceback.format_exception(error)).rstrip())
    kind = f"{type(error).__name__}: " if isinstance(error, AgentensorError) else ""
    say(f"error: {kind}{message_of(error)}", style="red")
    if as_json:
        print_json({"error": error_json(error), "exit_code": int(code)})
    return code


def command(app: typer.Typer, name: str) -> Callable[[Callable[P, int | None]], Callable[P, None]]:
    """Make a function the command `name` of `app`; its errors become messages, never a traceback.

    The function returns the exit code, or None for 0.
    """

    def decorate(function: Callable[P, int | None]) -> Callable[P, None]:
        @app.command(name, epilog=EXIT_CODES)
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            # Before the settings are read, whose errors belong into the log as well.
            json_logs = os.environ.get(LOG_FORMAT, "").strip().lower() == "json"
            configure_logging("json" if json_logs else "text")
            try:
                code = function(*args, **kwargs)
            except (typer.Exit, typer.Abort, BrokenPipeError):
                raise
            except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - told to the user
                code = report_error(error, as_json=bool(kwargs.get("as_json")))
            if code:
                raise typer.Exit(int(code))

        return run

    return decorate
