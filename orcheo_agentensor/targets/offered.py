"""What a served graph offers to be set in a form: its prompts, and the stored version to use.

The JSON Schema of its context says so, as Studio reads it: a prompt is edited in the nodes that
read it. What comes back is put where a config has it before anything else looks at it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any

from langchain_core.tools import BaseTool
from pydantic import BaseModel

from orcheo_agentensor.config.model import RunConfig, is_runtime_key
from orcheo_agentensor.config.overrides import NODE_OVERRIDES
from orcheo_agentensor.config.resolve import flag_in, merge_configs
from orcheo_agentensor.errors import AgentensorError, ConfigError, NotFound
from orcheo_agentensor.prompts import (
    CONFIGURABLE,
    CONTEXT,
    OFFERED,
    TextTensor,
    constant_in,
    is_content,
    part_in,
    path_in,
)
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.targets.code import parts_by_node, prompts_asked_for
from orcheo_agentensor.targets.context import field_names, found_prompts
from orcheo_agentensor.targets.isolation import names_in

if TYPE_CHECKING:
    from orcheo_agentensor.storage import WorkflowRecord
    from orcheo_agentensor.targets.served import Workflow

log = logging.getLogger(__name__)

USE, AGENTENSOR, PROMPTS = "use", "agentensor", "prompts"
OWN_CONTEXT = (AGENTENSOR, NODE_OVERRIDES, PROMPTS)
"""What a context may hold beside the fields of its schema: the rest of our config."""

_WHOLE = {
    PROMPTS: "All prompts by their names, each a text or a TextTensor in JSON form.",
    AGENTENSOR: "What to run with: {use: a version or an alias}.",
    NODE_OVERRIDES: "Model, temperature, timeout, tags and metadata of single nodes.",
}
_USE = "The stored version to run with: its number, or an alias such as production."
_PROMPT = (
    "The text of the prompt {name!r} for these runs. Left as it is here, they get what they would "
    "get without it."
)


@dataclass(frozen=True, kw_only=True)
class OfferedPrompt:
    """A prompt as a field of a form. `text` is what the field holds where nobody has touched it.

    `is_own` says that the field is one of the graph's own context, to which the prompt binds.
    """

    name: str
    tensor: TextTensor
    text: str | None
    nodes: tuple[str, ...]
    is_own: bool

    def schema(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """The field, over the schema that the graph's own context has of it."""
        told: dict[str, Any] = {
            "type": "string",
            "title": self.name,
            "description": _PROMPT.format(name=self.name),
            "langgraph_type": "prompt",
        }
        if self.nodes:
            told["langgraph_nodes"] = [*self.nodes]
        if self.is_own:
            told |= own
        else:
            told[OFFERED] = "prompt"
        return told if self.text is None else {**told, "default": self.text}


