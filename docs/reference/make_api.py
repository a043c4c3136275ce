"""Makes `api.md` from the docstrings of `orcheo_agentensor.__all__`.

    python docs/reference/make_api.py

`tests/docs/test_api_page.py` checks that the page is what this makes.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import orcheo_agentensor

PAGE = Path(__file__).parent / "api.md"
GROUPS = {
    "Evaluate and train": "evaluate aevaluate train atrain EvaluationReport CaseResult "
    "TrainingResult Decision compare acompare RunComparison",
    "Workflows and prompts": "configure serve Conversation get_prompt get_seed TextTensor "
    "ContentTensor PromptText FeedbackRecord backward abackward TrainablePrompt RunConfig "
    "register_callback",
    "Data and evaluators": "Case Dataset EvaluatorContext EvaluationResult EvaluatorFailure "
    "TargetFailure bind_evaluator ExactMatch Contains Regex NumericTolerance StringSimilarity "
    "JsonValid JsonSchema JsonFieldMatch ToolCallMatch TrajectoryMatch Latency Length LLMJudge "
    "HTTPEvaluator EachTurn Assertions",
    "Optimizers, budgets, stop conditions": "Reflective TextGrad Demos RandomSearch step astep "
    "Budget TargetScore Patience Deadline MaxSteps MaxEpochs Guardrail Objective",
    "Jobs, graphs, nodes": "EvaluationJob TrainingJob Limits create_evaluation_graph "
    "create_training_graph evaluation_node training_node TaskNode AgentNode AgentensorNode",
    "Versions and settings": "Store ConfigCheckpoint Manifest apublish arollback_publication "
    "Settings",
    "Errors": "AgentensorError BadInput",
    "Types of arguments": "Target DatasetLike EvaluatorLike PromptLike",
}
HEAD = """\
# Python API

Every public name of `orcheo_agentensor`, made from the docstrings by `docs/reference/make_api.py`
(`make docs`). The text under a signature explains the arguments and names the errors, which
[errors.py](../../orcheo_agentensor/errors.py) draws as one tree.
"""


class Definition:
    """Where the source defines a public name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.module, self.node = self._found("orcheo_agentensor", name)

    def _found(self, module_name: str, name: str) -> tuple[ModuleType, ast.stmt]:
        module = importlib.import_module(module_name)
        body = ast.parse(inspect.getsource(module)).body
        for index, node in enumerate(body):
            if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", None) == name:
                self.after = body[index + 1] if index + 1 < len(body) else None
                return module, node
            if getattr(node, "name", None) == name:
                return module, node
        for node in (n for part in body for n in ast.walk(part)):
            if isinstance(node, ast.ImportFrom) and name in [a.name for a in node.names]:
                return self._found(str(node.module), name)
        raise LookupError(f"{module_name} does not define {name}")

    @cached_property
    def value(self) -> Any:
        return getattr(orcheo_agentensor, self.name)

    @property
    def source(self) -> str:
        """An alias as it is defined, a form per line where it is wide."""
        value = getattr(self.node, "value", None)
        if isinstance(value, ast.Subscript) and ast.unparse(value.value) == "Union":
            # Written so where a name in quotes is among the forms, which no `|` takes.
            parts = value.slice.elts if isinstance(value.slice, ast.Tuple) else [value.slice]
            told = [str(p.value) if isinstance(p, ast.Constant) else ast.unparse(p) for p in parts]
            value = ast.parse(" | ".join(told), mode="eval").body
        line = f"{self.name} = {ast.unparse(value)}" if value else ast.unparse(self.node)
        if len(line) <= 88 or not isinstance(value, ast.BinOp):
            return line
        forms: list[str] = []
        while isinstance(value, ast.BinOp):
            forms.insert(0, ast.unparse(value.right))
            value = value.left
        return f"{self.name} = (\n    {ast.unparse(value)}\n    | " + "\n    | ".join(forms) + "\n)"

    @property
    def doc(self) -> str:
        if isinstance(self.node, ast.AnnAssign):
            text = getattr(getattr(self.after, "value", None), "value", None)
            return inspect.cleandoc(text) if isinstance(text, str) else ""
        return own_doc(self.value)


