"""Images, sounds and files that cases and prompts name by a path, a URL or in base64.

A case or a prompt keeps the form of its content blocks, with a reference in the place of the
base64. The bytes stay where they are until a run stores them, each once.
"""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import orjson

from orcheo_agentensor.errors import ConfigError, DatasetError
from orcheo_agentensor.media import (
    LEAST_STORED,
    PLACES,
    medium_of,
    place_in,
    reference_to,
    references_in,
    sniffed,
    with_references,
)
from orcheo_agentensor.prompts import ContentTensor, TextTensor
from orcheo_agentensor.settings import Settings, check_plain_url, host_of, is_allowed, read_settings

Medium: TypeAlias = "bytes | Path"
"""The bytes of a medium, or the file that has them."""

MAX_MEDIUM_BYTES = 64 * 1024 * 1024
"""Most bytes of one image, sound or file."""

_WITH_A_PATH = frozenset(
    {"type", *PLACES, "mime_type", "name", "filename", "detail", "id", "cache_control", "extras"}
)
"""The keys of a content block that names a file; one with others is a record of the user's own."""
_KINDS = {"image": ("image/",), "audio": ("audio/",), "video": ("video/",)}
_TELLING = frozenset(
    {"image/png", "image/jpeg", "image/gif", "image/webp", "audio/wav", "audio/x-wav"}
    | {"audio/flac", "audio/x-flac", "audio/ogg", "video/mp4", "video/webm", "application/pdf"}
)
"""Media types whose files always begin alike, so that a file that does not is none."""
_TIMEOUT = 30.0


@dataclass(frozen=True, kw_only=True)
class MediaAccess:
    """What may be read for the cases of a dataset, or for prompts.

    Args:
        base: The folder that paths start from, and must lead to; None is that of the dataset's
            file, else the working directory.
        folders: Further folders that paths may lead to.
        hosts: Hosts that media are fetched from.
        files: Whether paths may be followed at all.
    """

    base: Path | None = None
    folders: tuple[Path, ...] = ()
    hosts: tuple[str, ...] = ()
    files: bool = True

    @classmethod
    def of(cls, settings: Settings | None = None, *, files: bool = True) -> MediaAccess:
        """What the operator's settings allow."""
        found = settings or read_settings()
        folders = found.allowed_folders
        folders += () if found.dataset_dir is None else (found.dataset_dir,)
        return cls(folders=folders, hosts=found.allowed_hosts, files=files)


