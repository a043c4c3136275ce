"""`agentensor evaluate --watch`: evaluate again whenever prompts, data or code have changed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from orcheo_agentensor.cli.output import say

_LOOK_EVERY = 0.5
_KINDS = (".py", ".yaml", ".yml", ".json", ".jsonl", ".csv", ".parquet", ".txt", ".md", ".toml")
_MOST_FILES = 5_000
_LEFT_OUT = {"node_modules", "__pycache__", "venv", "site-packages"}

Snapshot = Mapping[Path, tuple[int, int]]


def watch(
    folders: Sequence[Path],
    *,
    run: Callable[[], int] | None = None,
    wait: Callable[[], None] = lambda: time.sleep(_LOOK_EVERY),
) -> int:
    """Run this command without `--watch` in a process of its own, and again after each change of a
    file in these folders, until Ctrl-C; returns the exit code of the last run.

    A process of its own imports what has changed.
    """
    again = run or _again
    code = 0
    try:
        while True:
            before = snapshot(folders)
            code = again()
            say("watching; Ctrl-C ends it")
            while (now := snapshot(folders)) == before:
                wait()
            names = sorted({path.name for path, _ in {*before.items()} ^ {*now.items()}})
            say(f"changed: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}")
    except KeyboardInterrupt:
        return code


def _again() -> int:
    arguments = [one for one in sys.argv[1:] if one != "--watch"]
    return subprocess.call([sys.executable, sys.argv[0], *arguments, "--cache"])


def snapshot(folders: Sequence[Path]) -> Snapshot:
    """When each file was changed last, and its size."""
    found: dict[Path, tuple[int, int]] = {}
    for folder in folders:
        for path in _files(folder.resolve()):
            try:
                known = path.stat()
            except OSError:  # gone in between
                continue
            found[path] = (known.st_mtime_ns, known.st_size)
            if len(found) == _MOST_FILES:
                return found
    return found


def _files(folder: Path) -> Iterator[Path]:
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return
    for path in inside:
        if path.name.startswith(".") or path.name in _LEFT_OUT:
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.suffix in _KINDS:
            yield path