def own_doc(value: Any) -> str:
    """The docstring of `value` itself, not one that it inherits."""
    doc = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
    return inspect.cleandoc(doc) if doc else ""


SECTION = re.compile(r"^(Args|Returns|Raises|Example):\n((?:(?: {4}.*)?\n)+)", re.M)


def sections(doc: str) -> dict[str, str]:
    """The sections of a docstring, dedented; what stands before them is ""."""
    found = {match[1]: inspect.cleandoc("\n" + match[2]) for match in SECTION.finditer(doc + "\n")}
    return {"": SECTION.sub("", doc + "\n").strip(), **found}


def entries(section: str) -> dict[str, str]:
    """The lines of `Args` or `Raises` by the name that each begins with."""
    joined = re.sub(r"\n\s+", " ", section)
    return dict(line.split(": ", 1) for line in joined.splitlines() if ": " in line)


def as_markdown(doc: str, *, arguments: bool = True) -> str:
    """A docstring as Markdown: lists of arguments and errors, and examples as fenced blocks."""
    found = sections(doc)
    parts = [found[""]]
    if "Args" in found and arguments:
        parts.append("\n".join(f"- `{n}`: {t}" for n, t in entries(found["Args"]).items()))
    if "Returns" in found:
        parts.append("Returns: " + " ".join(found["Returns"].split()))
    if "Raises" in found:
        raised = (f"- `{n}`: {t}" for n, t in entries(found["Raises"]).items())
        parts.append("\n".join(["Raises:\n", *raised]))
    if "Example" in found:
        parts.append(f"```pycon\n{found['Example']}\n```")
    return "\n\n".join(parts)


def signature(name: str, value: Any, *, width: float = 88) -> str:
    """`name(...)` as it is written in the source, a parameter per line where it is wide."""
    if isinstance(value, type) and issubclass(value, BaseModel):
        value.model_rebuild()  # one that nobody has used yet has not worked out its own
    found = inspect.signature(value)
    parts = []
    kinds = inspect.Parameter
    starred = False
    for parameter in found.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is kinds.KEYWORD_ONLY and not starred:
            starred = True
            parts.append("*")
        starred = starred or parameter.kind is kinds.VAR_POSITIONAL
        prefix = {kinds.VAR_POSITIONAL: "*", kinds.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        annotation = annotated(parameter.annotation)
        text = f"{prefix}{parameter.name}" + (f": {annotation}" if annotation else "")
        if parameter.default is not kinds.empty:
            text += f"{' = ' if annotation else '='}{shown(parameter.default)}"
        parts.append(text)
    returns = annotated(found.return_annotation)
    end = f" -> {returns}" if returns and returns != "None" else ""
    line = f"{name}({', '.join(parts)}){end}"
    if len(line) <= width:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){end}"


def annotated(annotation: Any) -> str:
    """An annotation as it is written; nothing where there is none."""
    if annotation is inspect.Parameter.empty:
        return ""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return text[1:-1] if text[0] == text[-1] and text[0] in "'\"" else text


def shown(default: Any) -> str:
    """A default as one would write it."""
    if callable(default) and hasattr(default, "__name__"):
        return "…" if default.__name__ == "<lambda>" else default.__name__
    if is_dataclass(default) or isinstance(default, BaseModel):
        return f"{type(default).__name__}()"
    return repr(default)


