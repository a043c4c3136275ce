"""Content blocks: their text, and what their images, sounds and files are shown as.

A model that sees gets images as blocks. For everybody else a medium is a short label such as
`[image/png 1.3 MB 640x480 sha256 9a2f41c0]`, never its base64. What is stored holds a reference in
the place of the base64, with the same label; the store keeps the bytes once.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

_BLOCKS = re.compile(
    r"(input_|output_|server_)?(text|image|image_url|audio|video|file|document|media|refusal|"
    r"thinking|redacted_thinking|reasoning|reasoning_content|citation|tool_use|tool_call|"
    r"web_search_call|non_standard|text-plain)"
)
_MEDIA_BLOCK = re.compile(r"(?:input_)?(image|audio|video|file|document|media)(?:_url)?")
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w=.-]+)*;base64,", re.ASCII)
_IN_TEXT = re.compile(
    r"(?:data:(?P<mime>[\w.+-]+/[\w.+-]+)?(?:;[\w=.-]+)*;base64,)?"
    r"(?P<data>[A-Za-z0-9+/_-]{400,}={0,2})",
    re.ASCII,
)
_MARK = "agentensor-media:"
_REFERENCE = re.compile(
    rf"{_MARK}(?P<sha256>[0-9a-f]{{64}}):(?P<size>[0-9]{{1,12}})"
    r":(?P<mime>[a-z0-9.+-]+/[a-z0-9.+-]+)?(?::(?P<pixels>[0-9]{1,6}x[0-9]{1,6}))?",
    re.ASCII,
)
_REFERENCE_IN_TEXT = re.compile(rf"(?:data:[\w.+/;=-]*;base64,)?(?P<data>{_REFERENCE.pattern})")
LEAST_STORED = 1_000
"""Characters of base64 from which a medium is kept apart from the rest of its case or output."""
_SHORTEST = 400
"""Characters of base64 below which a text is shown as it is."""
_SURELY_BASE64 = 4_000
"""Characters from which a text of base64's alphabet is taken for it, whatever it holds."""
_ALPHABET = (re.compile("[a-z]"), re.compile("[A-Z]"), re.compile("[0-9]"))
_MAGIC = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"RIFF....WAVE", re.DOTALL), "audio/wav"),
    (re.compile(rb"ID3|\xff[\xfb\xf3\xf2]"), "audio/mpeg"),
    (re.compile(rb"OggS"), "audio/ogg"),
    (re.compile(rb"fLaC"), "audio/flac"),
    (re.compile(rb"....ftyp", re.DOTALL), "video/mp4"),
    (re.compile(rb"\x1aE\xdf\xa3"), "video/webm"),
    (re.compile(rb"%PDF-"), "application/pdf"),
    (re.compile(rb"PK\x03\x04"), "application/zip"),
)
SEEN = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
"""The images that the providers of models take."""
_WHERE = ("url", "image_url", "video_url", "audio_url", "uri", "file_uri", "path", "file_id")
PLACES = ("path", "url", "image_url", "audio_url", "video_url")
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True, kw_only=True)
class Medium:
    """An image, a sound or a file: its base64, or where it is."""

    kind: str
    mime: str | None = None
    data: str | None = None
    where: str | None = None
    name: str | None = None

    @property
    def label(self) -> str:
        """What it is shown as to those who cannot see it."""
        named = [self.name] if self.name else []
        if self.data is None:
            where = str(self.where)
            where = where if len(where) <= 200 else f"{where[:199]}…"
            return f"[{' '.join([self.mime or self.kind, *named, where])}]"
        if (kept := _REFERENCE.fullmatch(self.data)) is not None:
            facts = [kept["mime"] or self.mime or "binary data", *named, _bytes(int(kept["size"]))]
            facts += [kept["pixels"]] if kept["pixels"] else []
            return f"[{' '.join([*facts, 'sha256', kept['sha256'][:8]])}]"
        raw = _decoded(self.data)
        mime = self.mime or sniffed(raw) or "binary data"
        size = _pixels(raw)
        pixels = [f"{size[0]}x{size[1]}"] if size else []
        digest = hashlib.sha256(raw).hexdigest()[:8]
        return f"[{' '.join([mime, *named, _bytes(len(raw)), *pixels, 'sha256', digest])}]"

    @property
    def url(self) -> str | None:
        """As an image for a model; None for what no model takes."""
        if self.data is None:
            known = self.kind == "image" or (self.mime or "").startswith("image/")
            is_url = str(self.where).startswith(("https://", "http://"))
            return self.where if known and is_url else None
        if _REFERENCE.fullmatch(self.data):
            return None
        mime = sniffed(_decoded(self.data[:64])) or self.mime
        return f"data:{mime};base64,{self.data}" if mime in SEEN else None


