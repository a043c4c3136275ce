"""Redaction: secrets are taken out of what is stored, streamed, shown or logged.

One set of rules, used everywhere: a value under a key that looks like the name of a secret is
replaced whole; what looks like a secret inside any text is replaced in place, and so is a value
that is known to be one, because a variable of the environment or a field of the job at hand with
such a name holds it. The name of a prompt does not count: a prompt called `password_reset` is
still a prompt.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from operator import is_ as _is
from typing import Any

REDACTED = "[redacted]"

_WORDS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
_SECRET_WORDS = {
    "apikey",
    "authorization",
    "bearer",
    "cookie",
    "cookies",
    "credential",
    "credentials",
    "cvc",
    "cvv",
    "jwt",
    "otp",
    "passcode",
    "passphrase",
    "passwd",
    "password",
    "pwd",
    "secret",
    "secrets",
}
_KEY_OWNERS = {
    "access",
    "account",
    "anthropic",
    "api",
    "auth",
    "encryption",
    "master",
    "openai",
    "private",
    "secret",
    "service",
    "shared",
    "signing",
    "storage",
    "subscription",
}
_LONGEST_NAME = 200
_WHOLE_NAMES = frozenset(
    {"auth", "pin", "pincode", "proxyauthorization", "session", "setcookie", "sig"}
)
_LAST_WORDS = frozenset({"jwt", "pin", "session", "sig", "token", "webhook"})

# Keys of well-known services. Each pattern needs a length that no word of prose has, and takes time
# linear in the text, whatever the text.
_KEYS = (
    r"\bsk-(?=[\w-]{0,64}\d)[A-Za-z0-9_-]{16,}",
    r"\b(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{10,}",
    r"\blsv2_(?:pt|sk)_[A-Za-z0-9_]{16,}",
    r"\bgh[pousr]_[A-Za-z0-9]{20,}",
    r"\bgithub_pat_[A-Za-z0-9_]{20,}",
    r"\bglpat-[A-Za-z0-9_-]{16,}",
    r"\bhf_[A-Za-z0-9]{20,}",
    r"\bxox[abposr]-[A-Za-z0-9-]{10,}",
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    r"\bAIza[A-Za-z0-9_-]{30,}",
    r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
)
_KEY_HINTS = (
    ("_", ("_live_", "_test_", "lsv2_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "_pat_", "hf_")),
    ("-", ("sk-", "glpat-", "xox", "PRIVATE KEY")),
    ("A", ("AKIA", "ASIA", "AIza")),
    (".", ("eyJ",)),
)
"""A character that some of the keys hold, which most texts lack, and what they hold beside it."""
_SHORTEST_KEY = 14
_KEY_TEXT = re.compile("|".join(_KEYS))
_SCHEME_TEXT = re.compile(
    r"\b(Bearer|Basic)(\s+)(?=[A-Za-z0-9._~+/=-]*[\d=._+/])[A-Za-z0-9._~+/=-]{12,}", re.IGNORECASE
)
_URL_PASSWORD = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]{0,30}://[^\s/?#:@]*):[^\s/?#]*@")
_URL_USER = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]{0,30}://)[^\s/?#:@\[]{16,}@")
_QUERY_SECRET = re.compile(r"([?&;]([A-Za-z0-9_.-]+)=)([^&#;\s\"']+)")
_QUERY_NAMES = frozenset({"signature", "xamzsignature", "xgoogsignature", "key", "code"})
_HOOK = re.compile(
    r"(https?://(?:[\w.-]*\.)?(?:hooks\.slack\.com/(?:services|workflows|triggers)|"
    r"discord(?:app)?\.com/api/webhooks|webhook\.office\.com/webhookb2|hooks\.zapier\.com/hooks|"
    r"hook\.\w+\.make\.com|api\.telegram\.org/bot|maker\.ifttt\.com/trigger|"
    r"[\w.-]+(?::\d+)?/(?:[\w.-]{1,40}/){0,4}(?:webhooks?|hooks)(?=/[^\s\"'/?]{8})))"
    r"(?!/\[redacted)[^\s\"'<>)\[\]]{2,}",
    re.IGNORECASE,
)

# `password=…`, `'api_key': …`, `DB_PASS = "…"`, `Authorization: …` inside a text, such as that of
# an exception or a connection string.
_NAMED = re.compile(
    r"(?<![\w.-])(?P<open>\\{0,3}[\"']?)(?P<name>[A-Za-z_][\w.-]{1,60})(?P=open)"
    r"(?P<by>\s{0,2}(?:=>|[=:])\s{0,2})"
)
_VALUE = re.compile(
    r"(\\{0,3}[\"'])?((?(1)(?:(?!\\{0,3}[\"'])[^\n]){1,4000}|[^\s,;&\"'(){}\[\]<>|]{3,4000}))"
)
_NAMED_HINTS = (
    "pass", "pwd", "secret", "token", "key", "auth", "cookie", "session", "pin", "jwt", "otp",
    "credential", "sig", "bearer", "sessid", "webhook", "cvv", "cvc",
)  # fmt: skip
_PLACEHOLDER = re.compile(r"[\W_]*$|(?:[<{$%*\[]|\.\.|xxx|your|none\b|null\b|true\b|false\b)", re.I)
_HEADERS = re.compile(
    r"\b((?:Proxy-)?Authorization|(?:Set-)?Cookie)(:[ \t]{1,3})([^\s\"'<{\[][^\r\n\"']{3,4000})",
    re.I,
)
_SURE = re.compile(
    r"pass(?!es|ed|age|ing)|pwd|secret|api_?key|access_?key|private_?key|(?:access|auth)_?token|authorization|credential",
    re.I,
)
_SHORTEST = 8

_known: ContextVar[tuple[str, ...]] = ContextVar("agentensor_secrets", default=())
_from_environment: tuple[tuple[int, int], tuple[str, ...]] = ((-1, -1), ())


def telling_secrets(*values: Any) -> frozenset[str]:
    """The texts that stand under the names of secrets in `values`, and are too telling to be shown
    anywhere."""
    found = [text for value in values for secret in secrets_in(value) for text in _parts(secret)]
    return frozenset(filter(_is_telling, found))


@contextmanager
def knowing(*values: Any, texts: frozenset[str] = frozenset()) -> Iterator[None]:
    """Inside the block, `texts` and those that stand under the names of secrets in `values` are
    secrets wherever they turn up."""
    found = {*_known.get(), *texts, *telling_secrets(*values)}
    token = _known.set(tuple(sorted(found, key=len, reverse=True)))
    try:
        yield
    finally:
        _known.reset(token)


def secrets_in(value: Any) -> Iterator[str]:
    """The texts in `value` (mappings, lists, tuples) that stand under the names of secrets."""
    level = [(value, False, 0)]
    while level:
        at, secret, depth = level.pop()
        if isinstance(at, str):
            if secret:
                yield at
        elif depth > _DEEPEST:
            continue
        elif isinstance(at, Mapping):
            level += [
                (item, secret or (isinstance(key, str) and is_secret_name(key)), depth + 1)
                for key, item in at.items()
                if not _is_prompt(item)
            ]
        elif isinstance(at, list | tuple):
            level += [(item, secret, depth + 1) for item in at]


def _parts(secret: str) -> Iterator[str]:
    """A secret, and what of it is one by itself: a token without its scheme, a cookie's value."""
    yield secret
    scheme, _, rest = secret.partition(" ")
    if rest and scheme.isalpha():
        yield rest.strip()
    if "=" in secret:
        yield from (pair.partition("=")[2].strip() for pair in secret.split(";"))