def fields(model: type[BaseModel], doc: str) -> Iterator[str]:
    """The rows of the table of a model's fields; `doc` may tell of them."""
    written: dict[str, Any] = {}
    told: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base.__module__.startswith("orcheo_agentensor"):
            written |= base.__annotations__
            told |= dict(attribute_docs(base))
    yield "| field | type | default | |"
    yield "|---|---|---|---|"
    told |= entries(sections(doc).get("Args", ""))
    for name, field in model.model_fields.items():
        kind = re.sub(r"\s+", " ", annotated(written.get(name, field.annotation)))
        if kind.startswith("Annotated["):
            (statement,) = ast.parse(kind).body
            kind = ast.unparse(statement.value.slice.elts[0])  # type: ignore[attr-defined]
        about = (told.get(name) or field.description or "").replace("|", "\\|").replace("\n", " ")
        kind = kind.replace("|", "\\|")
        yield f"| `{field.alias or name}` | `{kind}` | {default_of(field)} | {about} |"


def attribute_docs(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """The fields of a model that have a docstring below them, and these."""
    (node,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(model))).body
    assert isinstance(node, ast.ClassDef)
    for attribute, below in pairwise(node.body):
        value = getattr(below, "value", None)
        is_doc = isinstance(below, ast.Expr) and isinstance(value, ast.Constant)
        if isinstance(attribute, ast.AnnAssign) and is_doc:
            yield ast.unparse(attribute.target), " ".join(str(value.value).split())


def default_of(field: FieldInfo) -> str:
    """The default of a model's field, as a cell of a table."""
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        made = field.get_default(call_default_factory=True, validated_data={})
        return f"`{made!r}`" if isinstance(made, str | list | dict | tuple) else "made anew"
    return "" if field.default is None else f"`{shown(field.default)}`"


def members(value: type[Any]) -> Iterator[str]:
    """The public methods and properties of a class, a line each; inherited ones, where it defines
    none itself."""
    own = vars(value)
    if not any(
        inspect.isfunction(member) and not name.startswith(("_", "model_"))
        for name, member in own.items()
    ):
        own = {}
        for base in value.__mro__:
            if base.__module__.startswith("orcheo_agentensor"):
                own = {**vars(base), **own}
    for name, member in own.items():
        if name.startswith(("_", "model_")):
            continue
        plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        wrapped = getattr(plain, "fget", None) or getattr(plain, "func", None)
        doc = own_doc(wrapped or plain) if callable(wrapped or plain) else ""
        first = " ".join(doc.partition("\n\n")[0].split())
        if not first:
            continue
        if wrapped is not None:
            yield f"- `.{name}`: {first}"
        elif inspect.isfunction(plain):
            owner = f"{value.__name__}." if isinstance(member, classmethod) else "."
            yield f"- `{signature(f'{owner}{name}', plain, width=math.inf)}`: {first}"


def entry(name: str) -> str:
    """What the page says about a public name."""
    found = Definition(name)
    value = found.value
    parts = [f"### `{name}`"]
    if isinstance(found.node, ast.AnnAssign):
        parts += [f"```py\n{found.source}\n```", as_markdown(found.doc)]
        return "\n\n".join(parts)
    is_model = inspect.isclass(value) and issubclass(value, BaseModel)
    own_init = is_model and "__init__" in vars(value)
    if not is_model or own_init or is_dataclass(value):
        parts.append(f"```py\n{signature(name, value)}\n```")
    parts.append(as_markdown(found.doc, arguments=not is_model))
    if is_model:
        parts.append("\n".join(fields(value, found.doc)))
    if inspect.isclass(value) and (listed := "\n".join(members(value))):
        parts.append(listed)
    return "\n\n".join(part for part in parts if part)


def page() -> str:
    """The whole page."""
    listed = [name for names in GROUPS.values() for name in names.split()]
    if sorted(listed) != sorted(orcheo_agentensor.__all__):
        wrong = sorted(set(listed) ^ set(orcheo_agentensor.__all__))
        raise SystemExit(f"GROUPS and orcheo_agentensor.__all__ differ: {', '.join(wrong)}")
    index = [
        f"- **{group}**: " + ", ".join(f"[`{n}`](#{n.lower()})" for n in names.split())
        for group, names in GROUPS.items()
    ]
    parts = [HEAD.rstrip(), "\n".join(index)]
    for group, names in GROUPS.items():
        parts += [f"## {group}", *map(entry, names.split())]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
