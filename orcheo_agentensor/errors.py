"""Every error this package raises, drawn as one tree.

    AgentensorError
    |- BadInput                  the caller can correct it: CLI exit 2, HTTP 422
    |  |- ConfigError            a run config or a job field breaks a rule
    |  |- TemplateError          a `{{reference}}` leads nowhere
    |  |- PromptNotFound         a name that no prompt has
    |  |- DatasetError           a case or a dataset file breaks a rule
    |  |- EvaluatorRefused       an evaluator whose form is not recognised
    |  |- EntrypointNotAllowed   a "module:attribute" outside the allowlist
    |  |- EntrypointNotFound     an allowed "module:attribute" that does not import
    |  |- RunMismatch            a run id reused with another job
    |  |- BudgetTooSmall         a budget that cannot pay for the job's fixed part
    |  |- TargetRefused          a remote server will not run the target for us
    |  `- MissingExtra           an optional dependency is not installed
    |- NotFound                  no such run, version, alias or dataset: exit 2, HTTP 404
    |- Forbidden                 the caller may not do this: HTTP 403
    |- StoreError                the side store cannot be used as it is
    |  |- StoreTooNew            written by a newer release
    |  |- StoreOutdated          needs `agentensor db upgrade`
    |  `- StoreVanished          its file was deleted or replaced under a run
    |- RunFailed                 a run could not go on: exit 3
    |- RunPaused                 calls fail one after the other: exit 130, resumable
    |  `- TargetUnavailable      a remote target's server has gone
    |- RunAlreadyActive          another process holds the run's lease: exit 3, HTTP 409
    |- LeaseLost                 this process lost the lease while working
    |- BudgetExhausted           nothing left to reserve; ends a search in good order
    `- AliasConflict             a compare-and-swap on an alias failed: HTTP 409

The first sentence of a class is its message where none is given.
"""

from __future__ import annotations

import importlib.util
from reprlib import Repr
from typing import Any

from orcheo_agentensor.redaction import redact

_SHOWN = 120


class _Brief(Repr):
    """Never fails: some integers are too long for Python to write out, and objects may break."""

    def repr1(self, x: Any, level: int) -> str:
        if type(x) is int and x.bit_length() > 1_000:
            return f"<an integer of {x.bit_length():,} bits>"
        try:
            return super().repr1(x, level)
        except Exception:  # noqa: BLE001 - whatever a value's own repr raises
            return f"<{type(x).__name__}>"


_brief = _Brief()
_brief.maxstring = _brief.maxother = _brief.maxlong = 2 * _SHOWN
_brief.maxdict = _brief.maxlist = _brief.maxtuple = _brief.maxset = 8
_brief.maxlevel = 4


def shorten(value: object, limit: int = _SHOWN) -> str:
    """`repr(value)`, cut to `limit` characters, for use in messages; bounded work for any value."""
    text = _brief.repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


class AgentensorError(RuntimeError):
    """Something in orcheo-agentensor went wrong.

    A `RuntimeError`, because a LangGraph server shows clients the messages of built-in kinds alone.

    Args:
        message: What a user reads; the first sentence of the class where it is left out.

    Example:
        >>> from orcheo_agentensor import AgentensorError, Dataset
        >>> try:
        ...     Dataset.from_cases([])
        ... except AgentensorError as error:
        ...     print(error.message)
        inline: the dataset holds no case
    """

    def __init__(self, message: str | None = None) -> None:
        told = (type(self).__doc__ or type(self).__name__).strip()
        super().__init__(redact(message) if message else told.partition("\n\n")[0])

    @property
    def message(self) -> str:
        """The text a user reads."""
        return str(self.args[0])


class BadInput(AgentensorError):
    """Input was refused.

    What it carries lets servers list problems without parsing prose.

    Args:
        message: What a user reads; made of the others where it is left out.
        field: A dotted path to what was refused.
        value: What was found there.
        rule: The rule that it breaks.

    Example:
        >>> from orcheo_agentensor import BadInput, Case
        >>> try:
        ...     Case(inputs=float("nan"))
        ... except BadInput as error:
        ...     print(error.field, error.value, error.rule)
        inputs nan is not a finite number
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        field: str | None = None,
        value: Any = None,
        rule: str | None = None,
    ) -> None:
        if message is None and field is not None and rule is not None:
            message = f"{field}: {shorten(redact(value))} {rule}"
        super().__init__(message)
        self.field = field
        self.value = redact(value)
        self.rule = rule


class ConfigError(BadInput):
    """A run config or job field breaks a rule. `problems` lists every one found."""

    def __init__(
        self,
        message: str | None = None,
        *,
        field: str | None = None,
        value: Any = None,
        rule: str | None = None,
        problems: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(message, field=field, value=value, rule=rule)
        self.problems = redact(problems) or [
            {"field": field, "value": shorten(self.value), "rule": rule}
        ]


def problems_of(error: BadInput) -> list[dict[str, Any]]:
    """The problems that an error tells of, each as `{"field", "value", "rule"}`."""
    if isinstance(error, ConfigError):
        return error.problems
    if error.field is None:
        return []
    rule = error.rule or error.message
    return [{"field": error.field, "value": shorten(error.value), "rule": rule}]


class TemplateError(BadInput):
    """A template reference leads nowhere."""


class PromptNotFound(BadInput):
    """No prompt has that name."""


class DatasetError(BadInput):
    """A dataset breaks a rule."""


class EvaluatorRefused(BadInput):
    """An evaluator's form is not recognised."""


