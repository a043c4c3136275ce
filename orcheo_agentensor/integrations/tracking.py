"""Finished runs, sent to where a team keeps its experiments: `agentensor export RUN --to mlflow`.

What is sent and how is in a module for each service; here is what they share: which address and
which keys, how a request fails, and the cases of a run, page by page. Addresses and keys come from
the environment only, in the variables that the service's own client reads, and the host must be
one of `AGENTENSOR_ALLOWED_HOSTS`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

from orcheo_agentensor.errors import BadInput, ExportFailed, NotFound, shorten
from orcheo_agentensor.redaction import redact, redact_url
from orcheo_agentensor.settings import Settings, check_plain_url, host_of, is_allowed, read_settings

if TYPE_CHECKING:
    import httpx

    from orcheo_agentensor.storage import CaseRow, RunRecord, Store

TrackerName: TypeAlias = Literal["mlflow", "langfuse"]
TRACKERS: tuple[str, ...] = get_args(TrackerName)

_PAGE = 500
_ATTEMPTS = 5
_BUSY = frozenset({429, 503})
_LONGEST_WAIT = 30.0  # seconds between two attempts


@dataclass(kw_only=True)
class Exported:
    """What an export has sent: `url` leads to it; `notes` say what was left out, and why."""

    to: str
    run_id: str
    url: str
    cases: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run that has its result, as services are told of it.

    `versions` are those of a training; `files` are reports to keep beside the numbers.
    """

    record: RunRecord
    manifest: Mapping[str, Any]
    versions: Sequence[tuple[int, Mapping[str, Any]]]
    files: Mapping[str, bytes]
    store: Store

    @property
    def summary(self) -> Mapping[str, Any]:
        """The summary of the evaluation, or of a training's best version on validation."""
        found: Mapping[str, Any] = (self.record.result or {})["summary"]
        return found

    @property
    def prompts(self) -> dict[str, str]:
        """The texts that were evaluated, or those of a training's best version."""
        best = (self.record.result or {}).get("best") or {}
        found = best.get("prompts") or self.record.config.get("configurable", {}).get("prompts", {})
        return {name: one["text"] for name, one in found.items() if isinstance(one, Mapping)}

    async def cases(self) -> AsyncIterator[list[tuple[CaseRow, Mapping[str, Any]]]]:
        """Its rollouts with their cases, a page at a time."""
        after = None
        while rows := await self.store.runs.case_rows(self.record.run_id, after=after, limit=_PAGE):
            known: Mapping[str, Mapping[str, Any]] = {}
            if self.record.dataset_id is not None:
                wanted = {row.rollout.case_id for row in rows}
                version = str(self.record.dataset_version)
                known = await self.store.datasets.cases(self.record.dataset_id, version, wanted)
            yield [(row, known.get(row.rollout.case_id, {})) for row in rows]
            last = rows[-1].rollout
            after = (last.case_id, last.replicate, last.key)


class Tracker(Protocol):
    """A service that runs are exported to."""

    async def send(self, run: FinishedRun) -> Exported:
        """Send a run; one that is there already is brought up to date."""
        ...


async def aexport(
    run_id: str,
    *,
    to: TrackerName,
    store: Store,
    files: Mapping[str, bytes] | None = None,
    settings: Settings | None = None,
) -> Exported:
    """Send a finished run to a service that tracks experiments.

    Args:
        run_id: The run: an evaluation or a training that has its result.
        to: "mlflow" or "langfuse".
        store: The store that holds it.
        files: Reports to keep beside its numbers, by file name, where the service takes files.
        settings: The operator's settings; those of the environment when left out.

    Returns:
        What was sent, and where it is.

    Raises:
        BadInput: The run has no result, or the environment lacks the address or a key, or its host
            is not allowed.
        ExportFailed: The service could not be reached, or has refused something.
    """
    settings = settings or read_settings()
    record = await store.runs.get(run_id)
    if record.mode == "run" or record.status == "running" or "summary" not in (record.result or {}):
        raise BadInput(
            f"run {run_id!r} is {record.status} and has no result to export: name an evaluation or "
            "a training that has ended",
            field="run",
            value=run_id,
            rule="must be an evaluation or a training that has ended",
        )
    tracker = _tracker(to, settings)
    try:
        manifest: Mapping[str, Any] = await store.runs.manifest(run_id)
    except NotFound:  # it was recorded without one
        manifest = {}
    versions = []
    if record.mode == "train":
        found = await store.checkpoints.list(record.workflow_id, run_id=run_id, limit=None)
        versions = sorted((one.config_version, one.metrics) for one in found)
    run = FinishedRun(
        record=record, manifest=manifest, versions=versions, files=files or {}, store=store
    )
    return await tracker.send(run)


