"""Large JSONL files, whose cases are read when they are needed.

One pass checks every case, and keeps of each where its line stands, its hash, its id and its split.
A case that is read later is held to that hash: a file that has changed since is refused.
"""

from __future__ import annotations

import os
import stat
import weakref
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from sys import intern
from typing import Any, cast, overload

from orcheo_agentensor.datasets import files
from orcheo_agentensor.datasets.attachments import Attachments, MediaAccess
from orcheo_agentensor.datasets.cases import (
    Case,
    decode_line,
    digest_of,
    parse_case,
    with_media,
)
from orcheo_agentensor.datasets.files import UTF8, kind_of, not_in_encoding
from orcheo_agentensor.errors import DatasetError

STREAMED_FROM = 64 * 1024 * 1024
"""From so many bytes on a file is read as needed; smaller ones are faster in memory."""

MAX_STREAMED_BYTES = 16 * 1024 * 1024 * 1024
MAX_LINE_BYTES = 64 * 1024 * 1024
"""Most bytes of a file that is streamed, and of one of its cases."""

_KEPT = 128
_DIGEST = 32


def is_streamed(path: Path, encoding: str | None) -> bool:
    """Whether a file is one to be read as needed: a large one of lines in UTF-8."""
    if kind_of(path) not in (".jsonl", ".ndjson") or path.suffix.lower() == ".gz":
        return False
    if not hasattr(os, "pread"):
        return False
    if encoding is not None and encoding.lower().replace("_", "-") not in ("utf-8", "utf8", UTF8):
        return False
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size >= STREAMED_FROM


