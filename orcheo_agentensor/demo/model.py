"""`LexicalChatModel`: a simulated chat model that works by matching words.

It stands in for a language model where none is configured. It reads its system prompt and nothing
else for instructions: with a definitions block (`label: words` lines under a heading) it answers
with the label whose words fit the message best; otherwise it writes a bland reply and acts on the
rules it finds in a list. What it answers therefore depends on the prompt and on the message alone;
nothing is scripted per case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult

from orcheo_agentensor.demo.rules import Rule, parse_rules
from orcheo_agentensor.demo.words import Router, parse_definitions, words

BLAND_REPLY = (
    "Unfortunately we cannot answer this at once.",
    "We have received your message and somebody will look at it.",
    "Messages are answered in the order in which they arrive, which may take some time.",
    "There is no need to write to us again about the same matter in the meantime.",
)
"""What the model writes of itself, sentence by sentence."""

_FIELD = re.compile(r"^(?P<name>[A-Za-z]+):[ \t]*(?P<value>\S.*)$", re.MULTILINE)


class LexicalChatModel(BaseChatModel):
    """A simulated chat model: labels and replies by word matching, in microseconds, for nothing."""

    temperature: float = 0.0
    """Taken as other models take it; matching words leaves nothing to chance at any."""

    @property
    def _llm_type(self) -> str:
        return "lexical-simulated"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return {"model_name": "lexical", "simulated": True}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        system = "\n\n".join(m.text for m in messages if isinstance(m, SystemMessage))
        user = "\n\n".join(m.text for m in messages if not isinstance(m, SystemMessage))
        text = answer(system, user)
        counted_in, counted_out = len(words(system)) + len(words(user)), len(words(text))
        message = AIMessage(
            content=text,
            response_metadata={"simulated": True, "model_name": "lexical"},
            usage_metadata=UsageMetadata(
                input_tokens=counted_in,
                output_tokens=counted_out,
                total_tokens=counted_in + counted_out,
            ),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._generate(messages)


def answer(system: str, user: str) -> str:
    """What the model says to a system prompt and a user's message."""
    router = _router(system)
    if router is not None:
        return router.route(words(user))
    fields = {match["name"].lower(): match["value"] for match in _FIELD.finditer(user)}
    return write(parse_rules(system), fields)


@lru_cache(maxsize=64)
def _router(system: str) -> Router | None:
    definitions = parse_definitions(system)
    return Router(definitions) if definitions else None


def write(rules: Sequence[Rule], fields: Mapping[str, str]) -> str:
    """The bland reply, changed as far as `rules` ask for; `fields` holds what they may name."""
    by_kind: dict[str, list[str]] = {}
    for rule in rules:
        by_kind.setdefault(rule.kind, []).append(rule.value)
    asked = [
        f"The {name.lower()} is {fields[name.lower()]}."
        for name in by_kind.get("name", ())
        if name.lower() in fields
    ]
    asked += [f"{_capital(text)}." for text in by_kind.get("include", ())]
    start = [f"{text}," for text in by_kind.get("start", ())[:1]]
    end = by_kind.get("end", [])[:1]
    own = [
        sentence
        for sentence in BLAND_REPLY
        if all(text.lower() not in sentence.lower() for text in by_kind.get("avoid", ()))
    ]
    limit = min((int(value) for value in by_kind.get("limit", ())), default=None)
    if limit is not None:
        while own and _length([*start, *own, *asked, *end]) > limit:
            own.pop()
    return " ".join([*start, *own, *asked, *end])


def _length(sentences: Sequence[str]) -> int:
    return sum(len(words(sentence)) for sentence in sentences)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
