"""What a job brings that nothing reads: keys of its config, fields of its cases.

It is known from the code of target and evaluators, before anything is paid: who reads a key names
it somewhere. Nothing is said where code cannot be looked into, such as that of other packages.
"""

from __future__ import annotations

import dis
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from orcheo_agentensor.config.overrides import MODEL_FIELDS, NODE_OVERRIDES, overrides_in
from orcheo_agentensor.datasets import Dataset
from orcheo_agentensor.datasets.assertions import ASSERT, LEFT_OUT, notes_on, problem_of
from orcheo_agentensor.evaluators import BoundEvaluator
from orcheo_agentensor.evaluators.builtin import Builtin
from orcheo_agentensor.evaluators.context import private_context
from orcheo_agentensor.evaluators.dialects import Subject
from orcheo_agentensor.kinds import is_runnable
from orcheo_agentensor.prompts import CONFIGURABLE, CONTEXT, TextTensor, constant_in, path_in
from orcheo_agentensor.tape import get_prompt
from orcheo_agentensor.targets.constants import has_readers
from orcheo_agentensor.targets.context import field_names
from orcheo_agentensor.targets.isolation import is_own, parts_of
from orcheo_agentensor.targets.overriding import follows_itself, nodes_of
from orcheo_agentensor.upstream import reads_any_config

_OURS = frozenset({"prompts", "agentensor", NODE_OVERRIDES, "thread_id", "user_id"})
"""Keys of `configurable` that this package and LangGraph read themselves."""

_KNOWN = ("langchain", "langgraph", "langsmith", "pydantic", "typing_extensions")
"""Packages whose code reads no keys of a user's config, but by what `config_specs` tells."""


class Named:
    """The words in the code that some objects are made of, as far as that is known."""

    def __init__(self, *roots: Any) -> None:
        self.words: set[str] = set()
        self.is_whole = True
        """Whether all code was looked into."""
        for root in roots:
            for part in parts_of(root):
                self._take(part)

    def __contains__(self, key: str) -> bool:
        return re.search(rf"\b{re.escape(key)}\b", self._text) is not None

    @cached_property
    def _text(self) -> str:
        return "\n".join(self.words)

    def _take(self, part: Any) -> None:
        if part is private_context or part is get_prompt:  # which read what others name
            return
        if reads_any_config(part):
            self.is_whole = False
        if isinstance(part, FunctionType):
            self.words |= set(_words(part.__code__))
            self._see(part.__module__)
            self._import(part.__code__)
        elif isinstance(part, type):
            self.words |= {*vars(part), *vars(part).get("__annotations__", {})}
            self._see(part.__module__)
        elif is_runnable(part):
            self.words |= {spec.id for spec in part.config_specs}
            self._see(type(part).__module__)

    def _see(self, module: str | None) -> None:
        package = (module or "").partition(".")[0]
        known = package in sys.stdlib_module_names or package.startswith(_KNOWN)
        ours = (module or "").startswith("orcheo_agentensor.")
        ours = ours and not (module or "").startswith("orcheo_agentensor.nodes")
        if not known and not ours and not is_own(sys.modules.get(module or "")):
            self.is_whole &= package in ("__main__", "")

    def _import(self, code: CodeType) -> None:
        """The text of the project's modules that a function imports when it is called."""
        for instruction in dis.get_instructions(code):
            name = instruction.argval
            if instruction.opname != "IMPORT_NAME" or not isinstance(name, str) or not name:
                continue
            package = name.partition(".")[0]
            if package in sys.stdlib_module_names or package.startswith(_KNOWN):
                continue
            try:
                spec = importlib.util.find_spec(name)
                self.words.add(Path(str(spec and spec.origin)).read_text())
            except (ImportError, ValueError, OSError, UnicodeDecodeError):
                self.is_whole = False


def _words(code: CodeType) -> Iterator[str]:
    yield from (*code.co_names, *code.co_varnames)
    waiting: list[Any] = [*code.co_consts]
    while waiting:
        constant = waiting.pop()
        if isinstance(constant, CodeType):
            yield from _words(constant)
        elif isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple | frozenset):
            waiting += constant