def _tracker(name: str, settings: Settings) -> Tracker:
    if name == "mlflow":
        from orcheo_agentensor.integrations.mlflow import MLflow

        return MLflow(settings=settings)
    if name == "langfuse":
        from orcheo_agentensor.integrations.langfuse import Langfuse

        return Langfuse(settings=settings)
    raise BadInput(field="to", value=name, rule=f"must be one of: {', '.join(TRACKERS)}")


def address(*variables: str, default: str | None = None, settings: Settings) -> str:
    """The address that the first set of these environment variables gives; an allowed one.

    Raises `BadInput` for none, one that is no plain URL, and a host that is not allowed.
    """
    name = next((one for one in variables if os.environ.get(one, "").strip()), variables[0])
    url = os.environ.get(name, "").strip() or default
    if url is None:
        raise BadInput(
            f"{name} is not set: it must be the address of the server to export to",
            field=name,
            value=None,
            rule="must be set in the environment",
        )
    try:
        check_plain_url(url)
    except ValueError as error:
        shown = redact_url(url)
        raise BadInput(f"{name}: {shown!r} {error}", field=name, value=shown) from None
    if not is_allowed(url, settings.allowed_hosts):
        host = host_of(url)
        raise BadInput(
            f"{name}: host {host!r} is not allowed; add it to AGENTENSOR_ALLOWED_HOSTS",
            field=name,
            value=host,
            rule="must be an allowed host",
        )
    return url.rstrip("/")


def secret(name: str) -> str:
    """A key in the environment, or "". Raises `BadInput` for one that no header can hold."""
    value = os.environ.get(name, "").strip()
    if not value.isascii() or not (value.isprintable() or not value):
        raise BadInput(
            f"{name} holds characters that no key has", field=name, rule="must be printable ASCII"
        )
    return value


class Requests:
    """Requests to one service: JSON there and back, tried again where it is busy."""

    def __init__(self, client: httpx.AsyncClient, *, service: str, keys: str) -> None:
        self._client = client
        self._service = service
        self._keys = keys

    async def call(
        self, method: str, path: str, *, missing: Sequence[int] = (), **body: Any
    ) -> Any:
        """The answer of the service; None for a status in `missing`. Raises `ExportFailed`."""
        import httpx

        from orcheo_agentensor.evaluation.paid_calls import retry_after

        for attempt in range(1, _ATTEMPTS + 1):
            try:
                response = await self._client.request(method, path, **body)
            except httpx.HTTPError as error:
                raise ExportFailed(
                    f"{self._where(path)} could not be reached: {type(error).__name__}: "
                    f"{redact(str(error))}"
                ) from error
            if response.is_success:
                try:
                    return response.json() if response.content else {}
                except ValueError:
                    what = "answered with something else than JSON"
                    raise self._failed(path, response, what) from None
            if response.status_code in missing:
                return None
            if response.status_code not in _BUSY or attempt == _ATTEMPTS:
                break
            busy = httpx.HTTPStatusError("busy", request=response.request, response=response)
            asked = retry_after(busy) or (0.0 if "retry-after" in response.headers else attempt)
            await asyncio.sleep(min(asked, _LONGEST_WAIT))
        if response.status_code in (401, 403):
            raise self._failed(path, response, f"does not take the keys in {self._keys}")
        if response.is_redirect:
            raise self._failed(path, response, "redirects, and redirects are not followed")
        raise self._failed(path, response, "refused the request")

    def _where(self, path: str) -> str:
        return f"{self._service} at {redact_url(str(self._client.base_url)).rstrip('/')}{path}"

    def _failed(self, path: str, response: httpx.Response, what: str) -> ExportFailed:
        said = redact(shorten(response.text, 300))
        return ExportFailed(f"{self._where(path)} {what} (HTTP {response.status_code}): {said}")


@asynccontextmanager
async def requests(
    url: str, *, service: str, keys: str, settings: Settings, **options: Any
) -> AsyncIterator[Requests]:
    """Open a connection to a service. Proxies and keys that the environment names are not used."""
    import httpx

    async with httpx.AsyncClient(
        base_url=url,
        timeout=settings.http_timeout,
        follow_redirects=False,
        trust_env=False,
        **options,
    ) as client:
        yield Requests(client, service=service, keys=keys)
