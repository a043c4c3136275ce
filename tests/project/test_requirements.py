"""The locked sets install whatever is released after them."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import venv
from importlib.metadata import distributions
from pathlib import Path

import pytest
from newer_releases import later, locked, offer_newer, wheel
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
SETS = sorted((ROOT / "requirements").glob("*.txt"))
NAMES = [path.stem for path in SETS]


def versions(name: str) -> dict[str, set[str]]:
    """The locked versions of a set; a package may have one per Python version."""
    found: dict[str, set[str]] = {}
    for package in locked(ROOT / "requirements" / f"{name}.txt"):
        found.setdefault(package.name, set()).add(package.version)
    return found


def test_the_sets_are_those_that_make_installs() -> None:
    assert NAMES == [
        "aegra",
        "bench",
        "build",
        "cluster",
        "compat",
        "dev",
        "docs",
        "embedding",
        "llm",
        "orcheo",
        "runtime",
        "server",
    ]


@pytest.mark.parametrize("path", SETS, ids=NAMES)
def test_every_package_has_a_version_and_hashes_and_nobody_names_an_index(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(locked(path)) == len(re.findall(r"^\S", text, flags=re.MULTILINE))
    for requirement in re.split(r"\n(?=\S)", text.strip()):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", requirement), requirement
    assert "://" not in text
    assert "index" not in re.sub(r"\S+==", "", text)


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        ("runtime", "server"),
        ("server", "dev"),
        *(("build", name) for name in NAMES if name not in ("docs", "embedding", "llm")),
    ],
)
def test_a_larger_set_goes_on_top_of_a_smaller_one(smaller: str, larger: str) -> None:
    there = versions(larger)
    assert {name: there.get(name) for name in versions(smaller)} == versions(smaller)


def test_extras_are_locked_as_such() -> None:
    """Every extra that an installed package asks another one for is named in the lock."""
    pinned = {name: set[str]() for name in versions("dev")}
    for package in locked(ROOT / "requirements" / "dev.txt"):
        pinned[package.name] |= set(package.extras.strip("[]").replace(" ", "").split(","))
    missing = []
    for distribution in distributions():
        for text in distribution.requires or []:
            asked = Requirement(text)
            if asked.marker is None or asked.marker.evaluate({"extra": ""}):
                extras = pinned.get(canonicalize_name(asked.name), set[str]())
                missing += [f"{asked.name}[{extra}]" for extra in asked.extras - extras]
    assert not missing
    assert "otel" in pinned["langsmith"]


def test_make_installs_in_one_way_only() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = [
        line for line in makefile.splitlines() if "install" in line and "bin/python" in line
    ]
    by_script = [line for line in installs if "requirements/install.py" in line]
    assert len(by_script) == 10
    assert [line for line in installs if line not in by_script] == [
        "\t@$(LOCK)/bin/python -m pip --disable-pip-version-check install --quiet uv"
    ]


@pytest.mark.parametrize("version", ["0.15.0", "0.66b2", "2026.10.19.post1", "6.0.12.20261113"])
def test_the_made_up_release_is_newer(version: str) -> None:
    assert Version(later(version)) > Version(version)


def test_a_newer_release_breaks_no_install(tmp_path: Path) -> None:
    """`app` wants `library[fast]`, the lock names `library`, and there is a newer one by now."""
    index = tmp_path / "index"
    index.mkdir()
    requirements = tmp_path / "requirements.txt"
    wheels = [
        wheel(index, "app", "1.0", ["library[fast]>=1"]),
        wheel(index, "library", "1.0", ["engine>=1 ; extra == 'fast'"]),
        wheel(index, "engine", "1.0"),
    ]
    requirements.write_text(
        "".join(
            f"{path.name.split('-')[0]}==1.0 "
            f"--hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
            for path in wheels
        )
    )
    offer_newer(index, [requirements])
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")
    env = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull}
    env["PYTHONPATH"] = str(ROOT / "requirements")

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, *command], env=env, check=False, capture_output=True, text=True
        )

    pip = Version(run("-m", "pip", "--version").stdout.split()[1])
    looked_for = run("-m", "pip", "install", "--require-hashes", "-r", str(requirements))
    if pip < Version("23.3"):
        assert looked_for.returncode != 0
        assert "library[fast]>=1 from" in looked_for.stderr
    else:
        assert looked_for.returncode == 0, looked_for.stderr
        run("-m", "pip", "uninstall", "--yes", "app", "library", "engine")

    script = "import sys, pathlib, install; install.install(pathlib.Path(sys.argv[1]))"
    installed = run("-c", f"{script}; install.check()", str(requirements))
    assert installed.returncode == 0, installed.stdout + installed.stderr
    assert "3 packages into" in installed.stdout
    assert "No broken requirements found." in installed.stdout

    (index / "engine-1.0-py3-none-any.whl").unlink()
    run("-m", "pip", "uninstall", "--yes", "engine")
    failed = run("-c", script, str(requirements))
    assert failed.returncode != 0
    assert "engine" in failed.stdout
    assert "pip could not install" in failed.stderr
