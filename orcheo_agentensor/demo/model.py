"""The demo's simulated chat model, and the two forms of text that it acts on.

It stands in for a language model where none is configured. Its only instructions are its system
prompt: with a definitions block (a heading line that ends with a colon, followed by lines `label:
words`) it answers with the label whose words fit the message best; otherwise it writes a bland
reply and acts on the rules that it finds in a list. So its answer depends on the prompt and on the
message alone; nothing is scripted per case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult

Definitions: TypeAlias = dict[str, tuple[str, ...]]  # label -> the words of its line

_STOP_WORDS = """
a about after again all also am an and any are aren't as at be because been before being but by
can can't could couldn't did didn't do does doesn't don't down for from get getting go going
gone got had hadn't has hasn't have haven't he hello help her here hi his how how's i i'd i'll
i'm i've if in into is isn't it it's its just know like made make may me might more most must my
need no not now of on only or other our out over own please same she should so some still such
tell than thank thanks that that's the their them then there there's these they this those to
too under up us very want was wasn't we were what what's when where which while who whom why
will with won't would wouldn't you you're your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())  # the proposers never put these into a definition

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_HEADING = re.compile(r"^\s*\S.*:\s*$")
_DEFINITION = re.compile(r"^\s*(?:[-*]\s+)?(?P<label>[^\s:][^:]{0,60}?)\s*:\s*(?P<words>\S.*)$")


def words(text: str) -> list[str]:
    """The words of a text in order: lower case, without punctuation, not stemmed."""
    return _WORD.findall(text.lower().replace("\u2019", "'"))


def content_words(text: str) -> set[str]:
    """The distinct words of a text that are not stop words."""
    return set(words(text)) - STOP_WORDS


def parse_definitions(text: str) -> Definitions:
    """The label lines of a prompt; empty where it has no definitions block."""
    return {label: tuple(dict.fromkeys(words(line))) for _, label, line in _blocks(text)}


def with_definitions(text: str, definitions: Mapping[str, Sequence[str]]) -> str:
    """`text` with the lines of its definitions block replaced.

    Lines keep their order; a label that the block lacks gets a line at its end.
    """
    lines = text.splitlines()
    end = len(lines)
    new = {label: f"{label}: {' '.join(line)}" for label, line in definitions.items()}
    for number, label, _ in _blocks(text):
        lines[number] = new.pop(label, lines[number])
        end = number + 1
    lines[end:end] = new.values()
    return "\n".join(lines) + ("\n" if text.endswith("\n") else "")


class Router:
    """Routes a text to the label whose line matches its words best.

    A word counts 1 / the number of lines that hold it; ties go to the alphabetically first label.
    """

    def __init__(self, definitions: Mapping[str, Iterable[str]]) -> None:
        self._labels = sorted(definitions)
        self._lines: dict[str, list[int]] = {}
        for number, label in enumerate(self._labels):
            for word in dict.fromkeys(definitions[label]):
                self._lines.setdefault(word, []).append(number)

    def route(self, text_words: Iterable[str]) -> str:
        """The label for a text with these words; repeated words count once."""
        scores = [0.0] * len(self._labels)
        for word in sorted({word for word in text_words if word in self._lines}):
            for number in self._lines[word]:
                scores[number] += 1 / len(self._lines[word])
        best = max(scores) - 1e-9
        return next(
            label for label, score in zip(self._labels, scores, strict=True) if score >= best
        )


def _blocks(text: str) -> Iterable[tuple[int, str, str]]:
    """(line number, label, words) of every definition line."""
    inside = False
    for number, line in enumerate(text.splitlines()):
        if _HEADING.match(line):
            inside = True
        elif inside and (match := _DEFINITION.match(line)):
            yield number, match["label"], match["words"]
        else:
            inside = False


RuleKind: TypeAlias = Literal["start", "end", "avoid", "include", "limit", "name"]

