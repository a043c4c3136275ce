"""The reference of the Python API: made from the docstrings, whose examples are run."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import os
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

import orcheo_agentensor
from orcheo_agentensor import errors

FOLDER = Path(__file__).parent.parent.parent / "docs" / "reference"


def the_script() -> ModuleType:
    """`make_api.py`, which is no module of a package."""
    spec = importlib.util.spec_from_file_location("make_api", FOLDER / "make_api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE_API = the_script()
NAMES = sorted(orcheo_agentensor.__all__)


def test_the_page_is_what_the_script_makes() -> None:
    written = (FOLDER / "api.md").read_text(encoding="utf-8")
    assert written == MAKE_API.page(), "run: python docs/reference/make_api.py"


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_explained_by_an_example_that_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = MAKE_API.Definition(name)
    value = getattr(orcheo_agentensor, name)
    monkeypatch.chdir(tmp_path)
    for variable in [key for key in os.environ if key.startswith("AGENTENSOR_")]:
        monkeypatch.delenv(variable)
    assert definition.doc, f"{name} has no docstring of its own"
    examples = doctest.DocTestParser().get_examples(definition.doc)
    if inspect.isclass(value) or inspect.isroutine(value):
        assert examples, f"the docstring of {name} has no example"
    test = doctest.DocTest(examples, {}, name, None, 0, definition.doc)
    told: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append)
    assert not told, "".join(told)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if inspect.isroutine(getattr(orcheo_agentensor, name))]
)
def test_a_function_explains_each_argument_what_it_returns_and_raises(name: str) -> None:
    function = getattr(orcheo_agentensor, name)
    doc = MAKE_API.Definition(name).doc
    if doc.startswith(f"`a{name}` for sync code, with the same arguments and errors"):
        twin = getattr(orcheo_agentensor, f"a{name}")
        assert list(inspect.signature(function).parameters.values()) == list(
            inspect.signature(twin).parameters.values()
        )
        return
    found = MAKE_API.sections(doc)
    assert list(MAKE_API.entries(found["Args"])) == list(inspect.signature(function).parameters)
    returns = inspect.signature(function).return_annotation
    assert ("Returns" in found) == (returns not in ("None", None))
    for error in MAKE_API.entries(found.get("Raises", "")):
        assert issubclass(getattr(errors, error), orcheo_agentensor.AgentensorError)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if inspect.isclass(getattr(orcheo_agentensor, name))]
)
def test_a_class_explains_each_field(name: str) -> None:
    definition = MAKE_API.Definition(name)
    value = definition.value
    told = set(MAKE_API.entries(MAKE_API.sections(definition.doc).get("Args", "")))
    fields = set(inspect.signature(value).parameters)
    if issubclass(value, BaseModel):
        fields = set(value.model_fields)
        told |= {name for name, field in value.model_fields.items() if field.description}
        for base in value.__mro__:
            if issubclass(base, BaseModel) and base.__module__.startswith("orcheo_agentensor"):
                told |= {attribute for attribute, _ in MAKE_API.attribute_docs(base)}
    assert fields - told == set()
