"""Where prompts go in what a LangGraph server is sent: the one place that decides.

A deployed graph reads a prompt from `configurable.prompts.NAME` (`get_prompt` does), from a field
of its context, or from wherever the prompt is bound. A server mirrors `configurable` into the
context and the other way round, and takes only one of them in a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orcheo_agentensor.errors import BadInput

PromptsIn = Literal["auto", "configurable", "context"]
_OURS = ("thread_id", "run_id", "agentensor")
_OURS_BEGIN = ("__", "checkpoint_", "langgraph_")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How one deployed graph reads what it is given. `fields` is what its context schema has."""

    fields: Mapping[str, Any]
    prompts_in: PromptsIn = "auto"

    @classmethod
    def of(cls, schemas: Mapping[str, Any], prompts_in: PromptsIn) -> Placement:
        """From the schemas that a server gives for an assistant."""
        schema = schemas.get("context_schema") or {}
        return cls(fields=schema.get("properties") or {}, prompts_in=prompts_in)

    def path(self, name: str, prompt: Mapping[str, Any]) -> tuple[str, ...]:
        """The keys that lead to a prompt, below `configurable` or the context."""
        bind = prompt.get("bind")
        if bind:
            root, *path = str(bind).split(".")
            if root not in ("configurable", "context") or not all(path) or not path:
                raise BadInput(
                    field=f"prompts.{name}.bind",
                    value=bind,
                    rule="must be configurable.NAME or context.NAME",
                )
            if root == "context" and self.fields and path[0] not in self.fields:
                raise BadInput(
                    field=f"prompts.{name}.bind",
                    value=bind,
                    rule=f"is not in the deployed graph's context ({', '.join(self.fields)})",
                )
            return tuple(path)
        if self.prompts_in != "configurable" and name in self.fields:
            return (name,)
        if self.prompts_in == "context" and "prompts" not in self.fields:
            if self.fields:
                raise BadInput(
                    field=f"prompts.{name}",
                    value=name,
                    rule=f"is not in the deployed graph's context ({', '.join(self.fields)})",
                )
            return (name,)
        return ("prompts", name)

    def put(
        self, prompts: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any]
    ) -> dict[str, Any]:
        """`values` (a `configurable` or a context) with the prompts in their places.

        Gives what to send: `{"configurable": ...}` or `{"context": ...}`, or nothing for nothing.
        """
        placed = {key: value for key, value in values.items() if not _is_ours(key)}
        for name, prompt in prompts.items():
            path = self.path(name, prompt)
            here = placed
            for key in path[:-1]:
                inner = here.get(key)
                here[key] = here = dict(inner) if isinstance(inner, Mapping) else {}
            whole = path == ("prompts", name) and not self._takes_texts
            here[path[-1]] = dict(prompt) if whole else prompt["text"]
        if not placed:
            return {}
        return {"context" if self._in_context(placed) else "configurable": placed}

    @property
    def _takes_texts(self) -> bool:
        """Whether the graph declares `prompts` as a mapping of names to plain texts."""
        declared = self.fields.get("prompts")
        entries = declared.get("additionalProperties") if isinstance(declared, Mapping) else None
        return isinstance(entries, Mapping) and entries.get("type") == "string"

    def _in_context(self, placed: Mapping[str, Any]) -> bool:
        if self.prompts_in != "auto":
            return self.prompts_in == "context"
        return bool(self.fields) and set(placed) <= set(self.fields)


def without(values: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """A copy of `values` that lacks what `path` leads to."""
    copy = dict(values)
    head, *rest = path
    if not rest:
        copy.pop(head, None)
    elif isinstance(copy.get(head), Mapping):
        copy[head] = without(copy[head], tuple(rest))
        if not copy[head]:
            del copy[head]
    return copy


def _is_ours(key: str) -> bool:
    return key in _OURS or key.startswith(_OURS_BEGIN)
