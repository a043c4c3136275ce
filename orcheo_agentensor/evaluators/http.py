"""`HTTPEvaluator`: a scorer behind a URL."""

from __future__ import annotations

import ssl
from functools import cache
from typing import Any, ClassVar

from pydantic import Field, field_validator

from orcheo_agentensor.errors import EvaluatorRefused
from orcheo_agentensor.evaluators.builtin import Builtin
from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.settings import Settings, check_plain_url, host_of, is_allowed

MAX_RESPONSE = 1_048_576


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
        async with (
            httpx.AsyncClient(
                verify=_tls(), timeout=self.timeout, follow_redirects=False, trust_env=False
            ) as client,
            client.stream("POST", self.url, json=body, headers=self.headers) as response,
        ):
            content = b""
            async for part in response.aiter_bytes():
                content += part
                if len(content) > MAX_RESPONSE:
                    raise ValueError(f"the response is larger than {MAX_RESPONSE:,} bytes")
        if not response.is_success:
            raise RefusedByService(
                f"HTTP {response.status_code} from {host_of(self.url)}",
                status_code=response.status_code,
            )
        import json

        return json.loads(content)


@cache
def _tls() -> ssl.SSLContext:
    """One context for all calls: making it takes longer than a call."""
    import httpx

    return httpx.create_ssl_context(trust_env=False)
