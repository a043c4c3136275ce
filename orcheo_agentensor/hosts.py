"""Which hosts a job may make us talk to."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


def check_plain_url(url: str) -> str:
    """`url` as it is; raises `ValueError` unless it is http(s), with a host and no credentials."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user or a password")
    _ = parts.port
    return url


def host_of(url: str) -> str:
    """The host of a URL, in lower case."""
    return (urlsplit(url).hostname or "").lower()


def is_allowed(url: str, allowed: Iterable[str]) -> bool:
    """Whether an entry of `allowed` (a host, or host:port) is the host of `url`.

    An entry is the operator's word for that host, wherever its name leads; nothing is allowed that
    is not listed, so neither is loopback nor a private address.
    """
    parts = urlsplit(url)
    host = host_of(url)
    shown = f"[{host}]" if ":" in host else host
    port = parts.port or _PORTS[parts.scheme]
    names = {entry.lower() for entry in allowed}
    return not names.isdisjoint({host, shown, f"{shown}:{port}"})
