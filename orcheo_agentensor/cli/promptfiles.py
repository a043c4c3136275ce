"""Prompts that a project keeps in files: read without their front matter, written back with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orcheo_agentensor.cli.output import write_whole
from orcheo_agentensor.errors import BadInput

if TYPE_CHECKING:
    from orcheo_agentensor.prompts import TextTensor

FILE = "file"
"""The key of a prompt in a job file, and of its metadata afterwards, that names its file."""

_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n.*?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_MOST_BYTES = 1 << 20


def with_texts(prompts: Any, folder: Path) -> Any:
    """The prompts of a job, with the texts of those that name a file.

    The file is remembered in the prompt's metadata, and so in each version of it. What has another
    form is left to the job's rules. Raises `BadInput` for a file that cannot be read.
    """
    if not isinstance(prompts, Mapping):
        return prompts
    found = dict(prompts)
    for name, prompt in prompts.items():
        if not isinstance(prompt, Mapping) or FILE not in prompt:
            continue
        field = f"job.prompts.{name}.{FILE}"
        if "text" in prompt:
            rule = "stands in place of text, not beside it"
            raise BadInput(field=field, value=prompt[FILE], rule=rule)
        _head, text, _tail = _parts(_inside(prompt[FILE], folder, field=field), field=field)
        rest = {key: value for key, value in prompt.items() if key != FILE}
        metadata = {**(prompt.get("metadata") or {}), FILE: prompt[FILE]}
        found[name] = {**rest, "text": text, "metadata": metadata}
    return found


def write_texts(
    prompts: Mapping[str, TextTensor], folder: Path
) -> Iterator[tuple[str, Path, bool]]:
    """Write the texts of prompts into the files that they came from.

    Gives the name of each, its file, and whether that has changed. What stands around a text (front
    matter, white space at the ends) stays.

    Raises `BadInput` for a file that is not there, before any is written.
    """
    found = []
    for name, prompt in prompts.items():
        if FILE in prompt.metadata:
            field = f"prompts.{name}.metadata.{FILE}"
            path = _inside(prompt.metadata[FILE], folder, field=field)
            found.append((name, path, prompt.text, _parts(path, field=field)))
    for name, path, text, (head, before, tail) in found:
        if text != before:
            write_whole(path, [head, text, tail])
        yield name, path, text != before


def _inside(file: Any, folder: Path, *, field: str) -> Path:
    """The file of a prompt; raises `BadInput` for one that is outside of the folder."""
    root = folder.resolve()
    path = (root / file).resolve() if isinstance(file, str) and "\0" not in file else None
    if path is None or not path.is_relative_to(root) or Path(str(file)).is_absolute():
        raise BadInput(field=field, value=file, rule=f"must be a path inside {root}")
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        rule = f"must be a file of at most {_MOST_BYTES >> 20} MiB in {root}"
        raise BadInput(field=field, value=file, rule=rule)
    return path


def _parts(path: Path, *, field: str) -> tuple[str, str, str]:
    """What stands before the text of a file, the text, and what stands after it."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            whole = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(field=field, value=str(path), rule=f"must be UTF-8 text: {error}") from None
    matter = _FRONT_MATTER.match(whole)
    body = whole[matter.end() :] if matter else whole
    text = body.strip()
    if not text:
        raise BadInput(field=field, value=str(path), rule="must have a text")
    start = len(whole) - len(body.lstrip())
    return whole[:start], text, whole[start + len(text) :]
