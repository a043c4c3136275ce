"""Store URLs: the database that each names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orcheo_agentensor.errors import BadInput
from orcheo_agentensor.redaction import redact_url

_SQLITE = ("sqlite", "sqlite+aiosqlite", "sqlite+pysqlite")
_POSTGRES = ("postgres", "postgresql", "postgresql+psycopg")
_BARE = (".db", ".sqlite", ".sqlite3")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreUrl:
    """A parsed store URL; `shown` is the form for messages, without a password."""

    dialect: Literal["sqlite", "postgresql"]
    path: Path | None = None
    url: str | None = None
    shown: str = "in memory"

    @property
    def in_memory(self) -> bool:
        """Whether the data ends with the store."""
        return self.dialect == "sqlite" and self.path is None


def parse_store_url(url: str | os.PathLike[str] | None) -> StoreUrl:
    """The database that `url` means; raises `BadInput` for a URL of another kind.

    None is a database in memory; otherwise `sqlite:///PATH`, `postgresql://…` or a bare path
    ending in `.db`.
    """
    text = "sqlite://" if url is None else os.fspath(url).strip()
    if text == ":memory:":
        text = "sqlite://"
    scheme, found, rest = text.partition("://")
    scheme = scheme.lower()
    if not found:
        if text.endswith(_BARE):
            return StoreUrl(dialect="sqlite", path=Path(text).expanduser(), shown=text)
        raise _refused(text)
    if scheme in _SQLITE:
        return _sqlite(text, rest)
    if scheme in _POSTGRES:
        return StoreUrl(dialect="postgresql", url=f"postgresql://{rest}", shown=redact_url(text))
    raise _refused(text)


def _sqlite(text: str, rest: str) -> StoreUrl:
    place = rest.partition("?")[0]
    if place in ("", "/", "/:memory:"):
        return StoreUrl(dialect="sqlite")
    if not place.startswith("/"):
        raise BadInput(field="database_url", value=text, rule="needs three slashes: sqlite:///PATH")
    return StoreUrl(dialect="sqlite", path=Path(place[1:]).expanduser(), shown=text)


def _refused(text: str) -> BadInput:
    return BadInput(
        field="database_url",
        value=redact_url(text),
        rule="is not a store: use sqlite:///PATH, postgresql://USER:PASSWORD@HOST/NAME, "
        "a path ending in .db, or nothing for a store in memory",
    )
