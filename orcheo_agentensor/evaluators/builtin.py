"""What built-in evaluators have in common, and those of texts, numbers, latency and services."""

from __future__ import annotations

import asyncio
import json
import math
import re
import ssl
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import cache, cached_property
from typing import Any, ClassVar, Final, Literal, Self

from pydantic import ConfigDict, Field, PrivateAttr, field_validator, model_validator

from orcheo_agentensor.errors import EvaluatorRefused, shorten
from orcheo_agentensor.evaluators.context import (
    EvaluationResult,
    EvaluatorContext,
    EvaluatorFailure,
    Outcome,
    as_text,
)
from orcheo_agentensor.evaluators.patterns import QUICK_PROGRAM, LinearPattern
from orcheo_agentensor.json_values import StrictNumbers
from orcheo_agentensor.media import text_of_blocks
from orcheo_agentensor.settings import Settings, check_plain_url, host_of, is_allowed

MISSING: Final = object()
"""What `pick` gives where a path leads nowhere."""


def pick(value: Any, keys: Sequence[str]) -> Any:
    """The part of a JSON value at `keys` (list indexes may be negative), or `MISSING`."""
    for key in keys:
        if isinstance(value, dict):
            if key not in value:
                return MISSING
            value = value[key]
        elif isinstance(value, list):
            try:
                value = value[int(key)]
            except (ValueError, IndexError):
                return MISSING
        else:
            return MISSING
    return value


def same(left: Any, right: Any) -> bool:
    """Equality of JSON values: `1` equals `1.0`, but `true` does not equal `1`."""
    if left != right:
        return False
    if isinstance(left, dict):
        return all(same(item, right[key]) for key, item in left.items())
    if isinstance(left, list):
        return all(same(a, b) for a, b in zip(left, right, strict=True))
    return (left is True or left is False) == (right is True or right is False)