@dataclass(frozen=True, kw_only=True)
class Offer:
    """The prompts of a served graph by the fields of its form; `uses` says whether it has a store
    of versions."""

    prompts: Mapping[str, OfferedPrompt]
    uses: bool

    @classmethod
    def of(
        cls,
        graph: Any,
        *,
        defaults: Mapping[str, TextTensor],
        known: Mapping[str, TextTensor],
        uses: bool,
    ) -> Offer:
        """What a graph offers: what its code and its nodes say, then `known` prompts of the store,
        whose texts are not shown, then the `defaults` in code."""
        asked = prompts_asked_for(graph)
        tensors = {name: TextTensor(one.text or "") for name, one in asked.items()}
        texts = {name: one.text for name, one in asked.items()}
        for name, tensor in {**known, **found_prompts(graph), **defaults}.items():
            tensors[name] = tensor
            is_shown = tensor is not known.get(name)
            texts[name] = tensor.text if is_shown else texts.get(name)
        own = field_names(getattr(graph, "context_schema", None) or object)
        readers = _Readers(graph)
        found: dict[str, OfferedPrompt] = {}
        for name, tensor in tensors.items():
            if is_content(tensor):  # whose text stands between images
                continue
            path = path_in(tensor.bind, CONTEXT)
            field = name if path is None else path[0]
            if path is not None and (len(path) > 1 or field not in own):
                continue
            if path is None and (field in (*own, USE, *OWN_CONTEXT) or is_runtime_key(field)):
                continue
            nodes = asked[name].nodes if name in asked else readers.of(name, tensor)
            found[field] = OfferedPrompt(
                name=name,
                tensor=tensor,
                text=texts[name],
                nodes=tuple(nodes),
                is_own=path is not None,
            )
        return cls(prompts=found, uses=uses)

    def __bool__(self) -> bool:
        return bool(self.prompts) or self.uses

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that the graph's own context has not."""
        added = [field for field, one in self.prompts.items() if not one.is_own]
        return (*added, *([USE] if self.uses else ()))

    def schema(self, own: Mapping[str, Any] | None) -> dict[str, Any]:
        """The JSON Schema of the context with what is offered; `own` is that of the graph alone.

        A server drops what a context holds beside these fields, so that all of ours are among them.
        """
        whole = dict(own or {"title": "Context", "type": "object"})
        fields = dict(whole.get("properties") or {})
        for field, one in self.prompts.items():
            fields[field] = one.schema(fields.get(field) or {})
        if self.uses:
            fields[USE] = {
                "type": "string",
                "title": "Version",
                "description": _USE,
                "examples": ["production"],
                OFFERED: USE,
            }
        for field, told in _WHOLE.items():
            title = field.replace("_", " ").capitalize()
            ours = {"type": "object", "title": title, "description": told, OFFERED: "config"}
            fields.setdefault(field, ours)
        return {**whole, "properties": fields}

    def folded(self, config: RunConfig) -> RunConfig:
        """`config` with what a form has set in its fields where configs have it.

        A field that holds what it begins with says nothing, and neither does an empty one: forms
        send fields that nobody has touched.
        """
        there = [field for field in self.fields if field in config.configurable]
        if not there:
            return config
        rest = {key: one for key, one in config.configurable.items() if key not in there}
        prompts = dict(config.prompts)
        for field, name, text in self._set_in(config.configurable):
            if field == USE:
                own = rest.get(AGENTENSOR)
                rest[AGENTENSOR] = {USE: text, **(own if isinstance(own, dict) else {})}
                continue
            bind = self.prompts[field].tensor.bind
            given: dict[str, Any] = {"text": text} if bind is None else {"text": text, "bind": bind}
            before = prompts.get(name)
            fields = (
                {key: getattr(before, key) for key in before.model_fields_set} if before else {}
            )
            prompts[name] = TextTensor(**{**fields, **given})
        return config.model_copy(update={"configurable": rest, "prompts": prompts})

    def without(self, config: RunConfig) -> RunConfig:
        """`config` without the fields of a form, whose contents are in place already."""
        rest = {k: one for k, one in config.configurable.items() if k not in self.fields}
        return config.model_copy(update={"configurable": rest})

    def over_binds(self, config: RunConfig, below: Mapping[str, TextTensor]) -> RunConfig:
        """`config` with the texts of prompts `below` it, where it sets the fields of the context to
        which they bind."""
        texts = {}
        for name, tensor in below.items():
            path = path_in(tensor.bind, CONTEXT)
            field = path[0] if path is not None and len(path) == 1 else None
            text = config.configurable.get(field) if field is not None else None
            offered = self.prompts.get(field or "")
            untouched = offered is not None and text == offered.text
            if isinstance(text, str) and text and not untouched and name not in config.prompts:
                texts[name] = TextTensor(text=text)
        return config.model_copy(update={"prompts": {**config.prompts, **texts}})

    def _set_in(self, configurable: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
        """Each of the `fields` that holds something else than it begins with."""
        for field in self.fields:
            text = configurable.get(field)
            one = self.prompts.get(field)
            if text is None or text == "" or (one is not None and text == one.text):
                continue
            if not isinstance(text, str) and (one is not None or not isinstance(text, int)):
                raise ConfigError(field=f"context.{field}", value=text, rule="must be a text")
            yield field, USE if one is None else one.name, text


class Forms:
    """What forms may set of a served graph, by what was last seen in its store: a form is made
    where nobody can wait for the store."""

    def __init__(self) -> None:
        self._on: bool | None = None
        self._known: Mapping[str, TextTensor] = {}
        self._offer: Offer | None = None

    def take(self, record: WorkflowRecord | None, settings: Settings) -> bool:
        """Whether a workflow's record has configs resolved, as forms take it from now on."""
        self._on = flag_in(record, "runnable_config_enabled", settings)
        return self._on

    async def look(self, workflow: Workflow) -> None:
        """See what the store has of a workflow: its flag, and the prompts of its defaults and its
        newest version. Where the store does not answer, what was seen before stays."""
        if workflow.store is None:
            return
        configs: list[Any] = []
        try:
            record = await workflow.store.workflows.get(workflow.workflow_id)
            with suppress(NotFound):
                found = await workflow.store.checkpoints.get(workflow.workflow_id, "latest")
                configs.append(found.runnable_config)
            configs.append(record and record.default_config)
            prompts = merge_configs(*map(RunConfig.parse, configs)).prompts
        except AgentensorError as trouble:
            log.warning("workflow %s could not be looked at: %s", workflow.workflow_id, trouble)
            return
        self.take(record, workflow.settings)
        if prompts != self._known:
            self._known, self._offer = prompts, None

    def offer(self, workflow: Workflow) -> Offer | None:
        """What may be set; None where that is nothing, as while the workflow's flag is off."""
        on = workflow.settings.flag("runnable_config_enabled") if self._on is None else self._on
        if workflow.by_flag and not on:
            return None
        return self.made(workflow) or None

    def made(self, workflow: Workflow) -> Offer:
        """What may be set while the flag is on. Blocks, the first time: it reads the code."""
        if self._offer is None:
            self._offer = Offer.of(
                workflow.graph,
                defaults=workflow.defaults.prompts,
                known=self._known,
                uses=workflow.store is not None,
            )
        return self._offer

    @property
    def added(self) -> tuple[str, ...]:
        """The keys that a server takes in a context for us, and that the graph itself has not."""
        return OWN_CONTEXT if self._offer is None else (*self._offer.fields, *OWN_CONTEXT)


class _Readers:
    """The nodes of a graph that read a prompt, as far as their code says so."""

    def __init__(self, graph: Any) -> None:
        self._parts = parts_by_node(graph)

    def of(self, name: str, tensor: TextTensor) -> list[str]:
        """The names of the nodes."""
        bind = tensor.bind
        if bind is None:
            return [node for node, parts in self._parts.items() if _holds(parts, name)]
        if part_in(bind) is not None:
            root, _, rest = bind.partition(".")
            if root == "tools":
                tool = rest.partition(".")[0]
                return [n for n, parts in self._parts.items() if _has_tool(parts, tool)]
            return [root] if root in self._parts else []
        path = path_in(bind, CONTEXT) or path_in(bind, CONFIGURABLE)
        word = bind.rpartition(":")[2] if constant_in(bind) else path[-1] if path else name
        return [node for node, parts in self._parts.items() if _names(parts, word)]


def _holds(parts: list[Any], name: str) -> bool:
    """Whether a part holds a prompt itself, or refers to it in a template."""
    for part in parts:
        own = getattr(part, "trainable_prompts", None)
        if callable(own) and not isinstance(part, type) and name in own():
            return True
        if isinstance(part, BaseModel) and f"prompts.{name}" in str(vars(part)):
            return True
    return False


def _has_tool(parts: list[Any], name: str) -> bool:
    return any(isinstance(part, BaseTool) and part.name == name for part in parts)


def _names(parts: list[Any], word: str) -> bool:
    """Whether the code of a part names a word, as a name, an attribute or a text."""
    codes = (part.__code__ for part in parts if isinstance(part, FunctionType))
    return any(word in names_in(code) or word in code.co_consts for code in codes)
