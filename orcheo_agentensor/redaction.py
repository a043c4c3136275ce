"""Redaction: secrets are taken out of what is stored, streamed or logged.

There are two rules: a value under a key that looks like the name of a secret is replaced whole, and
what looks like a secret inside any text is replaced in place. The name of a prompt does not count:
a prompt called `password_reset` is still a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
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
_HTTP_NAMES = frozenset({"auth", "proxyauthorization", "setcookie"})

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
_KEY_TEXT = re.compile("|".join(_KEYS))
_SCHEME_TEXT = re.compile(
    r"\b(Bearer|Basic)(\s+)(?=[A-Za-z0-9._~+/=-]*[\d=._+/])[A-Za-z0-9._~+/=-]{12,}", re.IGNORECASE
)
_URL_PASSWORD = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]{0,30}://[^\s/?#:@]*):[^\s/?#]*@")
_QUERY_SECRET = re.compile(r"([?&;]([A-Za-z0-9_.-]+)=)([^&#;\s\"']+)")


def redact(value: Any) -> Any:
    """A copy of `value` (mappings, lists, tuples, texts) without its secrets.

    Tuples become lists; anything that is not JSON-like is handed back as it is.
    """
    if isinstance(value, str):
        return _redact_text(value)
    if isinstance(value, Mapping):
        return {key: _redact_item(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return value


def redact_url(url: str) -> str:
    """`url` without its password and without secret query parameters."""
    return _redact_text(url)


def holds_secret(text: str) -> bool:
    """Whether `text` holds what looks like a key of a well-known service."""
    return _KEY_TEXT.search(text) is not None


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
    if joined in _HTTP_NAMES or _SECRET_WORDS.intersection(words):
        return True
    if any(word in joined for word in ("apikey", "privatekey", "accesskey", "secretkey")):
        return True
    if words[-1] == "key" and len(words) > 1 and words[-2] in _KEY_OWNERS:
        return True
    return words[-1] == "token" or joined.endswith(("authtoken", "accesstoken"))


def _redact_item(key: Any, value: Any) -> Any:
    if not isinstance(key, str) or not is_secret_name(key) or value in (None, "", REDACTED):
        return redact(value)
    if isinstance(value, bool) or _is_prompt(value):
        return redact(value)
    return REDACTED


def _is_prompt(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("type") == "TextTensor"


def _redact_text(text: str) -> str:
    text = _KEY_TEXT.sub(REDACTED, text)
    text = _SCHEME_TEXT.sub(rf"\1\2{REDACTED}", text)
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\1:{REDACTED}@", text)
    if "=" in text:
        text = _QUERY_SECRET.sub(_redact_query, text)
    return text


def _redact_query(match: re.Match[str]) -> str:
    return match[1] + REDACTED if is_secret_name(match[2]) else match[0]
