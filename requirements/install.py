"""Install locked sets of requirements and the project: `python requirements/install.py dev`.

A set names every package with its version and hashes, so pip gets `--no-deps`: where it looks for
dependencies itself, a pip before 23.3 may find a release newer than the locked one, and stop.
Nothing is built in isolation, where pip would take the newest release of what builds: that is
locked in requirements/build.txt and installed first. Last, `pip check` says whether all of it fits
together.
"""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
LOCKED = ["--no-deps", "--require-hashes", "--no-build-isolation"]

# pip says this of each package that one of the machine's own extra indexes does not hold.
ABSENT_LOCATION = re.compile(r"WARNING: Location '.*' is ignored: it is neither a file nor a dir")
# pip says one of these of each requirement of a file.
SEEN = re.compile(r"Collecting |Processing |Requirement already satisfied: |Ignoring ")


def count(requirements: Path) -> int:
    """The number of requirements in a compiled file."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    return sum(line[:1].isalnum() for line in lines)


def say(text: str) -> None:
    """Write a line at once, also into a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Progress:
    """Says how far pip is now and then, and not for every package."""

    def __init__(self, total: int, *, every: float = 15) -> None:
        self.total = total
        self.every = every
        self.seen = 0
        self.unpacking = False
        self.started = time.monotonic()
        self._done = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "Progress":
        self._ticker.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._ticker.join()

    def read(self, line: str) -> None:
        """Learn from a line of pip's output."""
        if SEEN.match(line):
            self.seen += 1
        elif line.startswith("Installing collected packages"):
            self.unpacking = True

    def seconds(self) -> str:
        return f"{time.monotonic() - self.started:.0f} s"

    def _tick(self) -> None:
        while not self._done.wait(self.every):
            doing = "unpacking" if self.unpacking else f"fetched {self.seen} of {self.total}"
            say(f"  {doing}, {self.seconds()}")


def install(requirements: Path) -> None:
    """Install one compiled file. pip's own words are shown where it warns or fails."""
    total = count(requirements)
    say(f"{requirements.parent.name}/{requirements.name}: {total} packages into {sys.prefix}")
    command = [*PIP, "install", *LOCKED, "--requirement", str(requirements)]
    with (
        Progress(total) as progress,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as pip,
    ):
        assert pip.stdout is not None
        output = []
        for line in pip.stdout:
            progress.read(line.strip())
            output.append(line.rstrip())
            if line.startswith("WARNING: ") and not ABSENT_LOCATION.match(line):
                say(line.rstrip())
    if pip.returncode:
        say("\n".join(line for line in output[-60:] if not ABSENT_LOCATION.match(line)))
        raise SystemExit(f"pip could not install requirements/{requirements.name}.")
    say(f"  done in {progress.seconds()}")


def install_project() -> None:
    """Install the project itself, editable, with what builds it at hand."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--editable"]
    if subprocess.run([*PIP, "install", *options, str(HERE.parent)], check=False).returncode:
        raise SystemExit("pip could not install the project itself.")


def check() -> None:
    """Run `pip check`; say what to do where packages of an earlier set are in the way."""
    if subprocess.run([*PIP, "check"], check=False).returncode:
        raise SystemExit(
            f"The packages in {sys.prefix} do not fit together. If some are left over from an "
            "earlier set, start anew: make clean"
        )


def main(names: Sequence[str]) -> None:
    """Install the named sets, each with what builds it, then the project; `--alone` one set only.

    A set that is installed alone may lack what its packages ask for, so that nothing checks it.
    """
    if sys.prefix == sys.base_prefix:
        raise SystemExit("Run this with the Python of a virtual environment: make does.")
    if names[:1] == ["--alone"]:
        install(HERE / f"{names[1]}.txt")
        return
    for name in ["build", *names]:
        install(HERE / f"{name}.txt")
    install_project()
    check()


if __name__ == "__main__":
    main(sys.argv[1:])
