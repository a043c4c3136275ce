"""Conversations: a target that is talked to over several turns, as one rollout.

The user's turns are scripted, or said by a simulated user: a function or a chat model. The target
keeps its thread over the turns of one case, and no longer.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, ValidationError

from orcheo_agentensor.entrypoints import chat_model, load_entrypoint
from orcheo_agentensor.errors import BadInput, DatasetError, RunFailed, shorten
from orcheo_agentensor.evaluators.threads import run_in_thread
from orcheo_agentensor.json_values import StrictNumbers, content_hash
from orcheo_agentensor.kinds import is_message
from orcheo_agentensor.seeds import seeded
from orcheo_agentensor.tape import in_turn, not_taping
from orcheo_agentensor.targets.isolation import one_rollout
from orcheo_agentensor.targets.output import pick, to_json_output
from orcheo_agentensor.upstream import CHECKPOINTER_KEY, var_child_runnable_config

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from orcheo_agentensor.datasets import Case
    from orcheo_agentensor.settings import Settings
    from orcheo_agentensor.targets.local import ConnectedTarget, Target

END = "[END]"
"""What a simulated user's model answers when it has nothing more to say."""

_OF_CASES = ("turns", "persona", "goal", "opening", "max_turns")
"""What a case's inputs say of its conversation; all else in them goes to the target."""
_USER = """\
You play the user of an assistant, and write the user's next message and nothing else.
Stay in your part, and never help the assistant.

Who you are: {persona}
What you want: {goal}

When you have got what you want, or see that you will not get it, answer with {end} alone."""


