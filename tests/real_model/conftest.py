"""A small language model on loopback, where `make test-llm` has installed it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-llm" / "bin" / "python"


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Where the model is served."""
    if not PYTHON.exists():
        pytest.skip("the small language model is not installed here: `make test-llm` does it")
    with subprocess.Popen(
        [PYTHON, ROOT / "examples" / "local_model" / "serve.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        with server.stdin:
            yield server.stdout.readline().strip()


@pytest.fixture
def served(address: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, int]]:
    """The tokens that the server has read and written since the test began, by its own count."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{address}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")

    def count() -> dict[str, int]:
        metrics = httpx.get(f"{address}/metrics").text
        lines = [line.split() for line in metrics.splitlines() if line[:1] != "#"]
        found = {name.removeprefix("llamacpp:"): float(value) for name, value in lines}
        read = found["prompt_tokens_total"] + found["prompt_tokens_cached_total"]
        return {"read": int(read), "written": int(found["tokens_predicted_total"])}

    before = count()
    return lambda: {name: value - before[name] for name, value in count().items()}
