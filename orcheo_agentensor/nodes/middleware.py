"""`TrainablePrompt`: a trainable system prompt for agents made by LangChain's `create_agent`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import SystemMessage

from orcheo_agentensor.tape import get_prompt
from orcheo_agentensor.tensor import TextTensor


class TrainablePrompt(AgentMiddleware[Any, Any]):
    """Makes the prompt `prompt_name` of the run the agent's system prompt.

    A run that brings no such prompt gets `default`, or else the `system_prompt` that the agent was
    created with; `PromptNotFound` is raised where there is none of the three.
    """

    def __init__(self, prompt_name: str, *, default: str | TextTensor | None = None) -> None:
        super().__init__()
        self.prompt_name = prompt_name
        self.default = default

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
        default = self.default if self.default is not None else request.system_prompt
        text = get_prompt(self.prompt_name, default=default)
        return request.override(system_message=SystemMessage(text))
