"""Install every locked set as if each of its packages had a newer release by now.

`make check-locks` runs it: it takes minutes, needs the package index, and installs into folders
that it removes. A folder of made-up newer releases is offered beside the index. First, a set that
names no extras, installed so that pip looks for dependencies, has to fail on them (with a pip
before 23.3). Then each set has to install, to pass `pip check`, and to be there in exactly the
locked versions.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from newer_releases import locked, offer_newer

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"
SETS = ["runtime", "server", "dev", "bench", "compat", "cluster"]
SETS_312 = ["orcheo"]


def environment(folder: Path) -> Path:
    """An empty virtual environment; returns its Python."""
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def show_that_it_would_fail(folder: Path, env: dict[str, str]) -> None:
    """Have pip look for dependencies, in a set that does not name extras: it must stop."""
    plain = folder / "plain.txt"
    text = (REQUIREMENTS / "server.txt").read_text(encoding="utf-8")
    plain.write_text(re.sub(r"^([a-z0-9-]+)\[[^]]*\]", r"\1", text, flags=re.MULTILINE))
    python = environment(folder / "plain")
    pip = [python, "-m", "pip"]
    install = [*pip, "--quiet", "install", "--require-hashes", "--no-build-isolation"]
    build = REQUIREMENTS / "build.txt"
    subprocess.run([*install, "--quiet", "--no-deps", "-r", build], env=env, check=True)
    version = subprocess.check_output([*pip, "--version"], text=True).split()[1]
    ended = subprocess.run(
        [*install, "--dry-run", "-r", plain], env=env, check=False, capture_output=True, text=True
    )
    if ended.returncode == 0 and [int(part) for part in version.split(".")[:2]] >= [23, 3]:
        print(f"pip {version} is new enough to install server.txt with dependencies looked for")
        return
    if ended.returncode == 0 or ".post" not in ended.stderr:
        raise SystemExit(f"The old way did not fail on a newer release:\n{ended.stderr}")
    reason = [line for line in ended.stderr.splitlines() if ".post" in line or "==" in line]
    print("With dependencies looked for, server.txt fails as expected:", *reason[:3], sep="\n  ")


def check(name: str, folder: Path, env: dict[str, str]) -> None:
    """Install one set and compare what is there with what is locked."""
    print(f"\n{name}", flush=True)
    python = environment(folder / name)
    script = REQUIREMENTS / "install.py"
    if subprocess.run([python, script, name], env=env, check=False).returncode:
        raise SystemExit(f"{name} does not install once there are newer releases.")
    command = [python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]
    there = {
        package["name"].lower().replace("_", "-").replace(".", "-"): package["version"]
        for package in json.loads(subprocess.check_output(command, env=env))
    }
    pinned: dict[str, set[str]] = {}
    for package in locked(REQUIREMENTS / f"{name}.txt"):
        pinned.setdefault(package.name, set()).add(package.version)
    wrong = {
        package: version
        for package, version in there.items()
        if package in pinned and version not in pinned[package]
    }
    unlocked = there.keys() - pinned.keys() - {"pip", "orcheo-agentensor"}
    if wrong or unlocked:
        raise SystemExit(f"{name}: other versions than locked: {wrong}; not locked: {unlocked}")
    print(f"{name}: {len(there)} packages, as locked", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    can_orcheo = sys.version_info >= (3, 12)
    parser.add_argument("sets", nargs="*", default=SETS + (SETS_312 if can_orcheo else []))
    names = parser.parse_args().sets
    with tempfile.TemporaryDirectory() as folder:
        newer = Path(folder) / "newer"
        newer.mkdir()
        versions = offer_newer(newer, sorted(REQUIREMENTS.glob("*.txt")))
        links = f"{os.environ.get('PIP_FIND_LINKS', '')} {newer}".strip()
        env = {**os.environ, "PIP_FIND_LINKS": links}
        print(f"{len(versions)} made-up newer releases beside the index", flush=True)
        show_that_it_would_fail(Path(folder), env)
        for name in names:
            check(name, Path(folder), env)
    if not can_orcheo and not set(names) & set(SETS_312):
        print("orcheo was left out, it needs 3.12: make check-locks PYTHON=python3.12")


if __name__ == "__main__":
    main()