def unread(
    target: Any,
    dataset: Dataset,
    evaluators: Sequence[BoundEvaluator],
    configurable: Mapping[str, Any],
    prompts: Mapping[str, TextTensor],
    *,
    training: bool,
) -> list[str]:
    """A sentence on each thing that nothing reads: what it is, and what to do.

    In a `training` the proposer is shown the expected outputs.
    """
    found = [
        *_unread_config(target, configurable, prompts),
        *_unread_overrides(target, configurable),
        *_unread_binds(target, prompts),
    ]
    taken = _taken(target)
    seen = _Seen.of(dataset, taken=taken)
    found += _dropped(seen.lost, taken, len(dataset), evaluators)
    if dataset.unfetched:
        found.append(
            f"media of the cases are on {', '.join(dataset.unfetched)}, from where nothing may be "
            "fetched: the target gets their URLs, and they may change; add the host to "
            "AGENTENSOR_ALLOWED_HOSTS to have them fetched once and kept"
        )
    found += _unscored(seen, evaluators)
    if seen.expecting and not training and not any(map(_compares, evaluators)):
        found.append(
            f"no evaluator reads the expected_output of {seen.expecting} of {len(dataset)} cases: "
            "add one that compares with it, such as exact_match, or one that takes "
            "reference_outputs"
        )
    return found


@dataclass
class _Seen:
    """What the cases of a dataset bring, in one look at each: there may be very many."""

    expecting: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    asserted: list[Any] = field(default_factory=list)
    left_out: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, dataset: Dataset, *, taken: Sequence[str]) -> _Seen:
        """`taken` are the keys of inputs that the target takes; none where it takes any."""
        seen = cls()
        for case in dataset.cases:
            seen.expecting += case.expected_output is not None
            if taken and isinstance(case.inputs, Mapping):
                seen.lost.update(key for key in case.inputs if key not in taken)
            for key, held in ((ASSERT, seen.asserted), (LEFT_OUT, seen.left_out)):
                if isinstance(entries := case.metadata.get(key), list):
                    held += entries
        return seen


def _unscored(seen: _Seen, evaluators: Sequence[BoundEvaluator]) -> Iterator[str]:
    """On what cases assert of their outputs that no evaluator scores."""
    scored = any(getattr(one.subject, "type_name", None) == "assertions" for one in evaluators)
    asserted, left = seen.asserted, seen.left_out
    if asserted and not scored and all(problem_of(one) is None for one in asserted):
        yield (
            f"no evaluator scores the {len(asserted)} assertions in metadata.{ASSERT} of the "
            "cases: add `assertions` to the evaluators"
        )
    if left and all(isinstance(one, Mapping) and "why" in one for one in left):
        yield from notes_on(left, ())


def _unread_config(
    target: Any, configurable: Mapping[str, Any], prompts: Mapping[str, TextTensor]
) -> Iterator[str]:
    bound = {path[0] for one in prompts.values() if (path := path_in(one.bind, "configurable"))}
    asked = [key for key in configurable if key not in _OURS | bound and "__" not in key]
    if not asked or hasattr(target, "servers") or getattr(target, "is_remote", False):
        return
    inner = getattr(target, "built", None) or getattr(target, "inner", target)
    offered = list(field_names(getattr(inner, "context_schema", None) or object))
    offered += [spec.id for spec in getattr(getattr(inner, "runnable", None), "config_specs", ())]
    offered = [name for name in dict.fromkeys(offered) if not name.startswith("checkpoint_")]
    code = Named(target)
    for key in asked:
        if key in offered or key in code or not code.is_whole:
            continue
        near = get_close_matches(key, [*offered, *filter(str.isidentifier, code.words)], n=1)
        todo = f"did you mean {near[0]!r}?" if near else "take it out, or read it in a node"
        there = f" The target offers: {', '.join(offered)}" if offered else ""
        yield (
            f"nothing in the target reads {key!r} of config.configurable, so it changes nothing: "
            f"{todo}{there}"
        )


