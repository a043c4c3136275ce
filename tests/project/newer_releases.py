"""A folder of wheels that look like newer releases, for pip's `--find-links`."""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

REQUIREMENT = re.compile(r"(?P<name>[a-z0-9-]+)(?P<extras>\[[^]]*\])?==(?P<version>[^ ;\\]+)")


class Locked(NamedTuple):
    """A line of a compiled requirements file, without its hashes."""

    name: str
    extras: str
    version: str


def locked(requirements: Path) -> list[Locked]:
    """What a compiled file pins; a line that pins nothing is an error."""
    found = []
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if line[:1].isspace() or not line:
            continue
        match = REQUIREMENT.match(line)
        if match is None:
            raise ValueError(f"{requirements.name} has a line that pins no version: {line}")
        found.append(Locked(match["name"], match["extras"] or "", match["version"]))
    return found


def wheel(folder: Path, name: str, version: str, requires: Sequence[str] = ()) -> Path:
    """Write an empty wheel of that name and version."""
    normal = name.replace("-", "_")
    info = f"{normal}-{version}.dist-info"
    extras = sorted(set(re.findall(r"extra == '(\w+)'", " ".join(requires))))
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [f"Provides-Extra: {extra}" for extra in extras]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    files = {
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{path},sha256={_digest(text)},{len(text)}" for path, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    path = folder / f"{normal}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in files.items():
            archive.writestr(member, text)
    return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def later(version: str) -> str:
    """A version right after this one, which nearly every range that allows this one allows."""
    base, post, number = version.partition(".post")
    return f"{base}.post{int(number) + 1}" if post else f"{base}.post1"


def offer_newer(folder: Path, requirements: Iterable[Path]) -> dict[str, str]:
    """Write a newer release of every locked package; return their versions by name."""
    newest: dict[str, str] = {}
    for path in requirements:
        for package in locked(path):
            version = later(package.version)
            wheel(folder, package.name, version)
            newest[package.name] = version
    return newest
