"""Writing exported configs: whole, or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orcheo_agentensor.errors import BadInput

_JSON = (".json",)
_YAML = (".yaml", ".yml")


def writer(path: Path) -> Callable[[dict[str, Any]], None]:
    """What writes a config to `path` in the format of its ending; raises `BadInput` for others."""
    kind = path.suffix.lower()
    if kind not in (*_JSON, *_YAML):
        raise BadInput(field="--output", value=str(path), rule="must end in .json, .yaml or .yml")
    if not path.parent.is_dir():
        raise BadInput(field="--output", value=str(path), rule="must be in a folder that exists")
    encode = _json if kind in _JSON else _yaml
    return lambda config: _write(path, encode(config))


def _json(config: dict[str, Any]) -> str:
    return json.dumps(config, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def _yaml(config: dict[str, Any]) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Texts of several lines as blocks."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump(config, Dumper=Dumper, allow_unicode=True, sort_keys=False)


def _write(path: Path, text: str) -> None:
    """Through a temporary file beside it, so that a reader never sees half a config."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(name, 0o666 & ~umask)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise BadInput(
            f"--output: {path} cannot be written ({error.strerror})",
            field="--output",
            value=str(path),
            rule="must be writable",
        ) from None
