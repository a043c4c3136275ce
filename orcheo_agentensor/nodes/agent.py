"""`AgentNode` and `TrainablePrompt`: LangChain agents with a trained system prompt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, ClassVar, cast

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    convert_to_messages,
)
from langchain_core.runnables import RunnableConfig
from pydantic import BaseModel, Field

from orcheo_agentensor.config.overrides import NodeOverride, with_model
from orcheo_agentensor.entrypoints import chat_model
from orcheo_agentensor.errors import RunFailed
from orcheo_agentensor.nodes.task import TaskNode, register_node
from orcheo_agentensor.prompts import TextTensor, as_tensor
from orcheo_agentensor.seeds import seeded
from orcheo_agentensor.tape import get_prompt
from orcheo_agentensor.usage import is_counting


class TrainablePrompt(AgentMiddleware[Any, Any]):
    """Middleware for `create_agent`: a prompt of the run as the base of the system prompt.

    What earlier middleware has added to it stays, and so do marks such as `cache_control`. Where
    the agent has no `system_prompt`, put it before middleware that adds to one.

    Args:
        prompt_name: The prompt.
        default: The text of a run that brings no such prompt; left out, the `system_prompt` that
            the agent was created with.

    Raises:
        PromptNotFound: There is none of the three, at the call.

    Example:
        >>> from langchain.agents import create_agent
        >>> from orcheo_agentensor import TrainablePrompt, configure
        >>> from orcheo_agentensor.testing import RuleChatModel
        >>> model = RuleChatModel(rule=lambda messages: messages[0].text)  # repeats its prompt
        >>> agent = create_agent(model, middleware=[TrainablePrompt("tone", default="Be kind.")])
        >>> prompts = {"tone": "Be brief."}
        >>> brief = configure(agent, workflow_id="agent", defaults={"prompts": prompts})
        >>> brief.invoke({"messages": [("user", "hello")]})["messages"][-1].text
        'Be brief.'
    """

    def __init__(self, prompt_name: str, *, default: str | TextTensor | None = None) -> None:
        super().__init__()
        self.prompt_name = prompt_name
        self.default = default

    def trainable_prompts(self) -> dict[str, TextTensor]:
        """The prompt with its default, for a training that is given no prompts."""
        if self.default is None:
            return {}
        return {self.prompt_name: as_tensor(self.default, field=self.prompt_name)}

    @property
    def name(self) -> str:
        """Tells the middleware of one prompt from that of another."""
        return f"{type(self).__name__}[{self.prompt_name}]"

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Put the prompt in place for a sync call."""
        return handler(self._with_prompt(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Put the prompt in place for an async call."""
        return await handler(self._with_prompt(request))

    def _with_prompt(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        there = request.system_message
        default = self.default if self.default is not None else request.system_prompt
        text = get_prompt(self.prompt_name, default=default)
        given: Any = text.content
        if there is None:
            return request.override(system_message=SystemMessage(given))
        if given == request.system_prompt:  # as it is, with the marks on its blocks
            return request
        known = None if self.default is None else str(self.default)
        content = _with_base(there.content, given, known=known)
        return request.override(system_message=there.model_copy(update={"content": content}))


def _with_base(
    content: str | list[Any], given: str | list[Any], *, known: str | None
) -> str | list[Any]:
    """A system message's content with `given` as its base: what middleware has added stays.

    Middleware adds blocks that begin with an empty line; to a plain text it adds what follows on
    the `known` base. Marks of the base, such as `cache_control`, go to a new text.
    """
    if isinstance(content, str):
        rest = content[len(known) :] if known and content.startswith(known) else ""
        if isinstance(given, str):
            return given + rest
        return [*given, {"type": "text", "text": rest}] if rest else given
    added = (
        index
        for index, block in enumerate(content)
        if (block if isinstance(block, str) else block.get("text", "")).startswith("\n\n")
    )
    end = next(added, len(content))
    if not isinstance(given, str):
        return [*given, *content[end:]]
    marks = {k: v for block in content[:end] if isinstance(block, dict) for k, v in block.items()}
    return [{"type": "text", **marks, "text": given}, *content[end:]]


@register_node("AgentNode", description="Call a chat model, with tools or without", category="ai")
class AgentNode(TaskNode):
    """Calls a chat model once, or runs a LangChain agent when it has tools.

    What is sent is `system_prompt`, then `messages`, then `user_prompt` as a user message; with
    neither of the last two, the messages of the state.

    The update holds the new `messages`, the output in `results` under the node's name (the text of
    the last message, or the structured output as JSON) and, with a `response_format`,
    `structured_response`.

    Args:
        name: The node's name, under which its output is in `results`.
        model: A chat model, or its name for `init_chat_model` ("openai:gpt-5-mini").
        temperature: Goes over the one that the model has.
        system_prompt: A text or a template.
        user_prompt: A text or a template.
        messages: In any form LangChain takes, or a reference such as `"{{messages}}"`.
        tools: With any, the node is an agent.
        response_format: A pydantic model or a JSON Schema of the answer.

    Raises:
        RunFailed: The model gives no structured output though one is asked for.

    Example:
        >>> import asyncio
        >>> from langgraph.graph import START, StateGraph
        >>> from orcheo_agentensor import AgentNode
        >>> from orcheo_agentensor.nodes import State
        >>> from orcheo_agentensor.testing import RuleChatModel
        >>> model = RuleChatModel(rule=lambda messages: messages[-1].text.upper())
        >>> node = AgentNode(name="shout", model=model, user_prompt="{{inputs.text}}")
        >>> graph = StateGraph(State).add_node("shout", node).add_edge(START, "shout").compile()
        >>> asyncio.run(graph.ainvoke({"inputs": {"text": "hello"}}))["results"]
        {'shout': 'HELLO'}
    """

    chat_model: ClassVar[bool] = True

    model: str | BaseChatModel
    temperature: float | str | None = None
    system_prompt: str | TextTensor | None = None
    user_prompt: str | TextTensor | None = None
    messages: str | list[Any] | None = None
    tools: list[Any] = Field(default_factory=list)
    response_format: type[BaseModel] | dict[str, Any] | None = None

    async def _update(self, state: Mapping[str, Any], config: RunnableConfig) -> dict[str, Any]:
        node = self.decode_variables(state, config)
        new, structured = await node.run(state, config)
        if node.response_format is None:
            return {"messages": new, "results": {node.name: new[-1].text}}
        return {
            "messages": new,
            "results": {node.name: structured},
            "structured_response": structured,
        }

    async def run(
        self, state: Mapping[str, Any], config: RunnableConfig
    ) -> tuple[list[AnyMessage], Any]:
        """The messages this call adds (the user prompt included), and the structured output."""
        given = self.user_prompt
        asked = [HumanMessage(_content_of(given))] if given is not None else []
        turns = [*self._conversation(state), *asked]
        model = (
            _chat_model(self.model, once=is_counting())
            if isinstance(self.model, str)
            else self.model
        )
        if self.temperature is not None:
            model = with_model(model, NodeOverride(temperature=float(self.temperature)))
        model = seeded(model)
        call = self._run_agent if self.tools else self._call_model
        answers, structured = await call(model, turns, config)
        return cast("list[AnyMessage]", [*asked, *answers]), _as_json(structured)

    def _conversation(self, state: Mapping[str, Any]) -> list[BaseMessage]:
        given = self.messages
        if given is None:
            given = [] if self.user_prompt is not None else state.get("messages") or []
        given = _as_content(given)
        return convert_to_messages([HumanMessage(given)] if isinstance(given, str) else given)

    async def _call_model(
        self, model: BaseChatModel, turns: list[BaseMessage], config: RunnableConfig
    ) -> tuple[list[BaseMessage], Any]:
        if self.system_prompt is not None:
            turns = [SystemMessage(_content_of(self.system_prompt)), *turns]
        if self.response_format is None:
            return [await model.ainvoke(turns, config)], None
        caller = model.with_structured_output(self.response_format, include_raw=True)
        answer = cast("dict[str, Any]", await caller.ainvoke(turns, config))
        if answer["parsing_error"] is not None or answer["parsed"] is None:
            reason = answer["parsing_error"] or "the model gave none"
            raise RunFailed(f"node {self.name!r} got no structured output: {reason}")
        return [answer["raw"]], answer["parsed"]

    async def _run_agent(
        self, model: BaseChatModel, turns: list[BaseMessage], config: RunnableConfig
    ) -> tuple[list[BaseMessage], Any]:
        from langchain.agents import create_agent

        given = self.system_prompt
        system = None if given is None else SystemMessage(_content_of(given))
        agent = create_agent(
            model, self.tools, system_prompt=system, response_format=self.response_format
        )
        final = await agent.ainvoke({"messages": turns}, config)  # type: ignore[call-overload]
        return final["messages"][len(turns) :], final.get("structured_response")


@lru_cache(maxsize=64)
def _chat_model(name: str, *, once: bool) -> BaseChatModel:
    """A model by its name, of which the client does not try again where calls are tried `once`."""
    from langchain.chat_models import init_chat_model

    return chat_model(name) if once else init_chat_model(name)


def _as_json(structured: Any) -> Any:
    """Structured output as JSON: graph state holds no classes."""
    return structured.model_dump(mode="json") if isinstance(structured, BaseModel) else structured


def _content_of(given: Any) -> Any:
    """The content of a message that a field is for, whatever its template has led to."""
    return given.content if isinstance(given, TextTensor) else str(given)


def _as_content(given: Any) -> Any:
    """Messages as given, with their texts or blocks in place of prompts that templates brought."""
    if isinstance(given, TextTensor):
        return given.content
    if isinstance(given, BaseMessage):
        content = _as_content(given.content)
        return given if content is given.content else given.model_copy(update={"content": content})
    if isinstance(given, dict):
        return {key: _as_content(item) for key, item in given.items()}
    if isinstance(given, tuple):
        return tuple(_as_content(item) for item in given)
    return [_as_content(item) for item in given] if isinstance(given, list) else given
