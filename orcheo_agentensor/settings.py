"""The operator's settings, read from `AGENTENSOR_*` environment variables."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_PREFIX = "AGENTENSOR_"

SCOPES = ("run", "train", "promote")
"""The scopes that a bearer token may have."""


class AuthToken(BaseModel):
    """A bearer token that a server accepts; only its hash is stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    identity: str = Field(min_length=1, max_length=128)
    scopes: tuple[str, ...] = ("run",)

    @field_validator("scopes")
    @classmethod
    def _check_scopes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(value) - set(SCOPES))
        if unknown:
            raise ValueError(f"unknown scope {', '.join(unknown)}; known: {', '.join(SCOPES)}")
        return value


class Settings(BaseSettings):
    """Operator settings; a function that is given none reads the environment once.

    Every field is the environment variable `AGENTENSOR_` + its name in capitals.

    Example:
        >>> from orcheo_agentensor import Settings
        >>> settings = Settings(allowed_modules=("shop.flow",), max_concurrency=8)
        >>> settings.database_url
        'sqlite:///.agentensor/agentensor.db'
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="ignore", frozen=True)

    database_url: str = "sqlite:///.agentensor/agentensor.db"
    """The database of the side store: `sqlite:///PATH` or `postgresql://…`."""

    allowed_modules: Annotated[tuple[str, ...], NoDecode] = ()
    """Modules, with their submodules, and single names ("shop.flow:graph") that jobs may name;
    comma-separated."""

    allowed_folders: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders whose files jobs may name by their path ("./shop/flow.py:graph"), and cases as their
    images; comma-separated. On
    the command line the working directory is one, where it holds a `langgraph.json`."""

    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts (or host:port) that a job may name, as the URL of an HTTP evaluator or of a remote
    target, and that media of cases are fetched from; comma-separated. No other host is allowed."""

    host_keys: Annotated[tuple[str, ...], NoDecode] = ()
    """Which environment variables may be sent to which host as its key, where a job names them in
    `api_key_env`: `HOST=VARIABLE` or `HOST:PORT=VARIABLE`; comma-separated. No other is sent."""

    allowed_models: Annotated[tuple[str, ...] | None, NoDecode] = None
    """Chat models that jobs and run requests may name, with `*` for any text ("openai:gpt-5*");
    comma-separated. Without a list any may be named, but on a server that knows its callers only
    `AGENTENSOR_MODEL`."""

    http_timeout: float = Field(default=30.0, gt=0)
    """Seconds in which a remote target's server must take a connection or answer a request."""

    http_patience: float = Field(default=15.0, ge=0)
    """Seconds to wait for a remote target's server that is gone, before the run is interrupted."""

    model: str | None = None
    """A chat model the LangChain way ("openai:gpt-5-mini"); only simulated models run without."""

    max_concurrency: int = Field(default=64, ge=1, le=10_000)
    """Most rollouts in flight in this process, over all its runs."""

    max_recursion_limit: int = Field(default=1_000, ge=1)
    """The cap put on a request's `recursion_limit`."""

    max_target_concurrency: int = Field(default=256, ge=1)
    """The cap put on a request's `max_concurrency`."""

    dev_server: bool = False
    """Whether this is the bundled development set-up, in which feature flags are on by default."""

    runnable_config_enabled: bool | None = None
    """Whether a server checks, merges and records run configs; a workflow's flag overrides it."""

    agent_trainer_enabled: bool | None = None
    """Whether a server trains; the flag of the trained workflow overrides it."""

    max_runs_per_caller: int = Field(default=8, ge=1)
    """Most runs that a caller with a token has at work on a server; further ones wait."""

    max_waiting_runs_per_caller: int = Field(default=100, ge=0)
    """Most runs of such a caller that wait; further ones are refused with 429."""

    max_requests_per_minute: int = Field(default=3_000, ge=1)
    """Most requests of such a caller in a minute; further ones are refused with 429."""

    log_format: Literal["text", "json"] = "text"
    """How the command line and a server write their log: for people, or a JSON object a line."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What a log in JSON has at least: "debug" has each case, "info" what a run begins and ends
    with, "warning" only what goes wrong."""

    dataset_dir: Path | None = None
    """The folder that a server reads the datasets of jobs from; None: any path may be read."""

    max_request_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    """Most bytes in the body of a run request to a server."""

    auth_tokens: tuple[AuthToken, ...] = ()
    """The tokens of a server: `[{"sha256": "…", "identity": "ana", "scopes": ["run"]}]`."""

    @field_validator(
        "allowed_modules",
        "allowed_folders",
        "allowed_hosts",
        "host_keys",
        "allowed_models",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("host_keys")
    @classmethod
    def _check_host_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pair in value:
            host, _, variable = pair.partition("=")
            if not host.strip() or not variable.strip():
                raise ValueError(f"{pair!r} must be HOST=VARIABLE, such as api.example.com=API_KEY")
        return value

    @model_validator(mode="after")
    def _check_tokens(self) -> Self:
        hashes = [token.sha256 for token in self.auth_tokens]
        if len(set(hashes)) != len(hashes):
            raise ValueError("auth_tokens: two entries have the same sha256")
        return self

    def flag(self, name: str) -> bool:
        """A feature flag of the operator; by default on in the development set-up, else off."""
        value: bool | None = getattr(self, name)
        return self.dev_server if value is None else value

    def may_use_model(self, name: str, *, known_caller: bool) -> bool:
        """Whether a job may name this chat model; `known_caller`: a server knows who sent it."""
        if name == self.model or (self.allowed_models is None and not known_caller):
            return True
        return any(fnmatchcase(name, pattern) for pattern in self.allowed_models or ())

    def may_send_key(self, url: str, variable: str) -> bool:
        """Whether the operator has bound this environment variable to the host of `url`."""
        bound = [[part.strip() for part in pair.split("=", 1)] for pair in self.host_keys]
        return is_allowed(url, [host for host, named in bound if named == variable])


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

    The operator answers for an entry, whatever address its name leads to. Nothing else is allowed,
    neither loopback nor a private address.
    """
    parts = urlsplit(url)
    host = host_of(url)
    shown = f"[{host}]" if ":" in host else host
    port = parts.port or _PORTS[parts.scheme]
    names = {entry.lower() for entry in allowed}
    return not names.isdisjoint({host, shown, f"{shown}:{port}"})


def read_settings() -> Settings:
    """The settings as the environment has them now; read anew only where it has changed."""
    own = [(key, value) for key, value in os.environ.items() if key.upper().startswith(_PREFIX)]
    return _settings(tuple(own))


@lru_cache(maxsize=1)
def _settings(_environment: tuple[tuple[str, str], ...]) -> Settings:
    return Settings()