class ConversationSpec(StrictNumbers):
    """How a target is talked to; a case's inputs may say `turns`, `persona`, `goal`, `opening` and
    `max_turns` for themselves."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    user: Any = Field(
        default=None,
        description='Who says what is not scripted: "module:function" or a function '
        "(trajectory, turn_counter=…) -> message; None ends the conversation. Left out, a model",
    )
    model: Any = Field(
        default=None,
        description="The chat model, or its name, of a user by persona and goal; AGENTENSOR_MODEL "
        "if none",
    )
    persona: str = Field(default="somebody with a question", description="Who the user is")
    goal: str | None = Field(default=None, description="What the user wants")
    opening: str | None = Field(default=None, description="The user's first message")
    max_turns: int = Field(default=10, ge=1, le=200, description="Most turns of the user")
    stop: Any = Field(
        default=None,
        description='"module:function" or a function (trajectory, turn_counter=…) -> whether to '
        "end, asked after each reply",
    )
    stop_words: tuple[str, ...] = Field(
        default=(), description="A reply with one of these texts ends the conversation"
    )
    input: str = Field(
        default="messages",
        description="The key of the inputs that takes the user's message; under another than "
        "`messages` it is text",
    )
    reply: str | None = Field(
        default=None,
        description="Dotted path of the reply in an output; the last assistant message if none",
    )

    def fingerprint(self) -> str:
        """A hash that changes when the conversation would."""
        named = {
            name: value if isinstance(value, str | int | tuple | None) else _name_of(value)
            for name, value in ((name, getattr(self, name)) for name in type(self).model_fields)
        }
        return content_hash({**named, "stop_words": [*self.stop_words]})


class Conversation:
    """A target that is talked to, turn by turn; each case is a conversation, and one rollout.

    A case's inputs hold `turns`, the user's messages (each a text, a message, or `{user,
    expected}`), or what a simulated user is told (`persona`, `goal`, `opening`). The output is
    `{messages, turns: [{user, reply, expected}], state, ended}`: the whole trajectory, its turns,
    the state that a graph ended with, and why the conversation ended ("script", "user", "stop" or
    "max_turns"). The calls of a simulated user count in the usage of the rollout.

    Args:
        target: What is talked to.
        options: `user`, `model`, `persona`, `goal`, `opening`, `max_turns`, `stop`, `stop_words`,
            `input` and `reply`, as in a job's `target: {entrypoint: …, conversation: {…}}`.

    Raises:
        BadInput: An option breaks a rule.

    Example:
        >>> from orcheo_agentensor import Conversation, evaluate
        >>> def parrot(inputs):
        ...     return f"You said: {inputs['messages'][-1]['content']}"
        >>> def curt(outputs):
        ...     return all(len(turn["reply"]) < 20 for turn in outputs["turns"])
        >>> cases = [{"turns": ["Hello", "Bye"]}]
        >>> report = evaluate(Conversation(parrot), dataset=cases, evaluators=[curt])
        >>> [turn["reply"] for turn in report.cases[0].output["turns"]]
        ['You said: Hello', 'You said: Bye']
    """

    def __init__(self, target: Any, **options: Any) -> None:
        self.target = target
        self.spec = parse_conversation(options, field="conversation")


def parse_conversation(data: Any, *, field: str) -> ConversationSpec:
    """Read the job form; raises `BadInput` naming every field that is wrong."""
    try:
        return ConversationSpec.model_validate(data)
    except ValidationError as error:
        known = f"is not known; there are: {', '.join(ConversationSpec.model_fields)}"
        told = [
            f"{field}.{'.'.join(map(str, one['loc']))}: {shorten(one['input'])} "
            f"{known if one['type'] == 'extra_forbidden' else one['msg']}"
            for one in error.errors()
        ]
        raise BadInput("; ".join(told), field=field) from None


@dataclass(frozen=True)
class TalkingTarget:
    """A target in conversation; see `Conversation`. `marked_only`: cases that are no conversations
    are run as they are."""

    inner: Target
    spec: ConversationSpec
    user: Callable[..., Any] | None
    stop: Callable[..., Any] | None
    model: Any
    name: str
    fingerprint: str
    edges: tuple[tuple[str, str], ...]
    marked_only: bool = False

    @classmethod
    def of(
        cls, inner: Target, spec: ConversationSpec, *, settings: Settings, marked_only: bool = False
    ) -> TalkingTarget:
        """Resolve who the user is. Raises `BadInput` and its kinds."""
        from orcheo_agentensor.targets.local import ConnectedTarget

        model = spec.model or settings.model
        kind = _ConnectedTalk if isinstance(inner, ConnectedTarget) else cls
        return kind(
            inner=inner,
            spec=spec,
            user=_function(spec.user, "user", settings),
            stop=_function(spec.stop, "stop", settings),
            model=chat_model(model) if isinstance(model, str) and spec.user is None else model,
            name=inner.name,
            fingerprint=f"{inner.fingerprint}#talk={spec.fingerprint()[:16]}",
            edges=inner.edges,
            marked_only=marked_only,
        )

    @property
    def isolation(self) -> Any:
        """That of the target that is talked to."""
        inner = getattr(self.inner, "built", None) or self.inner
        return getattr(inner, "isolation", None)

    def check(self, configurable: Mapping[str, Any], prompts: Mapping[str, Any]) -> None:
        """Raise `BadInput` and its kinds where the inner target cannot have these."""
        from orcheo_agentensor.targets.local import check_target

        check_target(self.inner, configurable, prompts)

    def check_cases(self, cases: Sequence[Case]) -> None:
        """Raise `DatasetError` for a case that says nothing to the target."""
        for case in cases:
            data = case.inputs if isinstance(case.inputs, Mapping) else {}
            if self.marked_only and not case.conversation:
                continue
            script = data.get("turns")
            if script is not None:
                _require_script(script, case.id)
            elif self.user is None and self.model is None:
                raise DatasetError(
                    f"case {case.id!r}: has no `turns`, and nobody plays the user: write `turns` "
                    "into the case, or `user` or `model` into the target's conversation",
                    field="turns",
                    rule="must be there, or a user",
                )
            elif self.user is None and not (data.get("goal") or self.spec.goal):
                raise DatasetError(
                    f"case {case.id!r}: a simulated user needs a `goal`, in the case's inputs or "
                    "in the target's conversation",
                    field="goal",
                    rule="must be there",
                )
            most = data.get("max_turns")
            if most is not None and not (type(most) is int and 1 <= most <= 200):
                raise DatasetError(field="max_turns", value=most, rule="must be from 1 to 200")

    async def run(self, inputs: Any, config: RunnableConfig, *, rollout_id: str) -> Any:
        """Hold one conversation; its thread, store and cache are those of this rollout."""
        data = inputs if isinstance(inputs, Mapping) else {}
        if self.marked_only and "turns" not in data:
            return await self.inner.run(inputs, config, rollout_id=rollout_id)
        talk = _Talk(self, data, config, rollout_id)
        with one_rollout():
            return await talk.hold()


@dataclass(frozen=True)
class _ConnectedTalk(TalkingTarget):
    """In conversation with a target on other machines, or one that is built for each turn."""

    async def connect(self, config: RunnableConfig) -> Target:
        inner = await self._connected.connect(config)
        known = f"{inner.fingerprint}#talk={self.spec.fingerprint()[:16]}"
        return replace(self, inner=inner, edges=inner.edges, fingerprint=known)

    async def came_back(self, *, lost: bool) -> bool:
        return await self._connected.came_back(lost=lost)

    async def disconnect(self) -> None:
        await self._connected.disconnect()

    @property
    def _connected(self) -> ConnectedTarget:
        found: Any = self.inner
        return found  # type: ignore[no-any-return]


class _Talk:
    """One conversation."""

    def __init__(
        self, target: TalkingTarget, data: Mapping[str, Any], config: RunnableConfig, key: str
    ) -> None:
        self.target, self.spec, self.data, self.key = target, target.spec, data, key
        self.rest = {name: value for name, value in data.items() if name not in _OF_CASES}
        self.config: RunnableConfig = config
        self.thread_id = str((config.get("configurable") or {}).get("thread_id"))
        self.saver: Any = None
        if target.isolation is not None and not getattr(target.inner, "is_remote", False):
            from langgraph.checkpoint.memory import InMemorySaver

            self.saver = InMemorySaver()
            own = {**config.get("configurable", {}), CHECKPOINTER_KEY: self.saver}
            self.config = {**config, "configurable": own}
        self.messages: list[dict[str, Any]] = []
        self.turns: list[dict[str, Any]] = []

    async def hold(self) -> dict[str, Any]:
        script = self.data.get("turns")
        most = len(script) if script is not None else 0
        most = most or self.data.get("max_turns") or self.spec.max_turns
        ended = "max_turns" if script is None else "script"
        for number in range(most):
            said = script[number] if script is not None else await self._user(number)
            if said is None:
                ended = "user"
                break
            await self._turn(number, said)
            if await self._is_over(number):
                ended = "stop"
                break
        if not self.turns:
            raise RunFailed("the simulated user said nothing, so there was no conversation")
        return {
            "messages": self.messages,
            "turns": self.turns,
            "state": await self._state(),
            "ended": ended,
        }

    async def _turn(self, number: int, said: Any) -> None:
        """Say something to the target, and hear its reply."""
        expected = said.get("expected") if isinstance(said, Mapping) else None
        if isinstance(said, Mapping) and "user" in said:
            said = said["user"]
        message = _message(said, role="user")
        before = len(self.messages)
        sent = self._sent(number, message)
        config: Any = self.config
        if number:  # the first turn's run is that of the rollout
            config = {key: value for key, value in config.items() if key != "run_id"}
        with in_turn(number + 1):
            output = await self.target.inner.run(sent, config, rollout_id=self.key)
        output = await run_in_thread(to_json_output, output)
        self.messages = _joined(self.messages, message, output)
        if self.spec.reply is not None:
            reply = pick(output, self.spec.reply)
        else:
            later = [one for one in self.messages[before:] if one.get("role") == "assistant"]
            reply = later[-1].get("content") if later else None
        turn = {"user": message["content"], "reply": reply}
        self.turns.append(turn if expected is None else {**turn, "expected": expected})

    def _sent(self, number: int, message: dict[str, Any]) -> Any:
        if getattr(self.target.inner, "takes_thread", False):  # it takes a message at a time
            return message
        rest = self.rest if self.saver is None or not number else {}
        if self.spec.input != "messages":
            return {**rest, self.spec.input: message["content"]}
        messages = [message] if self.saver is not None else [*self.messages, message]
        return {**rest, "messages": messages}

    async def _user(self, number: int) -> Any:
        """What the simulated user says; None to end."""
        opening = self.data.get("opening") or self.spec.opening
        if number == 0 and opening:
            return opening
        with not_taping(), _around(self.config):
            if self.target.user is not None:
                said = await _called(self.target.user, self._seen(), number, self.thread_id)
                return said[-1] if isinstance(said, list) and said else said or None
            return await self._played(number)

    async def _played(self, number: int) -> str | None:
        persona = self.data.get("persona") or self.spec.persona
        goal = self.data.get("goal") or self.spec.goal
        asked = [("system", _USER.format(persona=persona, goal=goal, end=END))]
        other = {"user": "ai", "assistant": "human"}
        heard = [(other[one["role"]], str(one["content"])) for one in self._seen()]
        if not heard or heard[0][0] != "human":
            heard.insert(0, ("human", "(the conversation begins)"))
        found = await seeded(self.target.model, draw=number).ainvoke([*asked, *heard])
        text = found.text if isinstance(found.text, str) else found.text()
        return None if END in text or not text.strip() else text.strip()

    async def _is_over(self, number: int) -> bool:
        reply = str(self.turns[-1]["reply"])
        if any(word in reply for word in self.spec.stop_words):
            return True
        if self.target.stop is None:
            return False
        with not_taping(), _around(self.config):
            return bool(await _called(self.target.stop, self._seen(), number + 1, self.thread_id))

    def _seen(self) -> list[dict[str, Any]]:
        """The trajectory as a user sees it: without calls of tools and their results."""
        return [
            {"role": one["role"], "content": one.get("content") or ""}
            for one in self.messages
            if one.get("role") in ("user", "assistant") and not one.get("tool_calls")
        ]

    async def _state(self) -> dict[str, Any] | None:
        """The state that the graph ended with, but for its messages; None where there is none."""
        if self.saver is None:
            return None
        place: Any = {"configurable": {"thread_id": self.thread_id, "checkpoint_ns": ""}}
        found = await self.saver.aget_tuple(place)
        values = {} if found is None else found.checkpoint["channel_values"]
        state = {}
        for name, value in values.items():
            if name.startswith("__") or ":" in name or name == "messages":
                continue
            try:
                state[name] = to_json_output(value)
            except BadInput:
                state[name] = f"[no JSON: {type(value).__name__}]"
        return state


def _function(spec: Any, what: str, settings: Settings) -> Callable[..., Any] | None:
    """The function that `spec` is, or names."""
    found = load_entrypoint(spec, settings=settings, what="target") if type(spec) is str else spec
    if found is not None and not callable(found):
        rule = 'must be "module:function", or a function (trajectory, turn_counter=…)'
        raise BadInput(field=f"conversation.{what}", value=spec, rule=rule)
    return found


def _name_of(value: Any) -> list[Any]:
    from orcheo_agentensor.evaluators.binding import source_hash

    code = source_hash(value) if inspect.isroutine(value) else None
    return [getattr(value, "__qualname__", type(value).__qualname__), code]


async def _called(function: Callable[..., Any], trajectory: Any, turn: int, thread_id: str) -> Any:
    """Call a user or a stop rule with as much as it takes."""
    given = {"turn_counter": turn, "thread_id": thread_id}
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        parameters = ()  # type: ignore[assignment]
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters)
    named = {one.name for one in parameters if one.kind is not one.POSITIONAL_ONLY}
    given = {name: value for name, value in given.items() if takes_all or name in named}
    call = getattr(function, "__call__", function)  # noqa: B004 - its code is inspected
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
        return await function(trajectory, **given)
    found = await run_in_thread(lambda: function(trajectory, **given))
    return await found if isinstance(found, Awaitable) else found


@contextmanager
def _around(config: RunnableConfig) -> Iterator[None]:
    """Make the rollout's config that of whatever is called inside, but for its thread."""
    own = {k: v for k, v in config.items() if k in ("callbacks", "metadata", "tags")}
    token = var_child_runnable_config.set(own)  # type: ignore[arg-type]
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