def _is_telling(text: str) -> bool:
    """Whether a text is long and odd enough to be a secret wherever it stands: no plain word."""
    return len(text) >= _SHORTEST and text != REDACTED and not (text.isalpha() and len(text) < 20)


def _known_values() -> tuple[str, ...]:
    """What the environment's variables with the names of secrets hold, looked at once a second or
    where their number changes, and what is known of the job at hand."""
    global _from_environment
    now = (len(os.environ), int(time.monotonic()))
    if _from_environment[0] != now:
        found = {
            value
            for name, value in os.environ.items()
            if is_secret_name(name) and _is_telling(value) and not value.startswith(("/", "unix:"))
        }
        _from_environment = (now, tuple(sorted(found, key=len, reverse=True)))
    return _known.get() + _from_environment[1]


def redact(value: Any, *, names: bool = True) -> Any:
    """`value` (mappings, lists, tuples, texts) without its secrets: itself where it has none.

    Tuples become lists; anything that is not JSON-like is handed back as it is. `names=False`
    replaces what looks like a secret, whatever the key it stands under.
    """
    if value is None or (type(value) is dict and _holds_numbers(value)):
        return value
    return _redact(value, names, _known_values(), 0)


def _holds_numbers(value: dict[Any, Any]) -> bool:
    """Whether an object holds no text but keys that are no secrets, of whatever length those have:
    most outputs that are scored by comparing."""
    for key, item in value.items():
        if type(item) not in _NUMBERS or type(key) is not str:
            return False
        if len(key) >= _SHORTEST or not _is_plain(key):
            return False
    return True


