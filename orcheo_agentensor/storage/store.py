"""`Store`: the side store as one object."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from orcheo_agentensor.errors import require_extra
from orcheo_agentensor.storage.records import Lease, utc_now
from orcheo_agentensor.storage.urls import StoreUrl, parse_store_url

if TYPE_CHECKING:
    from typing import Self

    from langgraph.checkpoint.base import BaseCheckpointSaver

    from orcheo_agentensor.storage.checkpoints import Aliases, Checkpoints
    from orcheo_agentensor.storage.datasets import Datasets
    from orcheo_agentensor.storage.engine import Context
    from orcheo_agentensor.storage.lease import OnBlocked
    from orcheo_agentensor.storage.ledger import Ledger
    from orcheo_agentensor.storage.maintenance import Maintenance
    from orcheo_agentensor.storage.media import Media
    from orcheo_agentensor.storage.runs import OptimizerStates, Runs
    from orcheo_agentensor.storage.workflows import Workflows


def _new_id() -> str:
    return uuid.uuid4().hex


class Store:
    """Runs, ledgers, datasets, versions and aliases in one database; see `Store.from_url`.

    Opens itself with the first call, works from any event loop (one after the other, too), and
    is closed by `close()`, `async with`, or the garbage collector.

    Args:
        target: The parsed URL of the database.
        clock: Gives the time.
        new_id: Gives new ids.

    Raises:
        BadInput: `Store.from_url` got a URL of another kind.
        NotFound: A method was asked for what is not stored.
        StoreError: The database cannot be used.

    Example:
        >>> import asyncio
        >>> from orcheo_agentensor import RunConfig, Store
        >>> async def main():
        ...     async with Store.from_url("sqlite:///agentensor.db") as store:
        ...         config = RunConfig.parse({"prompts": {"tone": "Kindly:"}}).to_json()
        ...         saved = await store.checkpoints.save(
        ...             workflow_id="support", runnable_config=config, metrics={}
        ...         )
        ...         version = saved.config_version
        ...         why = {"actor": "ann", "reason": "a first release"}
        ...         await store.aliases.move("support", "production", to=version, **why)
        ...         return await store.checkpoints.get("support", "production")
        >>> asyncio.run(main()).prompts["tone"].text
        'Kindly:'
    """

    def __init__(
        self,
        target: StoreUrl,
        *,
        clock: Callable[[], datetime] = utc_now,
        new_id: Callable[[], str] = _new_id,
    ) -> None:
        self.target = target
        self.clock = clock
        self.new_id = new_id

    @classmethod
    def from_url(
        cls,
        url: str | os.PathLike[str] | None = None,
        *,
        clock: Callable[[], datetime] = utc_now,
        new_id: Callable[[], str] = _new_id,
    ) -> Store:
        """The store at `url`: `sqlite:///PATH`, `postgresql://…`, `PATH.db`; None is in memory.

        Nothing is opened yet. Raises `BadInput` for a URL of another kind.
        """
        return cls(parse_store_url(url), clock=clock, new_id=new_id)

    def __repr__(self) -> str:
        return f"Store({self.target.shown!r})"

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @cached_property
    def _context(self) -> Context:
        from orcheo_agentensor.storage.engine import Context, Database

        return Context(Database(self.target), self.clock, self.new_id)

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """Versioned configs."""
        from orcheo_agentensor.storage.checkpoints import Checkpoints

        return Checkpoints(self._context)

    @cached_property
    def aliases(self) -> Aliases:
        """Names that point to versions."""
        from orcheo_agentensor.storage.checkpoints import Aliases

        return Aliases(self._context)

    @cached_property
    def runs(self) -> Runs:
        """Run records and leases."""
        from orcheo_agentensor.storage.runs import Runs

        return Runs(self._context)

    @cached_property
    def datasets(self) -> Datasets:
        """Dataset versions with their cases."""
        from orcheo_agentensor.storage.datasets import Datasets

        return Datasets(self._context)

    @cached_property
    def media(self) -> Media:
        """Images, sounds and files that cases and outputs refer to."""
        from orcheo_agentensor.storage.media import Media

        return Media(self._context)

    @cached_property
    def workflows(self) -> Workflows:
        """Owners, default configs, feature flags."""
        from orcheo_agentensor.storage.workflows import Workflows

        return Workflows(self._context)

    @cached_property
    def training(self) -> OptimizerStates:
        """Candidates and optimizer states."""
        from orcheo_agentensor.storage.runs import OptimizerStates

        return OptimizerStates(self._context)

    @cached_property
    def maintenance(self) -> Maintenance:
        """Figures and health of the database, and the removal of old runs."""
        from orcheo_agentensor.storage.maintenance import Maintenance

        return Maintenance(self._context)

    def ledger(
        self,
        run_id: str,
        *,
        lease: Lease,
        reuse: str | None = None,
        event_seq: Callable[[], int] | None = None,
        empty: bool = False,
        on_blocked: OnBlocked | None = None,
    ) -> Ledger:
        """The ledger of a run, for the holder of its lease; to be started.

        `reuse` names another run whose rows are found too. Every commit stores what `event_seq`
        returns, the number of the last event sent. `empty` says that nothing is recorded yet, which
        spares looking for it. `on_blocked` hears of an event loop that does not answer. Needs a
        running event loop.
        """
        from orcheo_agentensor.storage.ledger import Ledger

        return Ledger(
            run_id,
            db=self._context.db,
            clock=self.clock,
            lease=lease,
            reuse=reuse,
            event_seq=event_seq,
            empty=empty,
            on_blocked=on_blocked,
        )

    async def open(self) -> None:
        """Open the database; a fresh one gets its tables.

        Raises `StoreOutdated` or `StoreTooNew` for one of another release, `StoreError` where it
        cannot be opened.
        """
        await self._context.db.open()

    async def close(self) -> None:
        """Close the database. A store in memory is lost, any other opens again when it is used."""
        await self._context.db.close()

    async def schema_revision(self) -> str | None:
        """The revision of the database's schema; None for a fresh database."""
        return await self._context.db.revision()

    async def upgrade(self, revision: str = "head") -> None:
        """Run the migrations up to `revision`."""
        await self._context.db.upgrade(revision)

    async def downgrade(self, revision: str) -> None:
        """Run the migrations down to `revision`; `base` removes every table with its data."""
        await self._context.db.downgrade(revision)

    @cached_property
    def _memory_saver(self) -> BaseCheckpointSaver[Any]:
        from langgraph.checkpoint.memory import InMemorySaver

        from orcheo_agentensor.storage.saver import serializer

        return InMemorySaver(serde=serializer())

    @asynccontextmanager
    async def checkpointer(self) -> AsyncIterator[BaseCheckpointSaver[Any]]:
        """LangGraph's checkpointer beside this store, ready to use.

        In memory it is one saver for the life of the store.
        """
        if self.target.url is not None:
            require_extra("postgres", "psycopg", "psycopg_pool", "langgraph.checkpoint.postgres")
            from orcheo_agentensor.storage.saver_postgres import postgres_saver

            async with postgres_saver(self.target.url) as opened:
                yield opened
        elif self.target.path is not None:
            from orcheo_agentensor.storage.saver import saver_path, sqlite_saver

            async with sqlite_saver(saver_path(self.target.path)) as opened:
                yield opened
        else:
            yield self._memory_saver