def _unread_binds(target: Any, prompts: Mapping[str, TextTensor]) -> Iterator[str]:
    """On prompts that bind to what nothing reads: constants that were used when their module was
    imported and never again, and keys and fields that no code names."""
    if hasattr(target, "servers") or getattr(target, "is_remote", False):
        return
    code: Named | None = None
    for name, prompt in prompts.items():
        constant = constant_in(prompt.bind)
        if constant is not None and not has_readers(constant):
            yield (
                f"nothing reads {constant} once it is imported, so the prompt {name!r} changes "
                "nothing: what was made of the constant keeps its text. Read it where it is used: "
                f"from orcheo_agentensor import get_prompt, then get_prompt({name!r}, "
                f"default={constant.rpartition(':')[2]}) in the node"
            )
        path = path_in(prompt.bind, CONFIGURABLE) or path_in(prompt.bind, CONTEXT)
        if path is None:
            continue
        code = code or Named(target)
        if code.is_whole and path[-1] not in code:
            yield (
                f"nothing in the target names {path[-1]!r}, so the prompt {name!r} (bound to "
                f"{prompt.bind}) changes nothing: read it there, or bind it to a place that the "
                "target reads"
            )


def unnamed_prompts(target: Any, prompts: Mapping[str, TextTensor]) -> list[str]:
    """The prompts that bind nowhere, and that nothing in the target names."""
    code = Named(target)
    if not code.is_whole or "prompts" in code:  # which may read them all
        return []
    return [name for name, one in prompts.items() if one.bind is None and name not in code]


def _unread_overrides(target: Any, configurable: Mapping[str, Any]) -> Iterator[str]:
    """On a model or a temperature for a node that takes its config and reads no such thing."""
    inner = getattr(target, "built", None) or getattr(target, "inner", target)
    graph = getattr(inner, "runnable", None)
    given = overrides_in({"configurable": configurable})
    if not given or not hasattr(graph, "nodes"):
        return
    for name, node, _own in nodes_of(graph, "", reachable=True):
        asked = [what for what in MODEL_FIELDS if what in given.get(name, ())]
        if not asked or "overrides" in (node.metadata or {}) or follows_itself(node.bound):
            continue
        code = Named(node.bound)
        for what in asked:
            if code.is_whole and what not in code and "overridden_model" not in code:
                yield (
                    f"nothing in node {name!r} reads a {what}, so node_overrides.{name}.{what} "
                    "changes nothing: take it out, or read it there by overridden_model"
                )


def _taken(target: Any) -> list[str]:
    """The keys of the inputs that a graph takes; none where it takes any."""
    inner = getattr(target, "built", None) or getattr(target, "inner", target)
    builder = getattr(getattr(inner, "runnable", None), "builder", None)
    schemas, schema = getattr(builder, "schemas", {}), getattr(builder, "input_schema", None)
    taken = [*schemas.get(schema, ())] if builder is not None else []
    return [] if "__root__" in taken else taken


def _dropped(
    lost: Counter[str], taken: Sequence[str], count: int, evaluators: Sequence[BoundEvaluator]
) -> Iterator[str]:
    """On keys of the inputs that LangGraph drops, because the graph's input schema lacks them."""
    code = Named(*(root for one in evaluators for root in _roots(one))) if lost else Named()
    for key, times in lost.items():
        if key not in code:
            near = get_close_matches(key, taken, n=1)
            todo = f"did you mean {near[0]!r}?" if near else f"it takes: {', '.join(taken)}"
            yield (
                f"the target's input schema has no {key!r}, so LangGraph drops it from the inputs "
                f"of {times} of {count} cases: {todo}"
            )


def _roots(evaluator: BoundEvaluator) -> list[Any]:
    """What an evaluator is made of: how it is called, and what is called."""
    call = evaluator.adapter.call
    held = [cell.cell_contents for cell in getattr(call, "__closure__", None) or ()]
    return [call, *(one.obj for one in held if isinstance(one, Subject))]


def _compares(evaluator: BoundEvaluator) -> bool:
    """Whether an evaluator may look at the expected output."""
    owner = getattr(evaluator.adapter.call, "__self__", None)
    if isinstance(owner, Builtin):
        return owner.compares
    code = Named(*_roots(evaluator))
    return not code.is_whole or "expected_output" in code