_NUMBERS = frozenset({int, float, bool, type(None)})
_DEEPEST = 100
"""What is nested deeper is no JSON value of ours, and may hold itself."""


def _redact(value: Any, names: bool, known: tuple[str, ...], depth: int) -> Any:
    if isinstance(value, str):
        return _redact_text(value, known)
    if depth > _DEEPEST:
        return value if value is None or isinstance(value, int | float) else REDACTED
    if isinstance(value, Mapping):
        changed = None
        for key, item in value.items():
            if type(key) is str and (not known or len(key) < _SHORTEST) and _is_plain(key):
                if type(item) in _NUMBERS:
                    if changed is not None:
                        changed[key] = item
                    continue
                shown_key = key
            else:
                shown_key = _redact_text(key, known) if isinstance(key, str) else key
            if names and isinstance(key, str) and is_secret_name(key):
                shown = _under_secret_name(item, known, depth + 1)
            else:
                shown = _redact(item, names, known, depth + 1)
            if changed is None and (shown is not item or shown_key is not key):
                changed = {}
                for before, kept in value.items():
                    if before is key:
                        break
                    changed[before] = kept
            if changed is not None:
                changed[shown_key] = shown
        return value if changed is None else changed
    if isinstance(value, list | tuple):
        shown_items = [
            item if type(item) in _NUMBERS else _redact(item, names, known, depth + 1)
            for item in value
        ]
        same = isinstance(value, list) and all(map(_is, value, shown_items))
        return value if same else shown_items
    return value


@lru_cache(maxsize=4096)
def _is_plain(key: str) -> bool:
    """Whether a key neither names a secret nor looks like one. Few names stand over all outputs."""
    return not is_secret_name(key) and _redact_text(key, ()) is key


def _under_secret_name(value: Any, known: tuple[str, ...], depth: int) -> Any:
    if value is None or value in ("", REDACTED) or isinstance(value, bool) or _is_prompt(value):
        return _redact(value, True, known, depth)
    return REDACTED


def redact_url(url: str) -> str:
    """`url` without its password and without secret query parameters."""
    return _redact_text(url, _known_values())


def holds_secret(text: str) -> bool:
    """Whether redaction would change `text`."""
    return _redact_text(text, _known_values()) is not text


def without_secrets(error: Exception) -> Exception:
    """What to raise for `error`: itself, without its causes where they tell a secret; where it
    tells one itself, an error of the same words without it."""
    if holds_secret(f"{error} {error.args!r}"):
        error = RuntimeError(redact(f"{type(error).__name__}: {error}"))
        error.__suppress_context__ = True
        return error
    seen: BaseException = error
    while (before := seen.__cause__ or seen.__context__) is not None:
        if holds_secret(f"{before} {before.args!r}"):
            seen.__cause__, seen.__context__ = None, None
            break
        seen = before
    return error


def is_secret_name(name: str) -> bool:
    """Whether `name` looks like the name of a secret: `api_key`, `accessToken`, `Set-Cookie`…

    Counts such as `max_tokens` or `token_count` do not.
    """
    return _is_secret_name(name[-_LONGEST_NAME:])