_BEFORE = '^[^"\u201c]*'
_QUOTED = '[^"\u201c]*["\u201c](?P<value>[^"\u201d]+)["\u201d]'
_FORMS: tuple[tuple[RuleKind, str], ...] = (  # "Start with …" as well as "It starts with …"
    ("avoid", rf"{_BEFORE}\b(?:never|not|avoids?)\b{_QUOTED}"),
    ("start", rf"{_BEFORE}\b(?:starts?|begins?|opens?)\b{_QUOTED}"),
    ("end", rf"{_BEFORE}\b(?:ends?|closes?|finish(?:es)?)\b{_QUOTED}"),
    ("include", rf"{_BEFORE}\b(?:includes?|mentions?|says?|adds?)\b{_QUOTED}"),
    ("limit", r"\b(?:at most|no more than|up to)\s+(?P<value>\d+)\s+words\b"),
    ("name", r"\b(?:names?|mentions?)\s+the\s+(?P<value>[a-z]+)\b"),
)
_ITEM = re.compile(r"^\s*(?:[-*]|\d+[.)])\s+(?P<text>\S.*)$")


@dataclass(frozen=True)
class Rule:
    """One rule of a list: what it asks for, and how it is worded.

    The simulated model acts on the rules of its prompt; the evaluator checks those of the policy.
    """

    kind: RuleKind
    value: str
    text: str

    def kept(self, reply: str, fields: Mapping[str, str]) -> bool:
        """Whether `reply` keeps the rule; `fields` are the values that a rule may ask to name."""
        said = " ".join(words(reply))
        value = " ".join(words(self.value))
        match self.kind:
            case "start":
                return f"{said} ".startswith(f"{value} ")
            case "end":
                return f" {said}".endswith(f" {value}")
            case "limit":
                return len(words(reply)) <= int(self.value)
            case "name":
                named = " ".join(words(fields.get(self.value.lower(), "")))
                return bool(named) and f" {named} " in f" {said} "
            case "avoid":
                return f" {value} " not in f" {said} "
            case "include":
                return f" {value} " in f" {said} "


def parse_rule(text: str) -> Rule | None:
    """The rule that a sentence states, or None when it has none of the known forms."""
    for kind, form in _FORMS:
        if match := re.search(form, text, re.IGNORECASE):
            return Rule(kind=kind, value=match["value"].rstrip(".").strip(), text=text)
    return None


def parse_rules(text: str) -> list[Rule]:
    """The rules among the list items of a text; items of no known form are left out."""
    items = (match["text"] for line in text.splitlines() if (match := _ITEM.match(line)))
    return [rule for item in items if (rule := parse_rule(item)) is not None]


BLAND_REPLY = (  # what the model writes without any rule, sentence by sentence
    "Unfortunately we cannot answer this at once.",
    "We have received your message and somebody will look at it.",
    "Messages are answered in the order in which they arrive, which may take some time.",
    "There is no need to write to us again about the same matter in the meantime.",
)

_FIELD = re.compile(r"^(?P<name>[A-Za-z]+):[ \t]*(?P<value>\S.*)$", re.MULTILINE)


class LexicalChatModel(BaseChatModel):
    """A simulated chat model: it labels and replies by matching words, in microseconds."""

    temperature: float = 0.0
    """Accepted as other models do; the answer does not depend on it."""

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
    """What the model answers to a user's message under a system prompt."""
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
    asked += [f"{text[:1].upper()}{text[1:]}." for text in by_kind.get("include", ())]
    start = [f"{text}," for text in by_kind.get("start", ())[:1]]
    end = by_kind.get("end", [])[:1]
    own = [
        sentence
        for sentence in BLAND_REPLY
        if all(text.lower() not in sentence.lower() for text in by_kind.get("avoid", ()))
    ]
    limit = min((int(value) for value in by_kind.get("limit", ())), default=None)
    if limit is not None:
        while own and len(words(" ".join([*start, *own, *asked, *end]))) > limit:
            own.pop()
    return " ".join([*start, *own, *asked, *end])
