"""JSON in and out of columns, and texts that every database accepts."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

from orcheo_agentensor.errors import BadInput, shorten

_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_encode = _encoder.encode
_REFUSED = re.compile("[\x00\ud800-\udfff]")

_EXPONENT = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9.]+e\+[0-9]+')

decode = json.loads


def encode(value: Any) -> str:
    """`value` as JSON text. NUL and lone surrogates, which PostgreSQL refuses, become U+FFFD.

    Raises `BadInput` for what is not JSON: NaN, infinities, objects.
    """
    try:
        text = _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"cannot be stored as JSON: {shorten(value)} ({error})") from None
    if "\\u0000" in text or not _sound(text):
        text = _encode(_cleaned(value))
    # JSONB keeps 1e+22 as an integer of 23 digits, but 10000000000000000000000.0 as it is.
    return _EXPONENT.sub(_in_full, text) if "e+" in text else text


def encode_or_none(value: Any) -> str | None:
    """`encode`, with None for None."""
    return None if value is None else encode(value)


def clean_text(text: str | None) -> str | None:
    """`text` without NUL and lone surrogates."""
    if text is None or ("\x00" not in text and _sound(text)):
        return text
    return _REFUSED.sub("\ufffd", text)


def _in_full(token: re.Match[str]) -> str:
    found = token[0]
    return found if found.startswith('"') else f"{Decimal(found):f}.0"


def _sound(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(str(key)): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item) for item in value]
    return value