def _message(said: Any, *, role: str) -> dict[str, Any]:
    """A text or a message in role and content form."""
    if isinstance(said, str):
        return {"role": role, "content": said}
    if not is_message(said):
        from langchain_core.messages import convert_to_messages

        (said,) = convert_to_messages([dict(said)])
    found: dict[str, Any] = to_json_output(said)
    if "content_blocks" in found:
        found["content"] = found.pop("content_blocks")
    return {"role": role, "content": found["content"]}


def _joined(
    before: list[dict[str, Any]], said: dict[str, Any], output: Any
) -> list[dict[str, Any]]:
    """The trajectory with a turn: the target may have given back all of it, or the reply alone."""
    found: Any = output.get("messages") if isinstance(output, Mapping) else output
    if isinstance(output, Mapping) and found is None:
        found = [output] if "role" in output and "content" in output else None
    is_list = isinstance(found, list) and bool(found)
    if is_list and all(isinstance(one, dict) and "role" in one for one in found):
        if len(found) > len(before) and _same(found, before):
            return [*found]
        new = found[1:] if _same(found[:1], [said]) else found
        return [*before, said, *new]
    return [*before, said, *([] if output is None else [_reply(output)])]


def _reply(output: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": output}


def _same(found: Sequence[Any], before: Sequence[Any]) -> bool:
    return all(
        one.get("role") == other.get("role") and one.get("content") == other.get("content")
        for one, other in zip(found, before, strict=False)
    )


def _require_script(script: Any, case_id: str) -> None:
    sound = isinstance(script, list) and bool(script)
    for one in script if sound else ():
        said = one["user"] if isinstance(one, Mapping) and "user" in one else one
        message = isinstance(said, Mapping) and "content" in said
        sound &= bool(said) and (isinstance(said, str) or message)
    if not sound:
        raise DatasetError(
            f"case {case_id!r}: turns: must be a list of what the user says, each a text, a "
            "message with `content`, or {user: …, expected: …}",
            field="turns",
            value=script,
            rule="must be a list of what the user says",
        )
