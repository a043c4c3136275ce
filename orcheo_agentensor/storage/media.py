"""Images, sounds and files of cases, outputs and prompts, each stored once, by its hash."""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, insert, select

from orcheo_agentensor.errors import ConfigError, StoreError
from orcheo_agentensor.media import references_in, with_base64, with_references
from orcheo_agentensor.prompts import ContentTensor, TextTensor
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
        return with_base64(value, await self.in_base64(wanted)) if wanted else value

    async def in_base64(self, digests: Iterable[str]) -> dict[str, str]:
        """The base64 of each of these media. Raises `StoreError` for one that is not stored."""
        found: dict[str, str] = {}
        for digest in digests:
            text = self._held.get(digest)
            if text is None:
                text = base64.b64encode(await self.get(digest)).decode()
                self._hold(digest, text)
            else:
                self._held.move_to_end(digest)
            found[digest] = text
        return found

    async def kept(self, prompts: Mapping[str, TextTensor]) -> dict[str, TextTensor]:
        """Store the media that `prompts` hold in base64; the prompts, with references to them."""
        found = dict(prompts)
        for name, tensor in prompts.items():
            if isinstance(tensor, ContentTensor):
                media: list[bytes] = []
                blocks = with_references(tensor.blocks, media.append)
                for medium in media:
                    await self.put(medium)
                found[name] = tensor.with_blocks(blocks) if media else tensor
        return found

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


async def media_of_prompts(
    prompts: Mapping[str, TextTensor], *, stored: Media | None, known: Mapping[str, str]
) -> dict[str, str]:
    """The media that `prompts` refer to, SHA-256 -> base64: those `known`, else as `stored`.

    Raises `ConfigError`, naming the prompt, for one that is in neither.
    """
    found: dict[str, str] = {}
    for name, tensor in prompts.items():
        for digest in references_in(tensor.blocks) if isinstance(tensor, ContentTensor) else ():
            try:
                if digest in known:
                    found[digest] = known[digest]
                elif stored is not None:
                    found |= await stored.in_base64([digest])
                else:
                    raise StoreError(f"there is no store to look for SHA-256 {digest} in")
            except StoreError as error:
                raise ConfigError(
                    field=f"prompts.{name}.blocks",
                    value=tensor.text,
                    rule=f"refer to a medium that is missing: {error}; give the prompt again with "
                    "its base64, or the store of the run that has kept it",
                ) from None
    return found
