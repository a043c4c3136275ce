"""Regular expressions of jobs: Python's syntax, matched by RE2 in time linear in the text.

Python's own engine can take for ever over a short text, and holds every other run up meanwhile.
What RE2 cannot do (look-around, backreferences, repetitions beyond 1,000) a job cannot ask for.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any

MOST_STEPS = 300_000_000
"""Most steps of one match, in the worst case: about two seconds, in which others go on."""

QUICK_PROGRAM = 100
"""Up to this size of its program a pattern is matched on the event loop."""

_LONGEST = 10_000
_MEMORY = 1 << 20
_WORD, _SPACE = r"\p{L}\p{N}_", r"\s\x0b\x1c-\x1f\x{85}\p{Z}"
_SETS = {"d": r"\p{Nd}", "D": r"\P{Nd}", "w": _WORD, "s": _SPACE}
_NEGATED = {"W": _WORD, "S": _SPACE}
_IDIOMS = {
    r"[^\W\d_]": r"[\p{L}\p{Nl}\p{No}]",
    r"[^\W_]": r"[\p{L}\p{N}]",
    r"[^\W\d]": r"[\p{L}\p{Nl}\p{No}_]",
    r"[\W_]": r"[^\p{L}\p{N}]",
}
"""Sets that hold a negated class, which RE2 knows for ASCII only."""


class LinearPattern:
    """A compiled pattern. Raises `ValueError`, saying why, for one that cannot be matched so."""

    def __init__(self, pattern: str, *, full: bool = False, ignore_case: bool = False) -> None:
        if len(pattern) > _LONGEST:
            raise ValueError(f"is longer than {_LONGEST:,} characters")
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        import re2

        options: Any = re2.Options()
        options.max_mem, options.log_errors = _MEMORY, False
        options.case_sensitive = not ignore_case
        try:
            self._compiled: Any = re2.compile(_translated(pattern, full=full), options)
        except re2.error as error:
            told = error.args[0] if error.args else error
            shown = told.decode(errors="replace") if isinstance(told, bytes) else str(told)
            raise ValueError(
                f"cannot be matched in linear time ({shown}); look-around, backreferences and "
                "large repetitions are for evaluators in Python code"
            ) from None
        self._match = self._compiled.fullmatch if full else self._compiled.search
        self.size: int = self._compiled.programsize

    def matches(self, text: str) -> bool:
        """Whether the text matches. Raises `ValueError` where it is too long for the pattern."""
        if self.size * len(text) > MOST_STEPS:
            raise ValueError(f"a text of {len(text):,} characters is too long for this pattern")
        try:
            return self._match(text) is not None
        except UnicodeEncodeError:  # lone surrogates
            return self._match(text.encode(errors="replace").decode()) is not None


@lru_cache(maxsize=512)
def linear_pattern(pattern: str) -> LinearPattern:
    """A pattern to be searched for, as in a JSON Schema."""
    return LinearPattern(pattern)


def _translated(pattern: str, *, full: bool) -> str:
    """Python's pattern as RE2 reads it: `\\d`, `\\w` and `\\s` stand for all of Unicode."""
    made: list[str] = []
    lines = re.search(r"\(\?[a-zA-Z]*m", pattern) is not None
    at = 0
    while at < len(pattern):
        one = pattern[at]
        if one == "\\":
            text, at = _escape(pattern, at, inside=False)
        elif one == "[":
            text, at = _set(pattern, at)
        elif pattern.startswith("{,", at):
            text, at = "{0,", at + 2
        elif pattern.startswith("(?#", at):
            text, at = "", pattern.index(")", at) + 1
        elif one == "$" and not lines:
            text, at = (r"\z" if full else r"(?:\n?\z)"), at + 1
        else:
            text, at = one, at + 1
        made.append(text)
    return "".join(made)


def _set(pattern: str, at: int) -> tuple[str, int]:
    for idiom, meant in _IDIOMS.items():
        if pattern.startswith(idiom, at):
            return meant, at + len(idiom)
    begin = 2 if pattern.startswith("[^", at) else 1
    made, at = [pattern[at : at + begin]], at + begin
    first = True
    while first or pattern[at] != "]":
        if pattern[at] == "\\":
            text, at = _escape(pattern, at, inside=True)
        else:
            text = "\\" + pattern[at] if pattern[at] in "[]" else pattern[at]
            at += 1
        made.append(text)
        first = False
    return "".join([*made, "]"]), at + 1


def _escape(pattern: str, at: int, *, inside: bool) -> tuple[str, int]:
    one = pattern[at + 1]
    if one in _SETS:
        bare = inside or one in "dD"
        return (_SETS[one] if bare else f"[{_SETS[one]}]"), at + 2
    if one in _NEGATED and not inside:
        return f"[^{_NEGATED[one]}]", at + 2
    if one in _NEGATED:
        raise ValueError(f"holds \\{one} inside a set, which cannot be matched in linear time")
    if one == "Z":
        return r"\z", at + 2
    if one in "uU":
        end = at + (6 if one == "u" else 10)
        return f"\\x{{{pattern[at + 2 : end]}}}", end
    if one == "N":
        end = pattern.index("}", at)
        return f"\\x{{{ord(unicodedata.lookup(pattern[at + 3 : end])):x}}}", end + 1
    return pattern[at : at + 2], at + 2
