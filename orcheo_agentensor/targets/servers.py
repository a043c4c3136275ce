"""LangGraph servers and their assistants: how they are reached, and what they refuse."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast
from uuid import UUID

from langchain_core.runnables.config import var_child_runnable_config
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from orcheo_agentensor.errors import (
    BadInput,
    ConfigError,
    TargetRefused,
    TargetUnavailable,
    shorten,
)
from orcheo_agentensor.prompts import OFFERED, is_content
from orcheo_agentensor.redaction import is_secret_name, redact
from orcheo_agentensor.settings import Settings, check_plain_url, host_of, is_allowed
from orcheo_agentensor.upstream import in_langgraph_server

if TYPE_CHECKING:
    import ssl

    import httpx
    from langgraph_sdk.client import LangGraphClient


log = logging.getLogger(__name__)

T = TypeVar("T")
PromptsIn = Literal["auto", "configurable", "context"]

JOBS_TROUBLE = (400, 401, 403, 404, 422)
"""Statuses of answers that every case would get."""

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,127}")
_KEY_FIELDS = frozenset({"key", "token", "headers"})
_OURS = ("thread_id", "run_id", "agentensor")
_OURS_BEGIN = ("__", "checkpoint_", "langgraph_")
_AT_ONCE = 50
_GATHERING_SECONDS = 1.0
_FIRST_WAIT = 0.2
_LOOK_SECONDS = 0.1
_LOOK_PART = 0.1
_MORE_TRIES = 4


class AssistantAddress(BaseModel):
    """Where an assistant is; without `url`, on the LangGraph server that this process is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | tuple[str, ...] | None = Field(
        default=None, description="URL of the server, or several URLs to spread runs over."
    )
    assistant: str = Field(
        min_length=1, max_length=256, description="Id or name of an assistant, or id of a graph."
    )
    api_key_env: str | None = Field(
        default=None,
        description="The environment variable that holds the server's API key or 'Bearer …'.",
    )
    prompts_in: PromptsIn = Field(
        default="auto",
        description="How the deployed graph reads prompts; auto asks its context schema.",
    )

    @field_validator("url")
    @classmethod
    def _plain_urls(cls, url: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if url is None or url == "local":
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
            key = self.api_key_env
            if url is not None and key is not None and not settings.may_send_key(url, key):
                rule = (
                    f"is not bound to host {host_of(url)!r}; the operator binds it with "
                    f"AGENTENSOR_HOST_KEYS={host_of(url)}={key}"
                )
                raise BadInput(field=f"{field}.api_key_env", value=key, rule=rule)

    def client(self, url: str | None, *, settings: Settings, streams: bool) -> LangGraphClient:
        """A client of one server; with `streams`, reading from it has no time limit.

        Raises `BadInput` where the key is not in the environment, or there is no server here.
        """
        import httpx
        from langgraph_sdk.client import LangGraphClient, get_client

        seconds = settings.http_timeout
        timeout = (seconds, None if streams else seconds, seconds, seconds)
        if url is None:
            if not in_langgraph_server():
                raise BadInput(
                    "url: is left out, which means a graph of the LangGraph server that "
                    "runs this job, and no such server does; give the server's URL",
                    field="url",
                    value=None,
                    rule="must be given outside of a LangGraph server",
                )
            return get_client(url=None, api_key=None, timeout=timeout)
        return LangGraphClient(
            httpx.AsyncClient(
                base_url=url,
                timeout=httpx.Timeout(timeout),
                headers=self._key_header(),
                follow_redirects=False,
                event_hooks={"response": [_refuse_redirect]},
                trust_env=False,
                verify=_tls(),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
            )
        )

    def _key_header(self) -> dict[str, str]:
        """A LangGraph server's own kind of key, or what its custom `auth` reads: `Bearer …`."""
        if self.api_key_env is None:
            return {}
        key = os.environ.get(self.api_key_env, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise BadInput(
                f"api_key_env: {redact(self.api_key_env)!r} is not an environment variable "
                "that holds a key",
                field="api_key_env",
                value=redact(self.api_key_env),
                rule="must be an environment variable that holds a key",
            )
        return {"authorization" if key.lower().startswith("bearer ") else "x-api-key": key}


async def _refuse_redirect(response: httpx.Response) -> None:
    """Refuse a redirect: the operator has not allowed the host that it leads to."""
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


def not_langgraph(answer: object) -> TargetRefused:
    """The error for a server that is no LangGraph server, as its answer shows."""
    return TargetRefused(
        f"url: the server there does not answer as a LangGraph server: {shorten(answer)}",
        field="url",
        value=shorten(answer),
        rule="must be that of a LangGraph server",
    )


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where one deployed graph reads its prompts. `fields` is what its context schema has.

    A graph reads a prompt from `configurable.prompts.NAME` (`get_prompt` does), from a field of its
    context, or from wherever the prompt is bound. A server mirrors `configurable` into the context
    and the other way round, and takes only one of them in a request.
    """

    fields: Mapping[str, Any]
    prompts_in: PromptsIn = "auto"

    def path(self, name: str, prompt: Mapping[str, Any]) -> tuple[str, ...]:
        """The keys that lead to a prompt, below `configurable` or the context."""
        bind = prompt.get("bind")
        if bind:
            root, *path = str(bind).split(".")
            if root not in ("configurable", "context") or not all(path) or not path:
                raise BadInput(
                    field=f"prompts.{name}.bind",
                    value=bind,
                    rule="must be configurable.NAME or context.NAME",
                )
            if root == "context" and self.fields and path[0] not in self.fields:
                raise self._not_in_context(f"prompts.{name}.bind", bind)
            return tuple(path)
        if self.prompts_in != "configurable" and name in self.fields and not self._is_form(name):
            return (name,)
        if self.prompts_in == "context" and "prompts" not in self.fields:
            if self.fields:
                raise self._not_in_context(f"prompts.{name}", name)
            return (name,)
        return ("prompts", name)

    def put(
        self, prompts: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any]
    ) -> dict[str, Any]:
        """`values` (a `configurable` or a context) with the prompts in their places.

        Gives what to send: `{"configurable": ...}` or `{"context": ...}`, or nothing for nothing.
        """
        placed = {
            key: value
            for key, value in values.items()
            if key not in _OURS and not key.startswith(_OURS_BEGIN)
        }
        for name, prompt in prompts.items():
            path = self.path(name, prompt)
            here = placed
            for key in path[:-1]:
                inner = here.get(key)
                here[key] = here = dict(inner) if isinstance(inner, Mapping) else {}
            whole = path == ("prompts", name) and not self._takes_texts
            if not whole and is_content(prompt):
                raise BadInput(
                    field=f"prompts.{name}",
                    value=prompt["text"],
                    rule=f"has images or files, and the deployed graph takes a text at "
                    f"{'.'.join(path)}; let it read the prompt by get_prompt({name!r})",
                )
            here[path[-1]] = dict(prompt) if whole else prompt["text"]
        if not placed:
            return {}
        return {"context" if self._in_context(placed) else "configurable": placed}

    def _is_form(self, name: str) -> bool:
        """Whether a field is what a form sets of a prompt that the graph reads by its name."""
        field = self.fields[name]
        return isinstance(field, Mapping) and OFFERED in field

    @property
    def _takes_texts(self) -> bool:
        """Whether the graph declares `prompts` as a mapping of names to plain texts."""
        declared = self.fields.get("prompts")
        entries = declared.get("additionalProperties") if isinstance(declared, Mapping) else None
        return isinstance(entries, Mapping) and entries.get("type") == "string"

    def _not_in_context(self, field: str, value: Any) -> BadInput:
        rule = f"is not in the deployed graph's context ({', '.join(self.fields)})"
        return BadInput(field=field, value=value, rule=rule)

    def _in_context(self, placed: Mapping[str, Any]) -> bool:
        if self.prompts_in != "auto":
            return self.prompts_in == "context"
        return bool(self.fields) and set(placed) <= set(self.fields)


@dataclass(frozen=True, kw_only=True)
class Assistant:
    """An assistant as its server has it. `values` is its `configurable`, which its context mirrors;
    `settings` is the rest of its config."""

    id: str
    name: str
    graph_id: str
    version: int
    values: Mapping[str, Any]
    settings: Mapping[str, Any]
    metadata: Mapping[str, Any]
    schemas: Mapping[str, Any]
    edges: tuple[tuple[str, str], ...]

    def placement(self, prompts_in: PromptsIn) -> Placement:
        """How its graph reads prompts."""
        schema = self.schemas.get("context_schema") or {}
        return Placement(fields=schema.get("properties") or {}, prompts_in=prompts_in)


async def find_assistant(client: LangGraphClient, name: str, *, own: bool) -> Assistant:
    """The assistant that `look_up` finds. Raises `TargetRefused` where there is none."""
    found = await look_up(client, name, own=own)
    if found is None:
        raise TargetRefused(
            f"assistant: {name!r} is no assistant and no graph of that server",
            field="assistant",
            value=name,
            rule="must be an assistant or a graph of the server",
        )
    return found


async def takes_many(client: LangGraphClient) -> bool:
    """Whether the server is LangGraph's own, which finds and deletes the threads of a list.

    Others have something else at that address.
    """
    import httpx

    try:
        about = await client.http.get("/info")
    except (httpx.HTTPError, JSONDecodeError):
        return False
    return isinstance(about, Mapping) and "langgraph_py_version" in about


async def look_up(client: LangGraphClient, name: str, *, own: bool) -> Assistant | None:
    """The assistant with this id, the default one of this graph, or the one of this name; or None.

    `own` says that the server is the one that this process is: calls to it carry no user, so an
    assistant that belongs to another user is left out here. Raises `TargetRefused` where several
    assistants have the name, and what the SDK raises.
    """
    from langgraph_sdk.errors import NotFoundError

    found: list[Mapping[str, Any]] = []
    with suppress(NotFoundError):  # also what some servers say of a graph that they do not have
        if is_id(name):
            found = [_an_assistant(await client.assistants.get(name))]
        else:
            found = [
                _an_assistant(one)
                for one in await client.assistants.search(
                    graph_id=name, metadata={"created_by": "system"}, limit=1
                )
            ]
    if not found and not is_id(name):
        named = [_an_assistant(one) for one in await client.assistants.search(name=name)]
        found = [one for one in named if one["name"] == name and (not own or _is_visible(one))]
    if len(found) > 1:
        raise TargetRefused(
            f"assistant: {name!r} is the name of {len(found)} assistants; give the id of "
            f"one: {', '.join(one['assistant_id'] for one in found[:5])}",
            field="assistant",
            value=name,
            rule="must be one assistant",
        )
    if not found or (own and not _is_visible(found[0])):
        return None
    return await _described(client, found[0])


async def _described(client: LangGraphClient, found: Mapping[str, Any]) -> Assistant:
    """An assistant with its schemas and its graph's edges."""
    config = found.get("config") or {}
    schemas = await client.assistants.get_schemas(found["assistant_id"])
    return Assistant(
        id=found["assistant_id"],
        name=found.get("name") or found["graph_id"],
        graph_id=found["graph_id"],
        version=int(found.get("version") or 1),
        values={**(found.get("context") or {}), **(config.get("configurable") or {})},
        settings={k: v for k, v in config.items() if k != "configurable" and v},
        metadata=found.get("metadata") or {},
        schemas=cast("Mapping[str, Any]", schemas),
        edges=await _edges(client, found["assistant_id"]),
    )


def is_id(name: str) -> bool:
    """Whether this is an assistant's id, rather than a name."""
    try:
        UUID(name)
    except ValueError:
        return False
    return True


def _an_assistant(answer: object) -> Mapping[str, Any]:
    """The server's answer; raises `TargetRefused` unless it is an assistant."""
    if isinstance(answer, Mapping) and {"assistant_id", "graph_id", "name"} <= answer.keys():
        return answer
    raise not_langgraph(answer)


def _is_visible(found: Mapping[str, Any]) -> bool:
    """Whether the user of the graph run that we are in may see an assistant."""
    config = var_child_runnable_config.get() or {}
    user = (config.get("configurable") or {}).get("langgraph_auth_user_id")
    owner = (found.get("metadata") or {}).get("owner")
    return user is None or owner is None or owner == user


async def _edges(client: LangGraphClient, assistant_id: str) -> tuple[tuple[str, str], ...]:
    """The graph's static edges; none where the server cannot draw it."""
    from langgraph_sdk.errors import APIStatusError

    try:
        drawn = await client.assistants.get_graph(assistant_id)
    except APIStatusError:
        return ()
    return tuple((str(e["source"]), str(e["target"])) for e in drawn.get("edges", ()))


@dataclass
class Server:
    """One server, the assistant on it, and how its runs go.

    `in_flight` and `started` count our runs there, `running` those that its job slots have begun;
    `last_ended` is when the last of these ended, `away_since` when it has stopped to answer, in the
    loop's time. `prunes` says that it takes requests about many threads at once.
    """

    url: str | None
    assistant: Assistant
    away: bool = False
    in_flight: int = 0
    started: int = 0
    running: int = 0
    last_ended: float = 0.0
    away_since: float | None = None
    prunes: bool = False
    _clients: dict[asyncio.AbstractEventLoop, LangGraphClient] = field(default_factory=dict)
    _removals: dict[asyncio.AbstractEventLoop, _Removals] = field(default_factory=dict)
    _looks: dict[asyncio.AbstractEventLoop, _Looks] = field(default_factory=dict)

    def client(self, address: AssistantAddress, settings: Settings) -> LangGraphClient:
        """The client of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = address.client(self.url, settings=settings, streams=True)
        return self._clients[loop]

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Count a run on this server while the block lasts."""
        self.in_flight += 1
        self.started += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def thread(self, thread_id: str, *, after: float) -> Mapping[str, Any] | None:
        """What the server says of the thread of a run that took `after` seconds, or None.

        It is asked for several threads in one request, which none of our runs waits for longer than
        a tenth of its own time. None says nothing but that the thread has to be asked for alone.
        """
        if not self.prunes:
            return None
        loop = asyncio.get_running_loop()
        if loop not in self._looks:
            self._looks[loop] = _Looks(self._clients[loop])
        if self._looks[loop].is_refused:
            return None
        return await self._looks[loop].at(
            thread_id, others=self.in_flight - 1, patience=min(_LOOK_SECONDS, _LOOK_PART * after)
        )

    def remove(self, thread_id: str) -> None:
        """Delete the thread of a run that has ended, soon and together with others."""
        loop = asyncio.get_running_loop()
        if loop not in self._removals:
            self._removals[loop] = _Removals(self._clients[loop], self.prunes)
        self._removals[loop].add(thread_id)

    async def disconnect(self) -> None:
        """Close the running loop's client, once the threads of its runs are deleted."""
        loop = asyncio.get_running_loop()
        self._looks.pop(loop, None)
        removals = self._removals.pop(loop, None)
        if removals is not None:
            await removals.done()
        client = self._clients.pop(loop, None)
        if client is not None:
            await client.aclose()


@dataclass
class _Looks:
    """Asks for threads in groups: a request for each would cost a server a tenth of the run."""

    client: LangGraphClient
    is_refused: bool = False
    _waiting: dict[str, asyncio.Future[Mapping[str, Any] | None]] = field(default_factory=dict)
    _full: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    async def at(self, thread_id: str, *, others: int, patience: float) -> Mapping[str, Any] | None:
        """The thread; `others` are the runs that may ask within `patience`, too."""
        found: asyncio.Future[Mapping[str, Any] | None]
        found = self._waiting[thread_id] = asyncio.get_running_loop().create_future()
        if len(self._waiting) > min(others, _AT_ONCE - 1):
            self._full.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(patience))
        return await found

    async def _work(self, patience: float) -> None:
        while self._waiting:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._full.wait()
            self._full.clear()
            asked, self._waiting = self._waiting, {}
            known: dict[str, Mapping[str, Any]] = {}
            try:
                known = await self._search(list(asked))
            finally:
                for thread_id, found in asked.items():
                    if not found.done():
                        found.set_result(known.get(thread_id))

    async def _search(self, thread_ids: list[str]) -> dict[str, Mapping[str, Any]]:
        """What is found of them: nothing where the server does not answer, or not this."""
        import httpx

        try:
            found = await self.client.http.post(
                "/threads/search", json={"ids": thread_ids, "limit": len(thread_ids)}
            )
        except (httpx.HTTPError, JSONDecodeError, TargetRefused) as error:
            self.is_refused = isinstance(error, httpx.HTTPStatusError | TargetRefused)
            return {}
        known = {str(one.get("thread_id")): one for one in found}
        self.is_refused = not known.keys() <= set(thread_ids)  # it does not look at the list
        return known


@dataclass
class _Removals:
    """Deletes threads in groups: a request for each would cost a server a sixth of the run."""

    client: LangGraphClient
    prunes: bool
    _waiting: list[str] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None
    _closing: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, thread_id: str) -> None:
        self._waiting.append(thread_id)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def done(self) -> None:
        """Return once nothing waits any more."""
        self._closing.set()
        if self._task is not None:
            await self._task

    async def _work(self) -> None:
        import httpx

        failures = 0
        while self._waiting:
            with suppress(TimeoutError):
                async with asyncio.timeout(_GATHERING_SECONDS):
                    await self._closing.wait()
            gone, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
            try:
                await self._delete(gone)
                failures = 0
            except httpx.HTTPError as error:
                failures += 1
                if failures <= _MORE_TRIES and not isinstance(error, httpx.ConnectError):
                    self._waiting = [*gone, *self._waiting]
                    await asyncio.sleep(_FIRST_WAIT * 2**failures)
                    continue
                log.warning("%d threads stay on their server: %s", len(gone), redact(repr(error)))

    async def _delete(self, gone: list[str]) -> None:
        import httpx

        if self.prunes:
            try:
                await self.client.http.post(
                    "/threads/prune", json={"thread_ids": gone, "strategy": "delete"}
                )
                return
            except httpx.HTTPStatusError as error:
                if error.response.status_code >= 500:
                    raise
                self.prunes = False
        for thread_id in gone:
            with missing_is_fine():
                await self.client.threads.delete(thread_id)