@lru_cache(maxsize=4096)
def _is_secret_name(name: str) -> bool:
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words or words[-1] == "env":  # `api_key_env` names the variable that has the key
        return False
    joined = "".join(words)
    if joined in _WHOLE_NAMES or _SECRET_WORDS.intersection(words) or words[-1] in _LAST_WORDS:
        return True
    if len(words) > 1 and (words[-1] == "pass" or words[-2:] == ["webhook", "url"]):
        return True
    if any(word in joined for word in ("apikey", "privatekey", "accesskey", "secretkey")):
        return True
    if words[-1] == "key" and len(words) > 1 and words[-2] in _KEY_OWNERS:
        return True
    return joined.endswith(("authtoken", "accesstoken", "sessid")) or (
        len(words) == 1 and joined.endswith("sessionid")
    )


def _is_prompt(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("type") in ("TextTensor", "ContentTensor")


def _redact_text(text: str, known: tuple[str, ...]) -> str:
    """`text` without its secrets: the very object where it has none."""
    if len(text) < 4:
        return text
    shown = text
    for secret in known:
        if secret in shown:
            shown = shown.replace(secret, REDACTED)
    if len(shown) >= _SHORTEST_KEY:
        for mark, hints in _KEY_HINTS:
            if mark in shown and _has(shown, hints):
                shown = _KEY_TEXT.sub(REDACTED, shown)
                break
    if "://" in shown:
        shown = _URL_PASSWORD.sub(rf"\1:{REDACTED}@", shown)
        shown = _URL_USER.sub(rf"\1{REDACTED}@", shown)
        shown = _HOOK.sub(rf"\1/{REDACTED}", shown)
    if " " in shown and _has(shown.lower(), ("bearer ", "basic ")):
        shown = _SCHEME_TEXT.sub(rf"\1\2{REDACTED}", shown)
    if "=" in shown or ":" in shown:
        if "=" in shown and ("?" in shown or "&" in shown or ";" in shown):
            shown = _QUERY_SECRET.sub(_redact_query, shown)
        if _has(shown.lower(), _NAMED_HINTS):
            shown = _HEADERS.sub(_redact_header, shown)
            shown = _redact_named(shown)
    return text if shown == text else shown


def _has(text: str, hints: tuple[str, ...]) -> bool:
    """Whether one of `hints` is in `text`: far cheaper than the patterns that they stand for."""
    for hint in hints:  # noqa: SIM110 - a generator doubles what this costs for each output
        if hint in text:
            return True
    return False


def _redact_query(match: re.Match[str]) -> str:
    name, value = match[2], match[3]
    signed = len(value) >= 16 and "".join(_WORDS.findall(name)).lower() in _QUERY_NAMES
    return match[1] + REDACTED if signed or is_secret_name(name) else match[0]


def _redact_header(match: re.Match[str]) -> str:
    return match[0] if REDACTED in match[0] else f"{match[1]}{match[2]}{REDACTED}"


def _redact_named(text: str) -> str:
    """`text` without the values that stand after the names of secrets. What names one beyond doubt
    has any value but a placeholder; `token`, `session` and such are also words, and have one with
    a digit."""
    kept: list[str] = []
    at = plain_until = 0
    for named in _NAMED.finditer(text):
        if named.start() < at or not is_secret_name(named["name"]):
            continue
        sure, tight = _SURE.search(named["name"]) is not None, named["by"] in ("=", "=>")
        if named.end() < plain_until and not (sure and tight):
            continue  # its value ends where that of a name before it does, and has no digit either
        found = _VALUE.match(text, named.end())
        if found is None or REDACTED in found[2] or _PLACEHOLDER.match(found[2]):
            continue
        if not (sure and (found[1] or tight)) and not any(map(str.isdigit, found[2])):
            plain_until = plain_until if found[1] else found.end(2)
            continue
        kept += [text[at : found.start(2)], REDACTED]
        at = found.end(2)
    return "".join([*kept, text[at:]]) if kept else text
