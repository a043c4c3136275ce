"""Images, sounds and files of a job's cases and prompts: found before a run exists, stored once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orcheo_agentensor.datasets import MediaAccess
from orcheo_agentensor.datasets.attachments import Attachments, Medium, read_again
from orcheo_agentensor.errors import ConfigError, DatasetError
from orcheo_agentensor.prompts import ContentTensor, TextTensor
from orcheo_agentensor.settings import Settings

if TYPE_CHECKING:
    from orcheo_agentensor.datasets import Dataset
    from orcheo_agentensor.storage import Store


def media_access(settings: Settings, *, files: bool) -> MediaAccess:
    """Which media the cases and prompts of a job may name, by the operator's settings."""
    return replace(MediaAccess.of(settings, files=files), base=settings.dataset_dir)


async def attached(prompts: Mapping[str, TextTensor], media: Attachments) -> dict[str, TextTensor]:
    """`prompts`, with references for the media in their content blocks, which `media` then has.

    Raises `ConfigError` for a medium that is missing, of the wrong kind, or not allowed.
    """
    if not any(isinstance(tensor, ContentTensor) for tensor in prompts.values()):
        return dict(prompts)
    return await asyncio.to_thread(media.attach_prompts, prompts)


async def keep_media(store: Store, media: Mapping[str, Medium | None]) -> None:
    """Store the media that are at hand, each once."""
    for digest, medium in media.items():
        if isinstance(medium, Path):
            medium = await asyncio.to_thread(read_again, medium, digest)
        if medium is not None:
            await store.media.put(medium)


async def require_media(
    store: Store, dataset: Dataset, prompts: Mapping[str, Medium | None]
) -> None:
    """Raise `DatasetError` or `ConfigError` for a medium that a case or a prompt refers to and that
    is not stored."""
    who = f"dataset {dataset.id!r}"
    parts = (
        (dataset.media, who, DatasetError, "dataset"),
        (prompts, "a prompt", ConfigError, "prompts"),
    )
    for media, what, error, part in parts:
        known = [digest for digest, medium in media.items() if medium is None]
        for digest in await store.media.missing(known) if known else ():
            raise error(
                f"{what} refers to a medium that this store does not hold (sha256 {digest}); give "
                "its file by `path`, or the run's own store",
                field=f"job.{part}",
                value=digest,
                rule="must be in the store",
            )