@dataclass
class Images:
    """The images that a model is shown beside a text, each once, at most `most` of them."""

    most: int | None = None
    blocks: list[dict[str, Any]] = field(default_factory=list)
    _places: dict[str, int] = field(default_factory=dict)

    def mark(self, medium: Medium, block: Any = None) -> str | None:
        """What stands for an image in the text; None for one that is not shown."""
        url = medium.url
        if url is None:
            return None
        if url not in self._places:
            if self.most is not None and len(self.blocks) >= self.most:
                return None
            whole = isinstance(block, dict) and isinstance(block.get("image_url"), dict)
            self.blocks.append(block if whole else {"type": "image_url", "image_url": {"url": url}})
            self._places[url] = len(self.blocks)
        return f"[image {self._places[url]}]"


def sees(model: Any, *, told: bool | None, unknown: bool) -> bool:
    """Whether a chat model takes images: what somebody `told`, else what its profile says."""
    profile = getattr(model, "profile", None)
    said = profile.get("image_inputs") if isinstance(profile, dict) else None
    return next((one for one in (told, said) if one is not None), unknown)


def text_of_blocks(value: Any) -> str | None:
    """The text of a list of content blocks, without reasoning and media; None for another value."""
    if not isinstance(value, list):
        return None
    texts: list[str] = []
    blocks = 0
    for block in value:
        if isinstance(block, str):
            texts.append(block)
            continue
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(kind, str) or not _BLOCKS.fullmatch(kind):
            return None
        blocks += not kind.endswith(("_use", "_call"))  # a list of tool calls is none of blocks
        if kind.endswith("text") and isinstance(block.get("text"), str):
            texts.append(block["text"])
    return "".join(texts) if blocks else None


def shown(value: Any, images: Images | None = None) -> Any:
    """A JSON value as a model is shown it: lists of content blocks as their text, without
    reasoning; each image as a mark, with its block in `images`, and other media as labels."""
    if isinstance(value, str):
        value = _labelled_references(value)
        if len(value) < _SHORTEST:
            return value
        return _IN_TEXT.sub(lambda found: _in_text(found, images), value)
    if isinstance(value, list):
        items = [_block_as_text(item, images) for item in value]
        text = text_of_blocks(items)
        return items if text is None else text
    if not isinstance(value, dict):
        return value
    medium = medium_of(value)
    # A URL alone does not tell a content block from a record of the user's own about a file.
    if medium is not None and (medium.kind == "image" or medium.data is not None):
        return _as_mark(medium, images, value)
    blocks = value.get("content_blocks")
    if isinstance(blocks, list):
        value = {**value, "content": blocks}
    return {key: shown(item, images) for key, item in value.items() if key != "content_blocks"}


def label_media(text: str) -> str:
    """`text` with a label for each data URL, each long piece of base64 and each reference in it."""
    text = _labelled_references(text)
    if len(text) < _SHORTEST:
        return text
    return _IN_TEXT.sub(lambda found: _in_text(found, None), text)


def _labelled_references(text: str) -> str:
    if _MARK not in text:
        return text
    return _REFERENCE_IN_TEXT.sub(lambda m: Medium(kind="file", data=m["data"]).label, text)


def reference_to(raw: bytes, mime: str | None = None) -> str:
    """What stands for these bytes in a stored value, in the place of their base64."""
    pixels = _pixels(raw)
    parts = [hashlib.sha256(raw).hexdigest(), str(len(raw)), (sniffed(raw) or mime or "").lower()]
    return _MARK + ":".join([*parts, *([f"{pixels[0]}x{pixels[1]}"] if pixels else [])])