class EntrypointNotAllowed(BadInput):
    """An entry point is outside the allowlist; add its module to AGENTENSOR_ALLOWED_MODULES."""


class EntrypointNotFound(BadInput):
    """An allowed entry point could not be imported."""


class RunMismatch(BadInput):
    """This run id belongs to another job; choose a new run id, or resume the old job."""


class BudgetTooSmall(BadInput):
    """The budget cannot pay for the parts of the job that are fixed."""


class TargetRefused(BadInput):
    """The remote server refuses the target: unknown, or not for this key."""


class MissingExtra(BadInput, ImportError):
    """An optional dependency is missing."""

    def __init__(self, package: str, *, extra: str) -> None:
        super().__init__(
            f"{package!r} is not installed; install it with: "
            f"pip install 'orcheo-agentensor[{extra}]'",
            field="extra",
            value=extra,
            rule="must be installed",
        )


def require_extra(extra: str, *packages: str) -> None:
    """Raise `MissingExtra` unless the packages of an optional dependency are installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, extra=extra)


class NotFound(AgentensorError):
    """Nothing has that id."""

    value: Any = None
    """What was asked for, where the message may say more than a caller should know."""


class Forbidden(AgentensorError):
    """The caller may not do this."""


class StoreError(AgentensorError):
    """The side store cannot be used."""


class StoreTooNew(StoreError):
    """The database was written by a newer release; upgrade orcheo-agentensor."""


class StoreOutdated(StoreError):
    """The database schema is older than this release; run: agentensor db upgrade."""


class StoreVanished(StoreError):
    """The database's file was deleted or replaced while it was in use."""


class RunFailed(AgentensorError):
    """The run could not go on."""


class RunPaused(AgentensorError):
    """The run was paused; what is recorded is kept, and it can be resumed."""


class TargetUnavailable(RunPaused):
    """No server of the remote target answers; the run is kept and can be resumed."""


class ExportFailed(AgentensorError):
    """A run could not be sent to another service; what was sent stays, and sending it again adds
    nothing twice."""


class RunAlreadyActive(AgentensorError):
    """Another process is working on this run; wait for it to end, or stop it first.

    `owner` holds the run's lease, which `expires` (seconds since the epoch) unless it is renewed.
    """

    def __init__(
        self, message: str | None = None, *, owner: str = "", expires: float = 0.0
    ) -> None:
        super().__init__(message)
        self.owner = owner
        self.expires = expires


class LeaseLost(AgentensorError):
    """Another process took this run over; this one has stopped writing."""


class BudgetExhausted(AgentensorError):
    """The budget is spent."""


class NoReply(RuntimeError):
    """A model was called and gave no message: its answer has none, or none that can be read."""


class AliasConflict(AgentensorError):
    """The alias points to another version than expected; look again and retry."""


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed: a lost connection, or a service that is busy or down.

    Other exceptions are about the work and the case, and would be raised again.
    """
    status = status_of(error)
    if status is not None:
        return status in (408, 409, 425, 429) or status >= 500
    return any(
        isinstance(cause, ConnectionError)
        or any(base.__name__ in _LOST_CONNECTIONS for base in type(cause).__mro__)
        for cause in causes(error)
    )


_LOST_CONNECTIONS = frozenset(
    {
        "TransportError",  # httpx
        "APIConnectionError",  # openai, anthropic and others; their timeouts derive from it
        "ModelConnectionError",  # langchain-core
        "ModelTimeoutError",
        "ClientConnectionError",  # aiohttp
    }
)
"""The names of exceptions that clients raise where a connection is lost or never made."""


LOCKED_OUT = (401, 402, 403, 404)
"""The HTTP statuses that no prompt can mend: a wrong key, an empty account, an unknown model."""


REFUSED = (429, 503)
"""The HTTP statuses of a server that did no work: an execution that ended so did not take place."""


class ExitAttempted(RuntimeError):
    """Users' code raised what would have ended the process: the cause of this error."""


def causes(error: BaseException) -> list[BaseException]:
    """An error and what it was raised from, down to its innermost cause.

    A group stands for the first of its exceptions that is not transient, or else the first.
    """
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        if isinstance(at, BaseExceptionGroup):
            lasting = (one for one in at.exceptions if not is_transient(one))
            at = next(lasting, at.exceptions[0])
        else:
            at = at.__cause__
    return found


def describe(error: BaseException) -> str:
    """An error in words: its innermost cause, and as what it was raised."""
    unnamed = (BaseExceptionGroup, ExitAttempted)  # they stand for what is in them
    told = [_named(one) for one in causes(error) if not isinstance(one, unnamed)]
    outer, inner = told[0], told[-1]
    return inner if inner == outer else f"{inner} (raised as {outer})"


def _named(error: BaseException) -> str:
    try:
        text = str(error)
    except (Exception, SystemExit) as broken:  # noqa: BLE001 - code of whoever made that error
        text = f"(its text cannot be told: {type(broken).__name__})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def client_retries(error: BaseException) -> int:
    """How often the client that raised had tried again by itself: OpenAI's, Anthropic's and those
    made like them say so in a header of their request."""
    for cause in causes(error):
        for holder in (cause, getattr(cause, "response", None)):
            try:
                headers: Any = getattr(getattr(holder, "request", None), "headers", None) or {}
                return int(headers["x-stainless-retry-count"])
            except (KeyError, ValueError, TypeError, RuntimeError):
                continue
    return 0


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error or one of its causes carries."""
    for cause in causes(error):
        status = getattr(cause, "status_code", None)
        if status is None:
            status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None
