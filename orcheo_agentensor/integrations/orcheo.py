"""The Orcheo plugin: its `AgentensorNode`, and workflows of Orcheo's nodes as targets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.pregel import Pregel
from pydantic import BaseModel, ConfigDict, Field, model_validator

from orcheo_agentensor.errors import MissingExtra

try:
    from agentensor.tensor import TextTensor as TheirTensor
    from orcheo.agentensor.prompts import TrainablePrompt
    from orcheo.graph.builder import build_graph
    from orcheo.graph.ingestion import LANGGRAPH_SCRIPT_FORMAT
    from orcheo.graph.ingestion.exceptions import ScriptIngestionError
    from orcheo.graph.state import State
    from orcheo.nodes.base import BaseNode, BaseRunnable, TaskNode
    from orcheo.nodes.registry import NodeMetadata
    from orcheo.plugins import PluginAPI
    from orcheo.runtime.state_builder import build_initial_state
except ImportError as error:
    raise MissingExtra("orcheo>=0.46", extra="orcheo") from error

from orcheo_agentensor.entrypoints import is_entrypoint, load_entrypoint
from orcheo_agentensor.errors import BadInput, ConfigError, PromptNotFound
from orcheo_agentensor.integrations.orcheo_forms import (
    Trained,
    of_dataset,
    of_evaluators,
    of_optimizer,
    of_state_config,
    results_of,
    telling,
)
from orcheo_agentensor.nodes.agentensor import JobFields
from orcheo_agentensor.nodes.templates import interpolate
from orcheo_agentensor.prompts import MODEL_KWARGS, TextTensor, as_prompts, as_tensor, is_content
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.storage import Store
from orcheo_agentensor.tape import is_taping, prompts_in, watched
from orcheo_agentensor.targets.context import compiled
from orcheo_agentensor.targets.local import RunnableTarget, check_target
from orcheo_agentensor.targets.output import pick, to_json_output
from orcheo_agentensor.upstream import allow_in_checkpoints

_PROMPT = re.compile(r"\{\{\s*config\.prompts\.([^\s.{}]+)")
_TEXT_KEYS = ("text", "requires_grad", "metadata")
_SHARED = ("messages", "structured_response", "assistant_message")
"""What nodes write beside `node_results`, and a workflow may answer with."""


class OrcheoPrompt(TextTensor, TheirTensor):  # type: ignore[misc]
    """A prompt that is a `TextTensor` to us and to Orcheo's nodes.

    `{{config.prompts.x}}` as a whole field keeps it; `{{config.prompts.x.text}}` is its text.
    """


for _kind in (TrainablePrompt, OrcheoPrompt):  # in the state of Orcheo's workflows
    allow_in_checkpoints(_kind)


class OrcheoWorkflow:
    """A graph over Orcheo's `State`, run on a case's inputs with the prompts of a candidate.

    The state is the one that Orcheo starts such a workflow with: the case's inputs are
    `state["inputs"]`, the prompts `OrcheoPrompt`s in `state["config"]["prompts"]`, beside
    the `configurable`, tags and metadata of the job's config. The output is `node_results`, and
    beside it what the workflow answered with (`messages`, `structured_response`,
    `assistant_message`) where no node has that name; with `output`, a dotted path, only the part
    there.
    """

    def __init__(
        self, graph: Pregel[Any, Any, Any, Any], *, stored_as: str, output: str | None = None
    ) -> None:
        self._inner = RunnableTarget.of(graph)
        self._channels = frozenset(graph.channels)
        self._asked_for = dict(_prompts_asked_for(graph))
        self._stored_as = stored_as
        self._output = output
        self.name = self._inner.name
        self.edges = self._inner.edges
        self.fingerprint = f"orcheo:{self._inner.fingerprint}#{output or ''}"

    def check(self, configurable: Mapping[str, Any], prompts: Mapping[str, Any]) -> None:
        """As the graph's; raises `PromptNotFound` for a template that asks for another prompt.

        Orcheo would leave the template as it stands, and a model would be sent the braces.
        """
        for name, prompt in prompts.items():
            if is_content(prompt):
                rule = "has images or files, and Orcheo's nodes take texts: give it as a text"
                raise ConfigError(field=f"prompts.{name}", value=str(prompt), rule=rule)
        check_target(self._inner, configurable, prompts)
        there = ", ".join(sorted(prompts)) or "none"
        for name, node in self._asked_for.items():
            if name not in prompts:
                raise PromptNotFound(
                    f"node {node!r} of the target reads {{{{config.prompts.{name}}}}}, and "
                    f"prompts has no {name!r} (there: {there})",
                    field=f"prompts.{name}",
                    rule="must exist",
                )

    async def run(self, inputs: Any, config: RunnableConfig, *, rollout_id: str) -> Any:
        """Run the workflow once."""
        tensors = {
            name: OrcheoPrompt.model_validate(tensor.model_dump())
            for name, tensor in as_prompts(prompts_in(config)).items()
        }
        prompts: Any = watched(tensors, {name: name for name in tensors} if is_taping() else {})
        configurable = {
            key: value
            for key, value in (config.get("configurable") or {}).items()
            if key != "prompts" and not key.startswith("__")
        }
        kept = ("run_name", "recursion_limit", "max_concurrency")
        state = build_initial_state(
            {"format": self._stored_as},
            inputs if isinstance(inputs, Mapping) else {"input": inputs},
            {
                "configurable": configurable,
                "tags": list(config.get("tags") or []),
                "metadata": dict(config.get("metadata") or {}),
                **{
                    key: value for key, value in config.items() if key in kept and value is not None
                },
                "prompts": prompts,
            },
        )
        known = {key: value for key, value in state.items() if key in self._channels}
        found = await self._inner.run(known, config, rollout_id=rollout_id)
        answered = {key: found[key] for key in _SHARED if found.get(key)}
        answer = to_json_output({**answered, **found["node_results"]})
        return pick(answer, self._output) if self._output else answer


def _prompts_asked_for(graph: Any) -> Iterator[tuple[str, str]]:
    """The prompts that templates in nodes and edges refer to, each with the name of the node.

    Only graphs made by a LangGraph builder are looked into, not a remote graph.
    """
    builder = getattr(graph, "builder", None)
    for name, spec in getattr(builder, "nodes", {}).items():
        yield from _prompts_asked_for(spec.runnable)
        for part in (spec.runnable, *getattr(builder, "branches", {}).get(name, {}).values()):
            path = getattr(part, "path", part)
            for called in (path, getattr(path, "afunc", None), getattr(path, "func", None)):
                if isinstance(called, BaseRunnable):
                    yield from ((found, name) for found in _found_in(called.__dict__))


def _found_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from _PROMPT.findall(value)
    elif isinstance(value, BaseModel):
        yield from _found_in(value.__dict__)
    elif isinstance(value, Mapping | list | tuple | set | frozenset):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _found_in(part)


def orcheo_target(
    target: Any,
    *,
    output: str | None,
    settings: Settings,
    stored_as: str = LANGGRAPH_SCRIPT_FORMAT,
) -> Any:
    """`target` as it is, or as an `OrcheoWorkflow` where it is one.

    That is a graph over Orcheo's state, compiled or not, a stored workflow (`{"format": …}`), one
    node of Orcheo, or a "module:attribute" string naming any of these.
    """
    if is_entrypoint(target):
        target = load_entrypoint(target, settings=settings, what="target")
    if isinstance(target, Mapping) and "format" in target:
        stored_as = str(target["format"])
        try:
            target = build_graph(target)
        except (ScriptIngestionError, ValueError) as error:
            raise ConfigError(f"target: {error}", field="target", rule="must build") from error
    if isinstance(target, Mapping) and isinstance(target.get("graph"), Mapping):
        return orcheo_target(target["graph"], output=output, settings=settings)  # an exported one
    if isinstance(target, BaseNode):
        graph = StateGraph(State)
        graph.add_node(target.name, target)
        graph.add_edge(START, target.name)
        graph.add_edge(target.name, END)
        target = graph
    if isinstance(target, StateGraph):
        target = compiled(target)
    if isinstance(target, Pregel) and {"node_results", "config"} <= set(target.channels):
        return OrcheoWorkflow(target, stored_as=stored_as, output=output)
    if output is not None:
        raise BadInput(field="output", value=output, rule="is for workflows of Orcheo's nodes")
    return target


PLAIN_NAME = "AgentensorNode"
NODE_NAME = f"orcheo_agentensor.{PLAIN_NAME}"
"""The name in Orcheo's registry; a node of Orcheo's own may have the plain one."""

_LIVE = ("compiled_graph", "graph_config", "state_config", "progress_callback")
_WITH_BRACES = (
    *("target", "dataset", "evaluators", "prompts", "optimizer", "store", "settings"),
    *_LIVE,
)
_REFERENCE = re.compile(r"\s*\{\{[^{}]+\}\}\s*")
_PLACEHOLDER = re.compile(r"\{\{|\[\[")


class OrcheoAgentensorNode(JobFields, TaskNode):  # type: ignore[misc]
    """Evaluates a workflow (`mode="evaluate"`) or trains its prompts (`"train"`) inside Orcheo.

    The fields are those of `JobFields`; a target may be made of Orcheo's nodes, see
    `OrcheoWorkflow`, and `output` is then the part of its output that evaluators see. Orcheo
    resolves templates and credentials in the fields; cases, evaluators and prompts have braces of
    their own and are resolved only as a whole (`dataset="{{inputs.dataset}}"`,
    `prompts={"x": "{{config.prompts.x}}"}`).

    The fields of Orcheo's own `AgentensorNode` are taken as well, in the forms it takes. The
    payload in `node_results` is the output of the subgraph, with Orcheo's keys beside where an
    evaluator is one of its definitions (`{id, entrypoint, config}`).
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    output: str | None = Field(
        default=None,
        title="Output",
        description="Dotted path to the part of a workflow's output to score.",
    )
    max_cases: int | None = Field(
        default=None, ge=1, title="Most cases", description="Only the first cases of the dataset."
    )
    compiled_graph: Any = Field(default=None, exclude=True, description="The target, in Orcheo.")
    graph_config: Any = Field(
        default=None, exclude=True, description="The stored workflow that the graph was built from."
    )
    state_config: Any = Field(
        default=None, exclude=True, description="The RunnableConfig that a case's state is to hold."
    )
    progress_callback: Any = Field(
        default=None, exclude=True, description="An async function that is told of each event."
    )
    checkpoint_store: Any = Field(
        default=None,
        exclude=True,
        description="Where Orcheo keeps its checkpoints: each version is recorded there, too.",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_orcheo(cls, data: Any) -> Any:
        return of_optimizer(data) if isinstance(data, dict) else data

    def model_post_init(self, context: Any) -> None:
        """As every job's node, but a store with a placeholder has to wait for its run."""
        if not (isinstance(self.store, str) and _PLACEHOLDER.search(self.store)):
            super().model_post_init(context)

    def _decoded_updates(self, state: State) -> dict[str, Any]:
        return {**self.__dict__, **self._compute_run_updates(state)}

    def _compute_run_updates(self, state: State) -> dict[str, Any]:
        """The fields that templates change. Raises `TemplateError` for one that leads nowhere."""
        decoded = {
            name: self._decode_value(value, state)
            for name, value in self.__dict__.items()
            if isinstance(value, str) or name not in _WITH_BRACES
        }
        if isinstance(self.prompts, Mapping):
            decoded["prompts"] = {
                name: self._decoded_prompt(prompt, state) for name, prompt in self.prompts.items()
            }
        return {name: value for name, value in decoded.items() if value is not self.__dict__[name]}

    def _decoded_prompt(self, prompt: Any, state: State) -> Any:
        """A prompt that is a reference, or holds one for its text or for some of its metadata."""
        if isinstance(prompt, TrainablePrompt):
            return TrainablePrompt(**self._decoded_prompt(prompt.model_dump(), state))
        if isinstance(prompt, Mapping):
            return {
                key: {k: self._decoded_prompt(v, state) for k, v in value.items()}
                if key == "metadata" and isinstance(value, Mapping)
                else self._decoded_prompt(value, state)
                if key == "text"
                else value
                for key, value in prompt.items()
            }
        decoded: Any = self._decode_value(prompt, state) if _is_reference(prompt) else prompt
        return decoded

    def _decode_string_value(self, value: str, state: State) -> Any:
        """As Orcheo, which leaves a reference that leads nowhere as it stands; here that raises."""
        decoded = super()._decode_string_value(value, state)
        unresolved = decoded is value and _is_reference(value)
        return interpolate(value.strip(), dict(state)) if unresolved else decoded

    async def run(self, state: State, config: RunnableConfig) -> dict[str, Any]:
        """Run the subgraph on the job that the fields make; returns its output.

        A node with nothing but prompts, as Orcheo has them, gives these back with their templates
        filled in.
        """
        parts = (self.target, self.compiled_graph, self.dataset, self.evaluators or None)
        if all(part is None for part in parts):
            nothing: dict[str, Any] = {"summary": {}, "results": []}
            nothing |= {"checkpoints": []} if self.mode == "train" else {}
            return {**self._orcheos_base(config), **nothing}
        settings = self.settings or Settings()
        target = self.target if self.compiled_graph is None else _as_graph(self.compiled_graph)
        if target is not None:
            stored_as = dict(self.graph_config or {}).get("format", LANGGRAPH_SCRIPT_FORMAT)
            target = orcheo_target(
                target, output=self.output, settings=settings, stored_as=str(stored_as)
            )
        evaluators, in_orcheos_form = of_evaluators(self.evaluators, settings=settings)
        under = {} if self.compiled_graph is None else dict(state.get("inputs") or {})
        dataset = await of_dataset(self.dataset, most=self.max_cases, under=under)
        job = self.model_copy(
            update={
                "target": target,
                "prompts": None if self.prompts is None else _prompts(self.prompts),
                "settings": settings,
                "evaluators": evaluators,
                "dataset": dataset,
                "config": self._config(state),
            }
        )
        if job._opened is None:
            job._opened = Store.from_url(self.store)
        trained = None
        if self.mode == "train" and (in_orcheos_form or self.checkpoint_store is not None):
            trained = Trained(job._opened, self.checkpoint_store, prompts=self._stored_prompts())
        async with telling(self.progress_callback, node=self.name, mode=self.mode, trained=trained):
            payload = await job.run_job()
        if in_orcheos_form:
            payload["dataset_id"] = (await job._opened.runs.get(payload["run_id"])).dataset_id
        if trained is not None:
            number = payload["best"]["config_version"]
            payload |= await trained.to_payload(payload["run_id"], number)
        if not in_orcheos_form:
            return payload
        if self.mode == "evaluate":
            payload["results"] = await results_of(job._opened, payload["run_id"])
        return {**payload, **self._in_orcheos_words(payload, config)}

    def _stored_prompts(self) -> dict[str, Any]:
        return {name: _stored(prompt) for name, prompt in (self.prompts or {}).items()}

    def _config(self, state: State) -> Any:
        """The job's config: what the node says, over what Orcheo's state is to hold; in the place
        of Orcheo's own node that is, where nothing is said, what the state around it holds."""
        given = self.config.model_dump() if isinstance(self.config, BaseModel) else self.config
        if isinstance(given, Mapping) and not {"callbacks", "prompts"}.isdisjoint(given):
            given = of_state_config(given)  # as Orcheo stores it
        held = self.state_config
        if held is None and self.compiled_graph is not None:
            held = state.get("config")
        return {**of_state_config(held), **(given or {})} if held else given

    def _orcheos_base(self, config: RunnableConfig) -> dict[str, Any]:
        """What Orcheo's own node has in its payload, whatever it does."""
        tags = [str(tag) for tag in config.get("tags") or ()]
        return {"mode": self.mode, "prompts": self._stored_prompts(), "tags": tags}

    def _in_orcheos_words(
        self, payload: Mapping[str, Any], config: RunnableConfig
    ) -> dict[str, Any]:
        """What Orcheo's own node has in its payload, beside ours."""
        found = self._orcheos_base(config)
        prompts = found["prompts"]
        for name, best in (payload.get("best") or {}).get("prompts", {}).items():
            prompts[name] = {**prompts.get(name, {}), "text": best["text"]}
        summary = payload["summary"]
        means = {name: one["mean"] for name, one in summary["evaluators"].items()}
        return {**found, "summary": {**means, **summary}}


AgentensorNode = OrcheoAgentensorNode
"""As scripts import it."""


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


def _prompts(given: Any) -> dict[str, Any]:
    """Orcheo's prompts (`TrainablePrompt`, its `TextTensor`, either's JSON) as ours."""
    if not isinstance(given, Mapping):
        raise ConfigError(field="prompts", value=given, rule="must map names to prompts")
    return {str(name): _prompt(value) for name, value in given.items()}


def _as_graph(given: Any) -> Any:
    """`given` where it is a graph; what only has a graph's `ainvoke` as the one node of one."""
    if isinstance(given, Pregel | StateGraph | BaseNode):
        return given

    async def invoke(state: State, config: RunnableConfig) -> Any:
        return await given.ainvoke(state, config)

    return StateGraph(State).add_node("graph", invoke).add_edge(START, "graph")


def _stored(prompt: Any) -> dict[str, Any]:
    """A prompt as Orcheo stores it, with its `model_kwargs` as they were given."""
    if is_content(prompt):  # Orcheo keeps texts
        prompt = {key: as_tensor(prompt, field="prompt").to_json()[key] for key in _TEXT_KEYS}
    if isinstance(prompt, BaseModel):
        prompt = prompt.model_dump(mode="json")
    given = prompt if isinstance(prompt, Mapping) else {"text": str(prompt), "requires_grad": True}
    stored: dict[str, Any] = TrainablePrompt.model_validate(given).model_dump(mode="json")
    return stored


def _prompt(value: Any) -> Any:
    if isinstance(value, TheirTensor) and not isinstance(value, TextTensor):
        return TextTensor(
            value.text, requires_grad=value.requires_grad, metadata=dict(value.metadata)
        )
    if isinstance(value, BaseModel) and not isinstance(value, TextTensor):
        value = value.model_dump()
    if not isinstance(value, Mapping):
        return value
    kept = {"requires_grad": False, **value}  # as Orcheo's own prompts are, unless they say so
    options = kept.pop("model_kwargs", None) or {}
    model = kept.get("model") or options.get("model")
    known = {key: option for key, option in options.items() if key in MODEL_KWARGS}
    if other := {k: v for k, v in options.items() if k not in known and k != "model"}:
        kept["metadata"] = {**(kept.get("metadata") or {}), "model_kwargs": other}
    return {**kept, "model_kwargs": known, **({"model": model} if model else {})}


def register(api: PluginAPI) -> None:
    """Orcheo's hook: add the node to its registry, as `AgentensorNode` too where that is free."""
    api.register_node(_metadata(NODE_NAME), OrcheoAgentensorNode)
    with suppress(ValueError):  # Orcheo 0.46 has such a node itself, and keeps the name for it
        api.register_node(_metadata(PLAIN_NAME), OrcheoAgentensorNode)


def _metadata(name: str) -> NodeMetadata:
    return NodeMetadata(
        name=name,
        description="Evaluate a workflow, or train its prompts, resumably and with a holdout",
        category="agentensor",
        restricted=True,  # it reads files that a job names: for trusted authors only
    )
