"""What a form of evaluator comes down to: how to call it and how to read what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orcheo_agentensor.errors import EvaluatorRefused
from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.evaluators.result import Outcome
from orcheo_agentensor.evaluators.returns import Reader
from orcheo_agentensor.evaluators.subject import Getter, Subject, call_by_name, call_in_order


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One evaluator made callable with a context.

    `call` gives the raw return value or an awaitable of it; `threaded` says that it blocks.
    `inline` is set instead for built-ins that neither block nor change their context.
    """

    kind: str
    form: str
    read: Reader
    call: Callable[[EvaluatorContext], Any]
    threaded: bool
    inline: Callable[[EvaluatorContext], Outcome] | None = None


@dataclass(frozen=True, kw_only=True)
class FunctionDialect:
    """A convention for functions: parameter names with their values, and a reader.

    `positional` gives the names in order for functions that use names of their own.
    """

    kind: str
    form: str
    getters: Mapping[str, Getter]
    read: Reader
    positional: tuple[str, ...] = ()

    def knows(self, subject: Subject) -> bool:
        """Whether every required parameter has a known name, and at least one is taken."""
        taken = [name for name in subject.named if name in self.getters]
        return bool(taken) and all(name in self.getters for name in subject.required)

    def bind(self, subject: Subject) -> Adapter:
        """By name where the names are known, else by position."""
        if self.knows(subject):
            names = [name for name in subject.named if name in self.getters]
            return self.adapter(subject, call_by_name(subject, self.getters), names)
        return self.bind_positional(subject)

    def bind_positional(self, subject: Subject) -> Adapter:
        """By position, for as many parameters as are required."""
        required = len(subject.required)
        if not 1 <= required <= len(self.positional):
            raise EvaluatorRefused(
                f"{subject.name}: not of the kind {self.kind!r}: {self.form}",
                field="evaluators",
                value=subject.name,
                rule=f"must be {self.form}",
            )
        names = self.positional[:required]
        getters = [self.getters[name] for name in names]
        return self.adapter(subject, call_in_order(subject, getters), names)

    def adapter(
        self,
        subject: Subject,
        call: Callable[[EvaluatorContext], Any],
        names: list[str] | tuple[str, ...],
    ) -> Adapter:
        """An adapter of this dialect around `call`; `names` are shown to the user."""
        return Adapter(
            kind=self.kind,
            form=f"{subject.name}({', '.join(names)})",
            read=self.read,
            call=call,
            threaded=not subject.is_async,
        )
