"""What the operator of a process decides, read from `AGENTENSOR_*` environment variables."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

DEFAULT_DATABASE_URL = "sqlite:///.agentensor/agentensor.db"


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

    @field_validator("allowed_modules", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value
