"""What the operator of a process decides, read from `AGENTENSOR_*` environment variables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

DEFAULT_DATABASE_URL = "sqlite:///.agentensor/agentensor.db"


SCOPES = ("run", "train", "promote")
"""What a bearer token may be good for."""


class AuthToken(BaseModel):
    """A bearer token that a server lets in; only its hash is kept."""

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
    """Operator settings; pass one explicitly, or let the doors read the environment once.

    Every field is the environment variable `AGENTENSOR_` + its name in capitals.
    """

    model_config = SettingsConfigDict(env_prefix="AGENTENSOR_", extra="ignore", frozen=True)

    database_url: str = DEFAULT_DATABASE_URL
    """Where the side store lives: `sqlite:///PATH` or `postgresql://…`."""

    allowed_modules: Annotated[tuple[str, ...], NoDecode] = ()
    """Modules, with what is under them, that "module:attribute" may name; comma-separated."""

    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts (or host:port) that jobs may make us talk to, as the URL of an HTTP evaluator or of a
    remote target; comma-separated. None are allowed that are not listed."""

    http_timeout: float = Field(default=30.0, gt=0)
    """Seconds that a server of a remote target has to take a connection or answer a request."""

    http_patience: float = Field(default=15.0, ge=0)
    """Seconds to wait for a remote target's server that has gone, before the run is interrupted."""

    model: str | None = None
    """A chat model the LangChain way ("openai:gpt-5-mini"); only simulated models run without."""

    max_concurrency: int = Field(default=64, ge=1, le=10_000)
    """Most rollouts in flight in this process, over all its runs."""

    max_recursion_limit: int = Field(default=1_000, ge=1)
    """The cap put on a request's `recursion_limit`."""

    max_target_concurrency: int = Field(default=256, ge=1)
    """The cap put on a request's `max_concurrency`."""

    dev_server: bool = False
    """Whether this is the bundled development set-up, where feature flags are on unless set."""

    runnable_config_enabled: bool | None = None
    """Whether a server checks, merges and records run configs; a workflow's own flag goes over."""

    agent_trainer_enabled: bool | None = None
    """Whether a server trains; the flag of the workflow to be trained goes over."""

    dataset_dir: Path | None = None
    """The folder that dataset paths in jobs of a server must be in; none: any path is opened."""

    max_request_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    """The largest body of a run request that a server takes."""

    auth_tokens: tuple[AuthToken, ...] = ()
    """Who may use a server: `[{"sha256": "…", "identity": "ana", "scopes": ["run"]}]`."""

    @field_validator("allowed_modules", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @model_validator(mode="after")
    def _check_tokens(self) -> Self:
        hashes = [token.sha256 for token in self.auth_tokens]
        if len(set(hashes)) != len(hashes):
            raise ValueError("auth_tokens: two entries have the same sha256")
        return self

    def flag(self, name: str) -> bool:
        """A feature flag as the operator has set it: off unless said, on in the dev set-up."""
        value: bool | None = getattr(self, name)
        return self.dev_server if value is None else value


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
