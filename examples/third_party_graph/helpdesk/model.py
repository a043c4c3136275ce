"""A simulated chat model, so that the example needs no key: it follows its prompt to the letter.

Of the lines `queue: word word` in the system prompt, the first that has a word of the ticket is the
answer; else it is "general". Put `init_chat_model("openai:…")` in its place.
"""

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult


class SimulatedModel(BaseChatModel):
    """Answers by the rules in its prompt."""

    @property
    def _llm_type(self) -> str:
        return "simulated"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        rules, ticket = messages[0].text, messages[-1].text.lower().split()
        queue = "general"
        for line in rules.splitlines():
            name, _colon, words = line.partition(":")
            if set(words.split()) & set(ticket):
                queue = name
                break
        usage: Any = {"input_tokens": len(rules.split()), "output_tokens": 1}
        usage["total_tokens"] = sum(usage.values())
        reply = AIMessage(queue, usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=reply)])
