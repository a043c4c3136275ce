"""Images, sounds and files of cases and outputs, each stored once, under the hash of its bytes."""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, insert, select

from orcheo_agentensor.errors import StoreError
from orcheo_agentensor.media import references_in, with_base64
from orcheo_agentensor.storage.engine import Context, Repository
from orcheo_agentensor.storage.tables import media

MOST_HELD = 64 * 1024 * 1024
"""Characters of base64 that are kept in memory."""


class Media(Repository):
    """The repository of media."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._held: OrderedDict[str, str] = OrderedDict()
        self._size = 0

    async def put(self, content: bytes) -> str:
        """Store these bytes, where they are not there yet; returns their SHA-256."""
        digest = hashlib.sha256(content).hexdigest()

        def work(connection: Connection) -> None:
            there = select(media.c.sha256).where(media.c.sha256 == digest)
            if connection.execute(there).first() is None:
                row = {"sha256": digest, "content": content, "created_at": self._clock()}
                connection.execute(insert(media).values(row))

        if digest not in self._held:
            await self._db.write(work, lock=f"medium:{digest}")
            self._hold(digest, base64.b64encode(content).decode())
        return digest

    async def missing(self, digests: Iterable[str]) -> set[str]:
        """Those that are not stored."""
        wanted = {*digests} - self._held.keys()
        if not wanted:
            return set()
        query = select(media.c.sha256).where(media.c.sha256.in_(sorted(wanted)))
        return wanted - await self._db.read(lambda connection: {*connection.scalars(query)})

    async def restored(self, value: Any) -> Any:
        """A JSON value with the base64 of what it refers to; itself where it refers to nothing.

        Raises `StoreError` for what is not stored.
        """
        wanted = references_in(value)
        if not wanted:
            return value
        found: dict[str, str] = {}
        for digest in wanted:
            text = self._held.get(digest)
            if text is None:
                text = base64.b64encode(await self.get(digest)).decode()
                self._hold(digest, text)
            else:
                self._held.move_to_end(digest)
            found[digest] = text
        return with_base64(value, found)

    async def get(self, digest: str) -> bytes:
        """The bytes with this SHA-256. Raises `StoreError` where they are not stored."""
        query = select(media.c.content).where(media.c.sha256 == digest)
        content = await self._db.read(lambda connection: connection.scalar(query))
        if content is None:
            raise StoreError(f"the medium with SHA-256 {digest} is not in this store")
        return bytes(content)

    def _hold(self, digest: str, text: str) -> None:
        if digest in self._held:
            return
        self._held[digest] = text
        self._size += len(text)
        while self._size > MOST_HELD and len(self._held) > 1:
            _, gone = self._held.popitem(last=False)
            self._size -= len(gone)
