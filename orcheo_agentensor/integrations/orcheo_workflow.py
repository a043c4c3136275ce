"""Workflows of Orcheo's nodes as targets: each rollout gets a state in Orcheo's shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentensor.tensor import TextTensor as TheirTensor
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.pregel import Pregel
from orcheo.graph.builder import build_graph
from orcheo.graph.state import State
from orcheo.nodes.base import BaseNode

from orcheo_agentensor.entrypoints import is_entrypoint, load_entrypoint
from orcheo_agentensor.errors import BadInput
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.tape import is_taping, prompts_in
from orcheo_agentensor.tape_watch import watched
from orcheo_agentensor.targets.base import RunnableTarget, check_target, compiled
from orcheo_agentensor.targets.output import pick, to_json_output
from orcheo_agentensor.tensor import TextTensor, as_prompts

_SHARED = ("messages", "structured_response", "assistant_message")
"""What nodes write beside `node_results`, and a workflow may answer with."""


class OrcheoPrompt(TextTensor, TheirTensor):  # type: ignore[misc]
    """A prompt that is a `TextTensor` to us and to Orcheo's nodes.

    `{{config.prompts.x}}` as a whole field keeps it; `{{config.prompts.x.text}}` is its text.
    """


class OrcheoWorkflow:
    """A graph over Orcheo's `State`, run on a case's inputs with the prompts of a candidate.

    The case's inputs are `state["inputs"]`, the prompts are in `state["config"]["prompts"]` as
    `OrcheoPrompt`s. The output is `node_results`, and beside it what the workflow answered with
    (`messages`, `structured_response`, `assistant_message`) where no node has that name; with
    `output`, a dotted path, only the part there.
    """

    def __init__(self, inner: RunnableTarget, *, output: str | None = None) -> None:
        self._inner = inner
        self._output = output
        self.name = inner.name
        self.edges = inner.edges
        self.fingerprint = f"orcheo:{inner.fingerprint}#{output or ''}"

    def check(self, configurable: Mapping[str, Any], prompts: Mapping[str, Any]) -> None:
        """As the graph's."""
        check_target(self._inner, configurable, prompts)

    async def run(self, inputs: Any, config: RunnableConfig, *, rollout_id: str) -> Any:
        """Run the workflow once."""
        tensors = {
            name: OrcheoPrompt.model_validate(tensor.model_dump())
            for name, tensor in as_prompts(prompts_in(config)).items()
        }
        prompts: Any = watched(tensors, {name: name for name in tensors} if is_taping() else {})
        state: dict[str, Any] = {
            "messages": [],
            "inputs": inputs if isinstance(inputs, Mapping) else {"input": inputs},
            "node_results": {},
            "structured_response": None,
            "config": {"prompts": prompts},
        }
        found = await self._inner.run(state, config, rollout_id=rollout_id)
        answered = {key: found[key] for key in _SHARED if found.get(key)}
        answer = to_json_output({**answered, **found["node_results"]})
        return pick(answer, self._output) if self._output else answer


def orcheo_target(target: Any, *, output: str | None, settings: Settings) -> Any:
    """`target` as it is, or as an `OrcheoWorkflow` where it is one.

    That is a graph over Orcheo's state, compiled or not, a stored workflow (`{"format": …}`), one
    node of Orcheo, or a "module:attribute" string naming any of these.
    """
    if is_entrypoint(target):
        target = load_entrypoint(target, settings=settings, what="target")
    if isinstance(target, Mapping) and "format" in target:
        target = build_graph(target)
    if isinstance(target, BaseNode):
        graph = StateGraph(State)
        graph.add_node(target.name, target)
        graph.add_edge(START, target.name)
        graph.add_edge(target.name, END)
        target = graph
    if isinstance(target, StateGraph):
        target = compiled(target)
    if isinstance(target, Pregel) and {"node_results", "config"} <= set(target.channels):
        return OrcheoWorkflow(RunnableTarget.of(target), output=output)
    if output is not None:
        raise BadInput(field="output", value=output, rule="is for workflows of Orcheo's nodes")
    return target