@dataclass
class Attachments:
    """Reads the media of the cases of one dataset, or of prompts, each file and URL once."""

    access: MediaAccess
    found: dict[str, Medium | None] = field(default_factory=dict)
    """SHA-256 -> its medium; None where a case refers to what a store has already."""
    unfetched: set[str] = field(default_factory=set)
    """Hosts of URLs that stay as they are, because nothing may be fetched from there."""
    _read: dict[str, tuple[str, str]] = field(default_factory=dict)

    def attach(self, data: Mapping[str, Any], where: str) -> dict[str, Any] | None:
        """The fields of a case that change, where it has media; None where it has none.

        Raises `DatasetError` for a medium that is missing, of the wrong kind, or not allowed.
        """
        changed = {}
        for name in ("inputs", "expected_output"):
            value = data.get(name)
            if isinstance(value, str | dict | list):
                if (made := self._walked(value, f"{where}: {name}")) is not value:
                    changed[name] = made
                for digest in references_in(made):
                    self.found.setdefault(digest, None)
        return changed or None

    def attach_prompts(self, prompts: Mapping[str, TextTensor]) -> dict[str, TextTensor]:
        """`prompts`, with references for the media in their content blocks.

        Raises `ConfigError` for a medium that is missing, of the wrong kind, or not allowed.
        """
        found = dict(prompts)
        for name, tensor in prompts.items():
            if not isinstance(tensor, ContentTensor):
                continue
            try:
                blocks = self._walked(tensor.blocks, f"prompts.{name}.blocks")
            except DatasetError as error:
                field, rule = f"prompts.{name}.blocks", error.rule
                raise ConfigError(field=field, value=error.value, rule=rule) from None
            for digest in references_in(blocks):
                self.found.setdefault(digest, None)
            if blocks is not tensor.blocks:
                found[name] = tensor.with_blocks(blocks)
        return found

    def in_base64(self) -> dict[str, str]:
        """The base64 of the media that are at hand: SHA-256 -> base64. Blocks."""
        found = {}
        for digest, medium in self.found.items():
            raw = read_again(medium, digest) if isinstance(medium, Path) else medium
            if raw is not None:
                found[digest] = base64.b64encode(raw).decode()
        return found

    def _walked(self, value: Any, where: str) -> Any:
        return with_references(self._filled(value, where), self._keep)

    def _keep(self, raw: bytes) -> None:
        digest = reference_to(raw).split(":")[1]
        if self.found.get(digest) is None:
            self.found[digest] = raw

    def _filled(self, value: Any, where: str) -> Any:
        """`value` with what its blocks name by a path or a URL; itself where none does."""
        if isinstance(value, dict):
            if isinstance(value.get("type"), str) and (made := self._block(value, where)):
                return made
            items: Any = {k: self._filled(v, f"{where}.{k}") for k, v in value.items()}
            return value if all(items[key] is value[key] for key in items) else items
        if isinstance(value, list):
            items = [self._filled(one, f"{where}.{n}") for n, one in enumerate(value)]
            return value if all(map(lambda a, b: a is b, items, value)) else items
        return value

    def _block(self, block: dict[str, Any], where: str) -> dict[str, Any] | None:
        medium = medium_of(block)
        if medium is None or medium.where is None or not block.keys() <= _WITH_A_PATH:
            return None
        named = place_in(block)
        if named is None:
            return None
        key, place = named
        inner = block[key]
        at = f"{where}.{key}.url" if isinstance(inner, dict) else f"{where}.{key}"
        if place.startswith(("https://", "http://")):
            found = self._fetched(place, medium.kind, medium.mime, at)
        elif "://" in place and not place.startswith("file://"):
            return None  # of a cloud: the target's own to fetch
        else:
            path = unquote(urlsplit(place).path) if place.startswith("file://") else place
            found = self._of_file(path, medium.kind, medium.mime, at)
        if found is None:
            return None
        reference, mime = found
        if key == "path" or key == "url":
            rest = {k: v for k, v in block.items() if k not in (key, "mime_type")}
            if medium.kind in ("file", "document") and not {"name", "filename"} & rest.keys():
                rest["filename"] = os.path.basename(place)
            return {**rest, "base64": reference, "mime_type": mime}
        url = f"data:{mime};base64,{reference}"
        return {**block, key: {**inner, "url": url} if isinstance(inner, dict) else url}

    def _of_file(self, path: str, kind: str, mime: str | None, where: str) -> tuple[str, str]:
        base = self.access.base or Path.cwd()
        if not self.access.files:
            rule = "is a file; files are off until the operator sets AGENTENSOR_DATASET_DIR"
            raise _refused(where, path, rule)
        try:
            file = (base / path).resolve()
            allowed = [one.resolve() for one in (base, *self.access.folders)]
        except (OSError, ValueError, RuntimeError) as error:
            raise _refused(where, path, f"is no path ({error})") from None
        if not any(file.is_relative_to(one) for one in allowed):
            raise _refused(
                where,
                path,
                f"is outside the folders that media are read from ({', '.join(map(str, allowed))});"
                " add its folder to AGENTENSOR_ALLOWED_FOLDERS",
            )
        if str(file) in self._read:
            reference, known = self._read[str(file)]
            return reference, _checked(known, kind, mime, where, path)
        raw = _content(file, where, path)
        known = _mime(raw, file.name, kind, where, path)
        self._read[str(file)] = reference, known = reference_to(raw, known), known
        self.found.setdefault(reference.split(":")[1], file)
        return reference, _checked(known, kind, mime, where, path)

    def _fetched(self, url: str, kind: str, mime: str | None, where: str) -> tuple[str, str] | None:
        """The reference and media type of what is there; None for a host that is not allowed."""
        try:
            allowed = is_allowed(check_plain_url(url), self.access.hosts)
        except ValueError as error:
            raise _refused(where, url, str(error)) from None
        if not allowed:
            self.unfetched.add(host_of(url))
            return None
        if url not in self._read:
            raw = _downloaded(url, where)
            known = _mime(raw, urlsplit(url).path, kind, where, url)
            self._keep(raw)
            self._read[url] = reference_to(raw, known), known
        reference, known = self._read[url]
        return reference, _checked(known, kind, mime, where, url)


