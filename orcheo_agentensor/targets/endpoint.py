"""An assistant on LangGraph servers: what a job may say of it, and a client for each server."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from orcheo_agentensor.errors import BadInput, ConfigError, TargetRefused, shorten
from orcheo_agentensor.hosts import check_plain_url, host_of, is_allowed
from orcheo_agentensor.redaction import is_secret_name, redact
from orcheo_agentensor.settings import Settings

if TYPE_CHECKING:
    import ssl

    import httpx
    from langgraph_sdk.client import LangGraphClient

LOCAL = "local"
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,127}")
_KEY_FIELDS = frozenset({"key", "token", "headers"})


class Endpoint(BaseModel):
    """Where an assistant is. `url` left out means the LangGraph server that this process is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | tuple[str, ...] | None = Field(
        None, description="URL of the server, or several URLs to spread runs over."
    )
    assistant: str = Field(
        min_length=1, max_length=256, description="Id or name of an assistant, or id of a graph."
    )
    api_key_env: str | None = Field(
        None,
        description="The environment variable that holds the server's API key or 'Bearer …'.",
    )
    prompts_in: Literal["auto", "configurable", "context"] = Field(
        "auto", description="How the deployed graph reads prompts; auto asks its context schema."
    )

    @field_validator("url")
    @classmethod
    def _plain_urls(cls, url: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if url is None or url == LOCAL:
            return None
        urls = (url,) if isinstance(url, str) else url
        for one in urls:
            check_plain_url(one)
            if "?" in one or "#" in one:
                raise ValueError("must not hold a query or a fragment")
        urls = tuple(one.rstrip("/") for one in urls)
        if not urls or len(set(urls)) < len(urls):
            raise ValueError("must be one URL, or a list of different ones")
        return urls

    @field_validator("api_key_env")
    @classmethod
    def _variable(cls, name: str | None) -> str | None:
        if name is not None and not _VARIABLE.fullmatch(name):
            raise ValueError("must be the name of an environment variable (A-Z, 0-9, _), not a key")
        if name is not None and name.startswith("AGENTENSOR_"):
            raise ValueError("must not name one of this package's own settings")
        return name

    @classmethod
    def parse(cls, data: Mapping[str, Any], *, field: str = "target") -> Self:
        """What a job says; raises `ConfigError` with every problem, and never shows a key."""
        problems = [
            {
                "field": f"{field}.{name}",
                "value": "[redacted]",
                "rule": "must not be in a job: put the key into an environment variable, and name "
                "that variable in api_key_env",
            }
            for name in map(str, data)
            if name not in cls.model_fields and (is_secret_name(name) or name in _KEY_FIELDS)
        ]
        hidden = {problem["field"].removeprefix(f"{field}.") for problem in problems}
        try:
            parsed = cls.model_validate({k: v for k, v in data.items() if str(k) not in hidden})
        except ValidationError as error:
            problems += [_problem(entry, field, cls) for entry in error.errors(include_url=False)]
        if problems:
            text = "; ".join(f"{p['field']}: {p['value']} {p['rule']}" for p in problems)
            raise ConfigError(text, problems=problems)
        return parsed

    @property
    def urls(self) -> tuple[str | None, ...]:
        """The servers; None is the one that this process is."""
        return (None,) if self.url is None else tuple(self.url)

    def require_allowed(self, settings: Settings, *, field: str = "target") -> None:
        """Raise `BadInput` for a server that the operator has not allowed."""
        for url in self.urls:
            if url is not None and not is_allowed(url, settings.allowed_hosts):
                raise BadInput(
                    f"{field}.url: host {host_of(url)!r} is not allowed; servers of jobs are off "
                    "until the operator names them: add it to AGENTENSOR_ALLOWED_HOSTS",
                    field=f"{field}.url",
                    value=host_of(url),
                    rule="must be an allowed host",
                )

    def client(self, url: str | None, *, settings: Settings, streams: bool) -> LangGraphClient:
        """A client of one server; with `streams`, what it reads may take as long as it takes.

        Raises `BadInput` where the key is not in the environment, or there is no server here.
        """
        import httpx
        from langgraph_sdk.client import LangGraphClient, get_client

        seconds = settings.http_timeout
        timeout = (seconds, None if streams else seconds, seconds, seconds)
        if url is None:
            if "langgraph_api.server" not in sys.modules:
                raise BadInput(
                    "url: is left out, which means a graph of the LangGraph server that "
                    "runs this job, and no such server does; give the server's URL",
                    field="url",
                    value=None,
                    rule="must be given outside of a LangGraph server",
                )
            return get_client(url=None, api_key=None, timeout=timeout)
        key = self._api_key()
        return LangGraphClient(
            httpx.AsyncClient(
                base_url=url,
                timeout=httpx.Timeout(timeout),
                headers=_key_header(key),
                follow_redirects=False,
                event_hooks={"response": [_refuse_redirect]},
                trust_env=False,
                verify=_tls(),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
            )
        )

    def _api_key(self) -> str | None:
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise BadInput(
                f"api_key_env: {redact(self.api_key_env)!r} is not an environment variable "
                "that holds a key",
                field="api_key_env",
                value=redact(self.api_key_env),
                rule="must be an environment variable that holds a key",
            )
        return key


def _key_header(key: str | None) -> dict[str, str]:
    """A LangGraph server's own kind of key, or what its custom `auth` reads: `Bearer …`."""
    if key is None:
        return {}
    return {"authorization" if key.lower().startswith("bearer ") else "x-api-key": key}


async def _refuse_redirect(response: httpx.Response) -> None:
    """Nobody has allowed the host that a server would send us to."""
    if response.is_redirect:
        url = response.request.url
        where = host_of(response.headers.get("location", "")) or "another place"
        raise TargetRefused(
            f"{url.scheme}://{url.netloc.decode()} redirects to {where} (HTTP "
            f"{response.status_code}), and redirects are not followed: give the URL of the server",
            field="url",
            value=host_of(str(url)),
            rule="must be the server itself, not a redirect to it",
        )


def _problem(entry: Any, field: str, model: type[BaseModel]) -> dict[str, str]:
    place = ".".join([field, *(str(part) for part in entry["loc"] if part not in ("str", "tuple"))])
    rule = entry["msg"].removeprefix("Value error, ")
    rule = rule[0].lower() + rule[1:]
    value = entry.get("input")
    if entry["type"] == "missing":
        rule, value = "is needed", None
    if entry["type"] == "extra_forbidden":
        rule = f"is not a known field; known: {', '.join(sorted(model.model_fields))}"
    shown = "[redacted]" if place.endswith("api_key_env") else redact(shorten(value))
    return {"field": place, "value": shown, "rule": rule}


@cache
def _tls() -> ssl.SSLContext:
    """One context for all clients: making it takes longer than a call."""
    import httpx

    return httpx.create_ssl_context()