def references_in(value: Any) -> dict[str, str]:
    """The references in a JSON value: SHA-256 -> media type."""
    found: dict[str, str] = {}
    level: list[Any] = [value]
    while level:
        one = level.pop()
        if isinstance(one, str):
            if _MARK in one:
                found |= {m["sha256"]: m["mime"] or "" for m in _REFERENCE.finditer(one)}
        elif isinstance(one, dict):
            level += one.values()
        elif isinstance(one, list):
            level += one
    return found


def with_references(value: Any, keep: Callable[[bytes], None]) -> Any:
    """A JSON value with references for the media in it, whose bytes `keep` is given; itself where
    there are none. `with_base64` is the inverse."""

    def change(text: str, in_block: bool) -> str:
        if len(text) < LEAST_STORED:
            return text
        start = _DATA_URL.match(text)
        data = text[start.end() :] if start else text
        raw = _decoded(data)
        known = sniffed(raw)
        if not (known or start or in_block) or base64.b64encode(raw).decode() != data:
            return text  # it would not come back as it was
        keep(raw)
        return (start[0] if start else "") + reference_to(raw, start[1] if start else None)

    return _changed(value, change)


def with_base64(value: Any, kept: Mapping[str, str]) -> Any:
    """A JSON value with the base64 of what it refers to: SHA-256 -> base64."""

    def change(text: str, _in_block: bool) -> str:
        if _MARK not in text:
            return text
        return _REFERENCE.sub(lambda m: kept.get(m["sha256"], m[0]), text)

    return _changed(value, change)


_at_hand: ContextVar[Mapping[str, str] | None] = ContextVar("agentensor_media", default=None)


@contextmanager
def media_at_hand(found: Mapping[str, str]) -> Iterator[None]:
    """Let what runs inside the block read these media: SHA-256 -> base64."""
    if not found:
        yield
        return
    token = _at_hand.set({**known_media(), **found})
    try:
        yield
    finally:
        _at_hand.reset(token)


def known_media() -> Mapping[str, str]:
    """The media that what runs here may read: SHA-256 -> base64."""
    return _at_hand.get() or {}


def with_media_at_hand(value: Any) -> Any:
    """A JSON value with the base64 of the media that the run around has at hand."""
    found = known_media()
    return with_base64(value, found) if found else value


def names_file(block: Mapping[str, Any]) -> bool:
    """Whether a content block names its medium by a path, which nobody has read yet."""
    medium, found = medium_of(block), place_in(block)
    if medium is None or medium.where is None or found is None:
        return False
    return "://" not in found[1] or found[1].startswith("file://")


def place_in(block: Mapping[str, Any]) -> tuple[str, str] | None:
    """The key of a content block that holds a path or a URL, and that."""
    key = next((one for one in PLACES if one in block), None)
    inner = None if key is None else block[key]
    place = inner.get("url") if isinstance(inner, dict) else inner
    return (key, place) if key is not None and isinstance(place, str) and place else None


def split_at(text: str, labels: Sequence[str]) -> list[str] | None:
    """The pieces of `text` between `labels`; None unless each stands there once, in this order."""
    pieces = []
    for label in labels:
        piece, found, text = text.partition(label)
        if not found:
            return None
        pieces.append(piece)
    pieces.append(text)
    return None if any(label in piece for label in labels for piece in pieces) else pieces


def _changed(value: Any, change: Callable[[str, bool], str], in_block: bool = False) -> Any:
    """A copy of a JSON value with its texts changed; itself where they all stay."""
    if isinstance(value, str):
        return change(value, in_block)
    if isinstance(value, dict):
        in_block = in_block or medium_of(value) is not None
        made: Any = {key: _changed(item, change, in_block) for key, item in value.items()}
        return value if all(made[key] is value[key] for key in made) else made
    if isinstance(value, list):
        made = [_changed(item, change) for item in value]
        return value if all(new is old for new, old in zip(made, value, strict=True)) else made
    return value