class HoldsMedia(Exception):
    """A case names images, sounds or files, which are read with the whole dataset."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where


class _LineIndex:
    """The lines of a file that hold cases. Raises `DatasetError` and `HoldsMedia`."""

    def __init__(self, path: Path, media: Attachments) -> None:
        self.name = path.name
        self._media = media
        self.offsets, self.lengths, self.numbers = array("Q"), array("L"), array("Q")
        self.digests = bytearray()
        self.ids: list[str] = []
        self.splits: list[str | None] = []
        self.talks = False
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._recent: OrderedDict[int, Case] = OrderedDict()
        if os.fstat(self._descriptor).st_size > MAX_STREAMED_BYTES:
            raise DatasetError(
                f"{path}: cannot be read (is larger than {MAX_STREAMED_BYTES:,} bytes)",
                field="path",
                value=str(path),
                rule="must be a readable file",
            )
        self._index()

    def _index(self) -> None:
        seen: dict[str, int] = {}
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            at, number = 0, 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                begin, at = at, at + len(line)
                if len(line) > MAX_LINE_BYTES:
                    rule = f"must be a line of at most {MAX_LINE_BYTES:,} bytes"
                    raise DatasetError(f"{self.name}:{number}: {rule}", field="path", rule=rule)
                if line.isspace():
                    continue
                where = f"{self.name}:{number}"
                case = self._parsed(line, number, where, first=begin == 0)
                if with_media(case, self._media, where=where) is not case or self._media.found:
                    raise HoldsMedia(where)
                if (before := seen.setdefault(case.id, number)) != number:
                    raise DatasetError(
                        f"{where}: id: {case.id!r} is already the id of {self.name}:{before}",
                        field="id",
                        value=case.id,
                        rule="must be unique in the dataset",
                    )
                self.offsets.append(begin)
                self.lengths.append(len(line))
                self.numbers.append(number)
                self.digests += digest_of(case)
                self.ids.append(case.id)
                self.talks |= case.conversation
                self.splits.append(None if case.split is None else intern(case.split))
        if not self.ids:
            raise DatasetError(f"{self.name}: holds no case", field="path", rule="holds no case")

    def _parsed(self, line: bytes, number: int, where: str, *, first: bool) -> Case:
        try:
            text = line.decode(UTF8 if first else "utf-8")
        except UnicodeDecodeError as error:
            raise not_in_encoding(line, error, self.name, None, above=number - 1) from None
        return parse_case(decode_line(text, where), where=where)

    def read(self, place: int) -> Case:
        """A case, as it was when the file was first read."""
        if (known := self._recent.get(place)) is not None:
            return known
        begin, number = self.offsets[place], self.numbers[place]
        line = os.pread(self._descriptor, self.lengths[place], begin)
        where = f"{self.name}:{number}"
        try:
            case = self._parsed(line, number, where, first=begin == 0)
            same = digest_of(case) == self.digest(place)
        except DatasetError:
            same = False
        if not same:
            raise DatasetError(
                f"{where}: the file has changed since the run began; leave it as it is while a run "
                "reads from it, or start a new run",
                field="path",
                rule="must stay as it is",
            )
        self._recent[place] = case
        if len(self._recent) > _KEPT:
            self._recent.popitem(last=False)
        return case

    def digest(self, place: int) -> bytes:
        """The hash of a case in the file."""
        return bytes(self.digests[place * _DIGEST : (place + 1) * _DIGEST])


class StreamedCases(Sequence[Case]):
    """Cases of a file in an order, each with the split of the file or with another one."""

    def __init__(
        self,
        lines: _LineIndex,
        places: Sequence[int] | None = None,
        splits: Sequence[str | None] | None = None,
    ) -> None:
        self._lines = lines
        self._places = range(len(lines.ids)) if places is None else places
        self._splits = splits

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> StreamedCases: ...
    def __getitem__(self, index: int | slice) -> Case | StreamedCases:
        if isinstance(index, slice):
            return self.picked(range(len(self))[index])
        case = self._lines.read(self._places[index])
        if self._splits is None or self._splits[index] == case.split:
            return case
        return case.model_copy(update={"split": self._splits[index]})

    def __iter__(self) -> Iterator[Case]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StreamedCases) and [*self.digests()] == [*other.digests()]

    __hash__ = None  # type: ignore[assignment]

    def later(self, index: int) -> Case:
        """What stands for a case, and reads it when anything of it is asked for."""
        return cast("Case", _Later(self, index))

    @property
    def ids(self) -> Sequence[str]:
        """The ids, without a look into the file."""
        return [self._lines.ids[place] for place in self._places]

    @property
    def splits(self) -> Sequence[str | None]:
        """The splits, without a look into the file."""
        if self._splits is not None:
            return self._splits
        return [self._lines.splits[place] for place in self._places]

    @property
    def talks(self) -> bool:
        """Whether any case of the file is a conversation."""
        return self._lines.talks

    def digests(self) -> Iterator[bytes]:
        """The hash of each case; only those with another split than in the file are read."""
        theirs = self._lines.splits
        for index, place in enumerate(self._places):
            if self._splits is None or self._splits[index] == theirs[place]:
                yield self._lines.digest(place)
            else:
                yield digest_of(self[index])

    def picked(self, indices: Sequence[int]) -> StreamedCases:
        """Some of the cases."""
        places = array("Q", (self._places[index] for index in indices))
        splits = None if self._splits is None else [self._splits[index] for index in indices]
        return StreamedCases(self._lines, places, splits)

    def with_splits(self, splits: Sequence[str | None]) -> StreamedCases:
        """The same cases with these splits."""
        return StreamedCases(self._lines, self._places, [*splits])


class _Later:
    """A case of a file that is not in memory."""

    __slots__ = ("_cases", "_index")

    def __init__(self, cases: StreamedCases, index: int) -> None:
        self._cases, self._index = cases, index

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cases[self._index], name)


def ids_of(cases: Sequence[Case]) -> Sequence[str]:
    """The ids of cases."""
    return cases.ids if isinstance(cases, StreamedCases) else [case.id for case in cases]


def splits_of(cases: Sequence[Case]) -> Sequence[str | None]:
    """The splits of cases."""
    return cases.splits if isinstance(cases, StreamedCases) else [case.split for case in cases]


def digests_of(cases: Sequence[Case]) -> Iterator[bytes]:
    """The hashes of cases."""
    if isinstance(cases, StreamedCases):
        return cases.digests()
    return map(digest_of, cases)


def streamed(path: Path, access: MediaAccess) -> tuple[StreamedCases, tuple[str, ...]] | None:
    """The cases of a large file, and hosts of media that are not fetched; None for a file that has
    to be read whole, because of its media. Blocking, once through the file.

    Raises `DatasetError` naming the line, also where the file is too large to be read whole.
    """
    media = Attachments(access)
    try:
        return StreamedCases(_LineIndex(path, media)), tuple(sorted(media.unfetched))
    except HoldsMedia as held:
        most = files.MAX_FILE_BYTES
        if path.stat().st_size <= most:
            return None
        raise DatasetError(
            f"{held.where}: holds media, which files of more than {most:,} bytes cannot "
            "have; put these cases into a file of their own",
            field="path",
            rule="must hold no media",
        ) from None