async def queued_events(
    parts: AsyncGenerator[T], server: Server, *, patience: float
) -> AsyncGenerator[T]:
    """The events of a run on the server that runs our own job, which takes one of its slots.

    Raises `TargetUnavailable` where the run is queued and the server has begun none of ours for
    `patience` seconds: jobs like ours may hold all its slots, and would wait for ever.
    """
    loop = asyncio.get_running_loop()
    first = asyncio.ensure_future(anext(parts))
    try:
        while not (await asyncio.wait({first}, timeout=patience))[0]:
            if not server.running and loop.time() - server.last_ended >= patience:
                raise TargetUnavailable(
                    f"this server has begun none of the job's cases for {patience:g} s: its job "
                    "slots are taken, and one by this very job; start it with a higher "
                    "--n-jobs-per-worker (N_JOBS_PER_WORKER), then resume the run"
                )
    finally:
        if not first.done():
            first.cancel()
            await asyncio.wait({first})
    server.running += 1
    try:
        with suppress(StopAsyncIteration):
            yield first.result()
        async for part in parts:
            yield part
    finally:
        server.running -= 1
        server.last_ended = loop.time()


@contextmanager
def refusals(url: str | None, assistant: str) -> Iterator[None]:
    """Turn the answers that only a change of the job can mend into `TargetRefused`."""
    import httpx

    try:
        yield
    except JSONDecodeError as error:
        raise not_langgraph(error.doc) from None
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status not in JOBS_TROUBLE:
            raise
        why = {
            401: "the key is missing or wrong; name the variable that holds it in api_key_env",
            403: "this key may not do that",
            404: "there is no such assistant or graph",
        }.get(status, "the request is refused")
        raise TargetRefused(
            f"assistant: {assistant!r} at {url or 'this server'}: HTTP {status}: {why} "
            f"({getattr(error, 'message', error)})",
            field="assistant",
            value=assistant,
            rule=why,
        ) from None


@contextmanager
def missing_is_fine(*, or_server_error: bool = False) -> Iterator[None]:
    """Let a run or a thread be gone, or be busy, that is being removed."""
    import httpx

    try:
        yield
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status not in (404, 409) and not (or_server_error and status >= 500):
            raise