def medium_of(block: Any) -> Medium | None:
    """The medium in a content block, in the forms of LangChain, OpenAI, Anthropic and Google."""
    kind = block.get("type") if isinstance(block, dict) else None
    found = _MEDIA_BLOCK.fullmatch(kind) if isinstance(kind, str) else None
    if found is None:
        return None
    merged = dict(block)
    for inner in (block.get("source"), block.get(kind)):
        if isinstance(inner, dict):
            merged |= inner
    facts = {key: value for key, value in merged.items() if isinstance(value, str) and value}
    mime = facts.get("mime_type") or facts.get("media_type")
    if mime is None and found[1] == "audio" and "format" in facts:
        mime = f"audio/{facts['format']}"
    name = facts.get("filename") or facts.get("name")
    where = next((facts[key] for key in _WHERE if key in facts), None)
    given = facts.get("base64") or facts.get("file_data")
    if given is None and not facts["type"].startswith("text"):  # a document may be a plain text
        given = facts.get("data")
    if given is None and where is not None and where.startswith("data:"):
        given = where
    if given is not None:
        if (start := _DATA_URL.match(given)) is not None:
            mime, given = start[1] or mime, given[start.end() :]
        return Medium(kind=found[1], mime=mime, data=given, name=name)
    return None if where is None else Medium(kind=found[1], mime=mime, where=where, name=name)


def _block_as_text(item: Any, images: Images | None) -> Any:
    """An item of a list as it is shown; a medium as a block of text among the other blocks."""
    medium = medium_of(item)
    if medium is None:
        return shown(item, images)
    return {"type": "text", "text": _as_mark(medium, images, item)}


def _as_mark(medium: Medium, images: Images | None, block: Any = None) -> str:
    return (None if images is None else images.mark(medium, block)) or medium.label


def _in_text(found: re.Match[str], images: Images | None) -> str:
    data = found["data"]
    medium = Medium(kind="binary data", mime=found["mime"], data=data)
    if found["data"] == found[0]:  # without "data:…", it may be a long number, or a long word
        mixed = all(one.search(data) for one in _ALPHABET)
        if not mixed or (len(data) < _SURELY_BASE64 and sniffed(_decoded(data[:64])) is None):
            return found[0]
    return _as_mark(medium, images)


def _decoded(data: str) -> bytes:
    """The bytes of base64 in either alphabet, with or without its padding, even where it was cut;
    those of the text itself where it is none."""
    text = "".join(data.split()).rstrip("=").replace("-", "+").replace("_", "/")
    text = text[:-1] if len(text) % 4 == 1 else text + "=" * (-len(text) % 4)
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return data.encode("utf-8", "surrogatepass")


def sniffed(raw: bytes) -> str | None:
    """The media type of these bytes by how they begin; None where that says nothing."""
    return next((mime for magic, mime in _MAGIC if magic.match(raw)), None)


def _pixels(raw: bytes) -> tuple[int, int] | None:
    """Width and height from the header of a PNG, JPEG, GIF or WebP."""

    def at(start: int, size: int, order: Any = "big") -> int:
        return int.from_bytes(raw[start : start + size], order)

    mime = sniffed(raw)
    if mime == "image/png" and len(raw) >= 24:
        return at(16, 4), at(20, 4)
    if mime == "image/gif" and len(raw) >= 10:
        return at(6, 2, "little"), at(8, 2, "little")
    if mime == "image/webp" and len(raw) >= 30:
        form = raw[12:16]
        if form == b"VP8X":
            return at(24, 3, "little") + 1, at(27, 3, "little") + 1
        if form == b"VP8L":
            bits = at(21, 4, "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        return at(26, 2, "little") & 0x3FFF, at(28, 2, "little") & 0x3FFF
    place = 2
    while mime == "image/jpeg" and place + 9 <= len(raw) and raw[place] == 0xFF:
        if raw[place + 1] in _JPEG_SIZES:
            return at(place + 7, 2), at(place + 5, 2)
        # Fill bytes may stand before a marker.
        place += 1 if raw[place + 1] == 0xFF else 2 + at(place + 2, 2)
    return None


def _bytes(count: int) -> str:
    for unit, size in (("MB", 1_000_000), ("kB", 1_000)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
