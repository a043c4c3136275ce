from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orcheo_agentensor.entrypoints import OWN_NAMES, is_entrypoint, load_entrypoint
from orcheo_agentensor.errors import EntrypointNotAllowed, EntrypointNotFound
from orcheo_agentensor.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    package = tmp_path / "my_evals"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import subprocess\n"
        "from os import system\n"
        "def score(ctx): return 1.0\n"
        "def _private(ctx): return 1.0\n"
        "limit = 3\n"
    )
    (package / "deep.py").write_text("class Judge:\n    def evaluate(self, ctx): return 1.0\n")
    (package / "broken.py").write_text("raise RuntimeError('no database')\n")
    (package / "quits.py").write_text("import sys; sys.exit(3)\n")
    (tmp_path / "my_evals2.py").write_text("import sys\nsys.imported_my_evals2 = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Settings(allowed_modules=("my_evals",))
    for name in [name for name in sys.modules if name.startswith("my_evals")]:
        del sys.modules[name]


def test_an_allowed_module_and_what_is_under_it_loads(settings: Settings) -> None:
    assert load_entrypoint("my_evals:score", settings=settings, what="evaluator")(None) == 1.0  # type: ignore[operator]
    assert (
        load_entrypoint("my_evals.deep:Judge", settings=settings, what="evaluator").__name__
        == "Judge"
    )  # type: ignore[attr-defined]
    assert load_entrypoint("my_evals:limit", settings=settings, what="evaluator") == 3


@pytest.mark.requirement("security.entrypoints")
def test_a_module_whose_name_only_begins_alike_is_refused_unimported(settings: Settings) -> None:
    with pytest.raises(EntrypointNotAllowed):
        load_entrypoint("my_evals2:f", settings=settings, what="evaluator")
    assert "my_evals2" not in sys.modules
    assert not hasattr(sys, "imported_my_evals2")


def test_the_refusal_says_what_is_allowed_and_what_to_do(settings: Settings) -> None:
    with pytest.raises(EntrypointNotAllowed) as caught:
        load_entrypoint("os:system", settings=settings, what="evaluator")
    assert str(caught.value) == (
        "'os:system' is not under my_evals; add its module to AGENTENSOR_ALLOWED_MODULES"
    )


def test_nothing_but_what_the_demo_is_made_of_is_allowed_by_default() -> None:
    settings = Settings(allowed_modules=())
    for name in (
        "my_evals:score",
        "orcheo_agentensor.demo:no_such_thing",
        "orcheo_agentensor.redaction:redact",
    ):
        with pytest.raises(EntrypointNotAllowed, match="none is set"):
            load_entrypoint(name, settings=settings, what="evaluator")
    for name in OWN_NAMES:
        what = "evaluator" if ".evaluators:" in name else "proposer"
        what = "target" if ".workflow:" in name else what
        assert callable(load_entrypoint(name, settings=settings, what=what))


@pytest.mark.parametrize(
    "spec",
    [
        "my_evals", "my_evals:", ":score", "my_evals:score:x", "my_evals:a.b", "my_evals.:score",
        "my_evals:_private", "my_evals._x:score", "my_evals:__builtins__", "./my_evals:score",
        "my_evals:score()", " my_evals:score", "my_evals:score\n", "",
    ],
)  # fmt: skip
def test_other_forms_are_refused(spec: str, settings: Settings) -> None:
    assert not is_entrypoint(spec)
    with pytest.raises(EntrypointNotAllowed, match="not of the form"):
        load_entrypoint(spec, settings=settings, what="evaluator")


def test_a_module_is_not_an_entry_point(settings: Settings) -> None:
    with pytest.raises(EntrypointNotAllowed, match="is a module"):
        load_entrypoint("my_evals:subprocess", settings=settings, what="evaluator")


def test_what_the_module_imported_from_the_standard_library_is_refused(settings: Settings) -> None:
    with pytest.raises(EntrypointNotAllowed, match=r"comes from (posix|nt), which is not allowed"):
        load_entrypoint("my_evals:system", settings=settings, what="evaluator")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("my_evals.nowhere:f", "No module named 'my_evals.nowhere'"),
        ("my_evals.broken:f", "RuntimeError: no database"),
        ("my_evals.quits:f", "SystemExit: 3"),
        ("my_evals:nowhere", "has no 'nowhere'"),
    ],
)
def test_what_cannot_be_imported_is_not_found_with_the_reason(
    spec: str, reason: str, settings: Settings
) -> None:
    with pytest.raises(EntrypointNotFound, match=reason) as caught:
        load_entrypoint(spec, settings=settings, what="evaluator")
    assert caught.value.__cause__ is None
    assert caught.value.message.startswith(f"evaluator {spec!r}")
