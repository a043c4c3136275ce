"""The media of the prompts of a graph that is served: read, kept, and at hand while it runs."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from orcheo_agentensor.datasets import MediaAccess
from orcheo_agentensor.datasets.attachments import Attachments
from orcheo_agentensor.media import known_media, media_at_hand
from orcheo_agentensor.prompts import TextTensor, as_prompts, is_content
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.targets.constants import Values, reading

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store

T = TypeVar("T")


def read_media(
    defaults: Mapping[str, Any], settings: Settings
) -> tuple[dict[str, Any], dict[str, str]]:
    """Defaults whose prompts refer to their media, and these in base64; files are read now.

    Raises `ConfigError` for a medium that is missing, of the wrong kind, or not allowed.
    """
    media = Attachments(MediaAccess.of(settings))

    def attached(holder: Mapping[str, Any], field: str) -> dict[str, Any]:
        prompts = holder.get("prompts")
        if not isinstance(prompts, Mapping):
            return dict(holder)
        content = {name: one for name, one in prompts.items() if is_content(one)}
        found = media.attach_prompts(as_prompts(content, field=field))
        return {**holder, "prompts": {**prompts, **found}}

    found = attached(defaults, "defaults.prompts")
    if isinstance(inner := found.get("configurable"), Mapping):
        found["configurable"] = attached(inner, "defaults.configurable.prompts")
    return found, media.in_base64()


async def kept_media(
    prompts: Mapping[str, TextTensor], *, store: Store | None, known: Mapping[str, str]
) -> tuple[dict[str, TextTensor], dict[str, str]]:
    """The prompts of a run, with references to their media, and these in base64.

    With a store they are kept there. Raises `ConfigError`, naming the prompt, where one is neither
    `known`, nor at hand already, nor stored.
    """
    from orcheo_agentensor.storage.media import media_of_prompts

    stored = None if store is None else store.media
    found = dict(prompts) if stored is None else await stored.kept(prompts)
    media = await media_of_prompts(found, stored=stored, known={**known_media(), **known})
    if stored is not None:
        for digest in await stored.missing(media):
            await stored.put(base64.b64decode(media[digest]))
    return found, media


@contextmanager
def inside(values: Values, media: Mapping[str, str]) -> Iterator[None]:
    """Let what runs inside the block read these values of constants, and these media."""
    with reading(values), media_at_hand(media):
        yield


def each_inside(
    around: Callable[[], AbstractContextManager[None]], parts: Iterator[T]
) -> Iterator[T]:
    """The parts of a stream, whose maker runs inside `around()` and whose taker does not."""
    while True:
        with around():
            try:
                part = next(parts)
            except StopIteration:
                return
        yield part


async def aeach_inside(
    around: Callable[[], AbstractContextManager[None]], parts: AsyncIterator[T]
) -> AsyncIterator[T]:
    """The async twin of `each_inside`."""
    while True:
        with around():
            try:
                part = await anext(parts)
            except StopAsyncIteration:
                return
        yield part