class Builtin(StrictNumbers):
    """A built-in evaluator. Its parameters are its fields; it never changes its context.

    To add one, write a class with a `type_name` and list it in `_BUILT_IN` of
    `binding.py`.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, ignored_types=(cached_property,), defer_build=True
    )

    type_name: ClassVar[str] = ""
    """The name job files use."""

    in_process_only: ClassVar[frozenset[str]] = frozenset()
    """Parameters that a job file may not set."""

    name: str = Field(default="", description="What results go by; the type when left out")

    @abstractmethod
    def evaluate(self, ctx: EvaluatorContext) -> Any:
        """Score one rollout: an outcome, or an awaitable of what `read_result` reads."""

    def model_post_init(self, context: Any, /) -> None:
        """Name it after its type unless told otherwise."""
        if not self.name:
            object.__setattr__(self, "name", self.type_name)

    def changed(self, **fields: Any) -> Self:
        """A new one that differs in `fields`."""
        declared = type(self).model_fields.items()
        now = {field.alias or key: getattr(self, key) for key, field in declared}
        return type(self)(**{**now, **fields})

    def with_settings(self, settings: Settings) -> Builtin:
        """This evaluator, completed by what the operator has set."""
        return self

    def with_metadata(self, metadata: Mapping[str, Any]) -> Builtin:
        """This evaluator, completed by what the metadata of the dataset says."""
        return self

    def for_job(self) -> Self:
        """This evaluator as a job may use it. Raises `ValueError` where it may not."""
        return self

    def require_model(self, metadata: Iterable[Mapping[str, Any]]) -> None:
        """Raise `EvaluatorRefused` where cases with this metadata need a chat model of it that
        cannot be made. Blocks."""

    @property
    def is_quick(self) -> bool:
        """Whether its work is short enough to be done on the event loop."""
        return True

    @property
    def compares(self) -> bool:
        """Whether it looks at the expected output."""
        return False

    @cached_property
    def full_score(self) -> EvaluationResult:
        """The result of a case that passes; the same object each time."""
        return EvaluationResult(name=self.name, score=1.0, passed=True)

    def falls_short(self, reason: str, score: float = 0.0) -> EvaluationResult:
        """A score below 1 and why."""
        return EvaluationResult(name=self.name, score=score, passed=False, reason=reason)

    def lacks(self, ctx: EvaluatorContext, what: str) -> EvaluatorFailure:
        """The failure of a case without what this evaluator needs."""
        return EvaluatorFailure(
            name=self.name, kind="missing", reason=f"case {ctx.case_id}: {what} is missing"
        )


class OfOutput(Builtin):
    """A built-in that looks at the output, or at the part of it at `field`."""

    field: str | None = Field(
        default=None, description="Dotted path into the output, such as messages.-1.content"
    )

    @cached_property
    def _keys(self) -> tuple[str, ...]:
        return tuple(self.field.split(".")) if self.field else ()

    def part(self, ctx: EvaluatorContext) -> Any:
        """The part to look at, or `MISSING`; of a list of content blocks its text."""
        found = pick(ctx.output, self._keys) if self._keys else ctx.output
        if isinstance(found, list):
            text = text_of_blocks(found)
            return found if text is None else text
        return found

    def no_such_field(self) -> EvaluationResult:
        """The score of an output that lacks `field`."""
        return self.falls_short(f"the output has no {self.field}")


class Comparing(OfOutput):
    """A built-in that compares the output with the expected output.

    `field` is taken from both; an expected output that is not an object or a list is compared as it
    is. `expected_field` names another place in the expected output.
    """

    expected_field: str | None = Field(
        default=None, description="Dotted path into the expected output; `field` when left out"
    )

    @property
    def compares(self) -> bool:
        return True

    @cached_property
    def _expected_keys(self) -> tuple[str, ...]:
        path = self.expected_field if self.expected_field is not None else self.field
        return tuple(path.split(".")) if path else ()

    def expected(self, ctx: EvaluatorContext) -> Any:
        """What to compare with, or `MISSING`."""
        value = ctx.expected_output
        if value is None:
            return MISSING
        if self._expected_keys and isinstance(value, dict | list):
            return pick(value, self._expected_keys)
        return value

    def no_expected(self, ctx: EvaluatorContext) -> EvaluatorFailure:
        """The failure of a case without an expected output."""
        keys = ("expected_output", *self._expected_keys) if ctx.expected_output else ()
        return self.lacks(ctx, ".".join(keys) or "expected_output")


def differs(expected: Any, found: Any) -> str:
    """The reason of a mismatch."""
    if found is MISSING:
        return f"expected {shorten(expected)}, got nothing"
    return f"expected {shorten(expected)}, got {shorten(found)}"


_MAX_RESPONSE = 1_048_576
_WORD = re.compile(r"\w+|[^\w\s]")
_BY_CHARACTER = 300
_MOST_WORDS = 2_000


class ExactMatch(Comparing):
    """1 when the output equals the expected output, else 0.

    When both are objects, keys that only the output has are ignored: a graph's state holds more
    than its answer. `1` equals `1.0`; `true` does not equal `1`.

    Example:
        >>> from orcheo_agentensor import EvaluatorContext, ExactMatch
        >>> ctx = EvaluatorContext(case_id="a", inputs={}, output="yes", expected_output="no")
        >>> ExactMatch().evaluate(ctx).reason
        "expected 'no', got 'yes'"
    """

    type_name: ClassVar[str] = "exact_match"

    ignore_case: bool = Field(default=False, description="Compare texts without case")

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        expected = self.expected(ctx)
        if expected is MISSING:
            return self.no_expected(ctx)
        found = self.part(ctx)
        equal = self._equal_folded if self.ignore_case else same
        if expected and isinstance(expected, dict) and isinstance(found, dict):
            for key, value in expected.items():
                if key not in found or not equal(value, found[key]):
                    return self.falls_short(f"{key}: {differs(value, pick(found, (key,)))}")
            return self.full_score
        if found is not MISSING and equal(expected, found):
            return self.full_score
        if isinstance(found, dict) and isinstance(found.get("messages"), list):
            reason = (
                f"the output is a whole state ({', '.join(found)}), the expected output none: name "
                "the part to compare, such as `output: messages.-1.content` in the job's target "
                "(target.output), or `field` of this evaluator"
            )
            return EvaluatorFailure(name=self.name, kind="wrong_shape", reason=reason)
        return self.falls_short(differs(expected, found))

    @staticmethod
    def _equal_folded(expected: Any, found: Any) -> bool:
        if isinstance(expected, str) and isinstance(found, str):
            return expected.casefold() == found.casefold()
        return same(expected, found)


class Contains(Comparing):
    """The share of the wanted texts that the output contains; passed when all are there.

    Looks for `value`, or for the expected output (a text or a list of texts). An output that is not
    text is searched as JSON.

    Example:
        >>> from orcheo_agentensor import Contains, EvaluatorContext
        >>> ctx = EvaluatorContext(case_id="a", inputs={}, output="We are sorry.")
        >>> Contains(value=["sorry", "refund"]).evaluate(ctx).score
        0.5
    """

    type_name: ClassVar[str] = "contains"

    value: str | list[str] | None = Field(default=None, description="Text or texts to look for")
    ignore_case: bool = Field(default=False, description="Compare without case")

    @property
    def compares(self) -> bool:
        return self.value is None

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        wanted = self.value if self.value is not None else self.expected(ctx)
        if wanted is MISSING or wanted == []:
            return self.no_expected(ctx)
        found = self.part(ctx)
        if found is MISSING:
            return self.no_such_field()
        texts = [as_text(item) for item in (wanted if isinstance(wanted, list) else [wanted])]
        text = self._folded(as_text(found))
        lacking = [item for item in texts if self._folded(item) not in text]
        if not lacking:
            return self.full_score
        reason = f"does not contain {', '.join(map(repr, lacking))}"
        return self.falls_short(reason, (len(texts) - len(lacking)) / len(texts))

    def _folded(self, text: str) -> str:
        return text.casefold() if self.ignore_case else text


class Regex(OfOutput):
    """1 when the pattern is found in the output (or matches all of it, with `full`), else 0.

    Args:
        ignore_case: Match letters of either case.

    Example:
        >>> from orcheo_agentensor import EvaluatorContext, Regex
        >>> ctx = EvaluatorContext(case_id="a", inputs={}, output="Order 1234 is on its way.")
        >>> Regex(pattern=r"Order \\d{4}").evaluate(ctx).score
        1.0
    """

    type_name: ClassVar[str] = "regex"

    pattern: str = Field(
        description="A Python regular expression; in a job without look-around and backreferences"
    )
    full: bool = Field(default=False, description="Match the whole text")
    ignore_case: bool = False

    _linear: LinearPattern | None = PrivateAttr(default=None)

    def for_job(self) -> Self:
        """Itself, matched in linear time."""
        self._linear = LinearPattern(self.pattern, full=self.full, ignore_case=self.ignore_case)
        return self

    @property
    def is_quick(self) -> bool:
        """Whether its work is short enough to be done on the event loop."""
        return self._linear is None or self._linear.size <= QUICK_PROGRAM

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        return pattern

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern, re.IGNORECASE if self.ignore_case else 0)

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        found = self.part(ctx)
        if found is MISSING:
            return self.no_such_field()
        text = as_text(found)
        if self._linear is not None:
            match: object = self._linear.matches(text)
        else:
            match = self._compiled.fullmatch(text) if self.full else self._compiled.search(text)
        return self.full_score if match else self.falls_short(f"does not match {self.pattern!r}")


class NumericTolerance(Comparing):
    """1 when the output is a number close enough to the expected one, else 0.

    Numbers written as text count. Close is `|a - b| <= max(rel_tol * max(|a|, |b|), abs_tol)`.

    Args:
        abs_tol: The absolute tolerance.
        rel_tol: The tolerance as a share of the larger number.

    Example:
        >>> from orcheo_agentensor import EvaluatorContext, NumericTolerance
        >>> ctx = EvaluatorContext(case_id="a", inputs={}, output="3.14", expected_output=3.1416)
        >>> NumericTolerance(abs_tol=0.01).evaluate(ctx).score
        1.0
    """

    type_name: ClassVar[str] = "numeric_tolerance"

    abs_tol: float = Field(default=0.0, ge=0)
    rel_tol: float = Field(default=0.0, ge=0)

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        expected = self.expected(ctx)
        if expected is MISSING:
            return self.no_expected(ctx)
        target = _number(expected)
        if target is None:
            return self.lacks(ctx, "a number as expected output")
        found = self.part(ctx)
        number = _number(found)
        if number is None:
            return self.falls_short(f"{differs(expected, found)}, which is not a number")
        if math.isclose(number, target, rel_tol=self.rel_tol, abs_tol=self.abs_tol):
            return self.full_score
        return self.falls_short(differs(expected, found))


class StringSimilarity(Comparing):
    """How alike output and expected output are as texts, from 0 to 1 (`difflib` ratio).

    Texts up to 300 characters are compared by character, longer ones by word (their first 2,000).

    Example:
        >>> from orcheo_agentensor import EvaluatorContext, StringSimilarity
        >>> ctx = EvaluatorContext(case_id="a", inputs={}, output="abcd", expected_output="abce")
        >>> StringSimilarity().evaluate(ctx).score
        0.75
    """

    type_name: ClassVar[str] = "string_similarity"

    threshold: float | None = Field(default=None, ge=0, le=1, description="Passed from this on")

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        expected = self.expected(ctx)
        if expected is MISSING:
            return self.no_expected(ctx)
        found = self.part(ctx)
        if found is MISSING:
            return self.no_such_field()
        score = _similarity(as_text(expected), as_text(found))
        passed = score >= (1.0 if self.threshold is None else self.threshold)
        reason = None if passed else differs(expected, found)
        return EvaluationResult(name=self.name, score=score, passed=passed, reason=reason)


class Length(OfOutput):
    """1 when the output's length lies within the bounds, else 0.

    Args:
        at_least: The lower bound.
        at_most: The upper bound.
        unit: "characters" or "words".

    Example:
        >>> from orcheo_agentensor import EvaluatorContext, Length
        >>> ctx = EvaluatorContext(case_id="a", inputs={}, output="four words in all")
        >>> Length(at_most=3, unit="words").evaluate(ctx).score
        0.0
    """

    type_name: ClassVar[str] = "length"

    at_least: int | None = Field(default=None, ge=0)
    at_most: int | None = Field(default=None, ge=0)
    unit: Literal["characters", "words"] = "characters"

    @model_validator(mode="after")
    def _bounded(self) -> Length:
        if self.at_least is None and self.at_most is None:
            raise ValueError("give at_least, at_most or both")
        return self

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        found = self.part(ctx)
        if found is MISSING:
            return self.no_such_field()
        text = as_text(found)
        length = len(text) if self.unit == "characters" else len(text.split())
        if self.at_least is not None and length < self.at_least:
            return self.falls_short(f"{length} {self.unit}, at least {self.at_least} wanted")
        if self.at_most is not None and length > self.at_most:
            return self.falls_short(f"{length} {self.unit}, at most {self.at_most} wanted")
        return self.full_score


class Latency(Builtin):
    """1 when the target took at most `max_ms` milliseconds, else 0.

    The target's own time counts, without queueing, backing off and evaluators.

    Args:
        max_ms: The limit.

    Example:
        >>> from orcheo_agentensor import EvaluatorContext, Latency
        >>> ctx = EvaluatorContext(case_id="a", inputs={}, output="yes", latency_ms=120)
        >>> Latency(max_ms=100).evaluate(ctx).score
        0.0
    """

    type_name: ClassVar[str] = "latency"

    max_ms: float = Field(gt=0)

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        if ctx.latency_ms <= self.max_ms:
            return self.full_score
        return self.falls_short(f"took {ctx.latency_ms:.0f} ms, at most {self.max_ms:g} wanted")


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _similarity(left: str, right: str) -> float:
    if left == right:
        return 1.0
    if max(len(left), len(right)) <= _BY_CHARACTER:
        return SequenceMatcher(None, left, right, autojunk=False).ratio()
    words = (_WORD.findall(left)[:_MOST_WORDS], _WORD.findall(right)[:_MOST_WORDS])
    return SequenceMatcher(None, *words, autojunk=False).ratio()


class RefusedByService(ValueError):
    """The service answered with an error; `status_code` tells whether to try again."""

    def __init__(self, message: str, *, status_code: int) -> None:
        super().__init__(message)
        self.status_code = status_code


class HTTPEvaluator(Builtin):
    """Posts each rollout as JSON to `url` and reads a result from the JSON that comes back.

    Sent: `case_id`, `inputs`, `output`, `expected_output`, `metadata`. Expected back: `score` (or
    `value`), and if wanted `passed`, `reason`, `label`; or `{"results": [...]}` of such objects,
    each with a `name`. Any status but 2xx is a failure, a redirect too.

    Only hosts that are allowed are talked to: `allowed_hosts` in Python, or the operator's
    `AGENTENSOR_ALLOWED_HOSTS`. An entry is a host or `host:port`.

    Raises `EvaluatorRefused` for a host that is not allowed.

    Example:
        >>> from orcheo_agentensor import HTTPEvaluator
        >>> url = "https://scores.example/policy"
        >>> HTTPEvaluator(name="policy", url=url, allowed_hosts=("scores.example",)).name
        'policy'
    """

    type_name: ClassVar[str] = "http"
    in_process_only: ClassVar[frozenset[str]] = frozenset({"allowed_hosts"})

    url: str = Field(description="http:// or https:// URL")
    headers: dict[str, str] = Field(default_factory=dict, description="Sent along", repr=False)
    timeout: float = Field(default=30.0, gt=0, description="Seconds")
    allowed_hosts: tuple[str, ...] = Field(default=(), description="Hosts that may be talked to")

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        return check_plain_url(url)

    def with_settings(self, settings: Settings) -> HTTPEvaluator:
        """Itself; refused unless its host is allowed, here or by the operator."""
        if not is_allowed(self.url, (*self.allowed_hosts, *settings.allowed_hosts)):
            host = host_of(self.url)
            raise EvaluatorRefused(
                f"url: host {host!r} is not allowed; add it to AGENTENSOR_ALLOWED_HOSTS",
                field="url",
                value=host,
                rule="must be an allowed host",
            )
        return self

    @property
    def compares(self) -> bool:
        return True

    @property
    def _headers(self) -> dict[str, str]:
        """What is sent along: a small body can unfold into one that fills the memory."""
        own = {k: v for k, v in self.headers.items() if k.lower() != "accept-encoding"}
        return {**own, "accept-encoding": "identity"}

    async def evaluate(self, ctx: EvaluatorContext) -> Any:
        """Ask the service about one rollout."""
        import httpx

        body = {
            "case_id": ctx.case_id,
            "inputs": ctx.inputs,
            "output": ctx.output,
            "expected_output": ctx.expected_output,
            "metadata": ctx.metadata,
        }
        limit = asyncio.timeout(self.timeout)  # in all: a body may come byte by byte
        content = bytearray()
        try:
            async with (
                limit,
                httpx.AsyncClient(
                    verify=_tls(), timeout=self.timeout, follow_redirects=False, trust_env=False
                ) as client,
                client.stream("POST", self.url, json=body, headers=self._headers) as response,
            ):
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise ValueError("the response is compressed, which was not asked for")
                async for part in response.aiter_raw():
                    content += part
                    if len(content) > _MAX_RESPONSE:
                        raise ValueError(f"the response is larger than {_MAX_RESPONSE:,} bytes")
        except TimeoutError:
            host = host_of(self.url)
            raise TimeoutError(f"{host} took longer than {self.timeout:g} s") from None
        if not response.is_success:
            raise RefusedByService(
                f"HTTP {response.status_code} from {host_of(self.url)}",
                status_code=response.status_code,
            )
        return json.loads(content)


@cache
def _tls() -> ssl.SSLContext:
    """One context for all calls: making it takes longer than a call."""
    import httpx

    return httpx.create_ssl_context(trust_env=False)