def may_hold_media(*values: Any) -> bool:
    """Whether a closer look is worth while: most cases hold short texts and no content blocks."""
    try:
        text = orjson.dumps(values).decode()
    except TypeError:
        text = None
    if text is not None and len(text) < LEAST_STORED:  # one look at it takes half the time
        return '"type"' in text or '"data:' in text or '"agentensor-media:' in text
    level = [*values]
    while level:
        one = level.pop()
        kind = type(one)
        if kind is str:
            if len(one) >= LEAST_STORED or one.startswith(("agentensor-media:", "data:")):
                return True
        elif kind is dict:
            if "type" in one:
                return True
            level += one.values()
        elif kind is list:
            level += one
    return False


def _refused(where: str, value: str, rule: str) -> DatasetError:
    shown = value if len(value) <= 200 else f"{value[:199]}…"
    return DatasetError(
        f"{where}: {shown!r} {rule}", field=where.rpartition(": ")[2], value=shown, rule=rule
    )


def _content(file: Path, where: str, path: str) -> bytes:
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise _refused(where, path, f"is not there (looked for {file})") from None
    except OSError as error:
        raise _refused(where, path, f"cannot be read ({error.strerror})") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _refused(where, path, "is not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as source:
            raw = source.read(MAX_MEDIUM_BYTES + 1)
    finally:
        os.close(descriptor)
    return _sized(raw, where, path)


def read_again(file: Path, digest: str) -> bytes:
    """The bytes of a medium that was read before; raises `DatasetError` where it has changed."""
    raw = _content(file, "dataset", str(file))
    if hashlib.sha256(raw).hexdigest() != digest:
        raise _refused("dataset", str(file), "has changed since it was read")
    return raw


def _sized(raw: bytes, where: str, place: str) -> bytes:
    if not raw:
        raise _refused(where, place, "is empty")
    if len(raw) > MAX_MEDIUM_BYTES:
        raise _refused(where, place, f"is larger than {MAX_MEDIUM_BYTES:,} bytes")
    return raw


def _mime(raw: bytes, name: str, kind: str, where: str, place: str) -> str:
    """The media type of a file: by how it begins, else by its name."""
    known = sniffed(raw)
    guessed = mimetypes.guess_type(name)[0]
    if known is not None:  # a zip may be an office document, an mp4 a sound
        vague = known == "application/zip" or (known, kind) == ("video/mp4", "audio")
        return guessed or known if vague else known
    if guessed in _TELLING:
        raise _refused(where, place, f"is not {guessed}, as its name says: it begins {raw[:12]!r}")
    return guessed or "application/octet-stream"


def _checked(known: str, kind: str, mime: str | None, where: str, place: str) -> str:
    """`known`; raises `DatasetError` where the block says that it is something else."""
    if not known.startswith(_KINDS.get(kind, "")):
        raise _refused(where, place, f"is {known}, and the block is of type {kind!r}")
    if mime is not None and mime.lower() != known and known in _TELLING:
        raise _refused(where, place, f"is {known}, and the block says {mime}")
    return mime or known


def _downloaded(url: str, where: str) -> bytes:
    import httpx

    content = bytearray()
    client = httpx.Client(timeout=_TIMEOUT, follow_redirects=False, trust_env=False)
    try:
        with client, client.stream("GET", url) as response:
            if response.status_code != 200:
                raise _refused(where, url, f"was answered with HTTP {response.status_code}")
            for part in response.iter_raw():
                content += part
                if len(content) > MAX_MEDIUM_BYTES:
                    break
    except httpx.HTTPError as error:
        raise _refused(where, url, f"cannot be fetched ({type(error).__name__})") from None
    return _sized(bytes(content), where, url)
