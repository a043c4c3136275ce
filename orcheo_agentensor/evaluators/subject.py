"""Looking at an evaluator: its parameters, its name, whether it is async."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orcheo_agentensor.evaluators.context import EvaluatorContext

Getter = Callable[[EvaluatorContext], Any]

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Subject:
    """An object offered as an evaluator; `parameters` is None where it cannot be called."""

    obj: Any
    parameters: Mapping[str, inspect.Parameter] | None

    @classmethod
    def of(cls, obj: Any) -> Subject:
        """Look at `obj`; partials, methods and `__call__` are seen through."""
        if not callable(obj):
            return cls(obj, None)
        try:
            signature = inspect.signature(obj)
        except (TypeError, ValueError):
            return cls(obj, None)
        return cls(obj, signature.parameters)

    @property
    def named(self) -> dict[str, inspect.Parameter]:
        """Every parameter that is not `*args` or `**kwargs`."""
        return {
            name: parameter
            for name, parameter in (self.parameters or {}).items()
            if parameter.kind not in _VARIADIC
        }

    @property
    def required(self) -> list[str]:
        """The names of parameters without a default, in order."""
        return [name for name, p in self.named.items() if p.default is inspect.Parameter.empty]

    @property
    def extra(self) -> bool:
        """Whether there is a `**kwargs`."""
        kinds = [p.kind for p in (self.parameters or {}).values()]
        return inspect.Parameter.VAR_KEYWORD in kinds

    @property
    def module(self) -> str:
        """The module that the function underneath comes from."""
        return str(getattr(self.function, "__module__", "") or "")

    @property
    def function(self) -> Any:
        """What is under partials and wrappers."""
        obj = self.obj
        while isinstance(obj, functools.partial):
            obj = obj.func
        return inspect.unwrap(obj) if callable(obj) else obj

    @property
    def is_async(self) -> bool:
        """Whether calling it gives a coroutine."""
        return is_async(self.obj)

    @property
    def name(self) -> str:
        """The name results go by unless another is given."""
        named = getattr(self.obj, "get_default_evaluation_name", None)
        if callable(named) and not inspect.isclass(self.obj):
            found = named()
        else:
            found = getattr(self.obj, "name", None)
        if not isinstance(found, str) or not found:
            found = getattr(self.function, "__name__", None) or type(self.function).__name__
        return str(found).strip("<>").replace(".", "_")

    def method(self, name: str) -> Callable[..., Any] | None:
        """A method of that name; functions and classes have none."""
        if inspect.isroutine(self.obj) or inspect.isclass(self.obj):
            return None
        found = getattr(self.obj, name, None)
        return found if callable(found) else None


def is_async(function: Any) -> bool:
    """Whether calling `function` gives a coroutine; looks under partials and `__call__`."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    call = getattr(function, "__call__", None)  # noqa: B004 - the method itself is wanted
    return inspect.iscoroutinefunction(call)


def call_by_name(subject: Subject, getters: Mapping[str, Getter]) -> Callable[..., Any]:
    """A function of the context that calls the subject with every value it has a name for."""
    positional: list[Getter] = []
    keywords: dict[str, Getter] = {}
    gap = False
    for name, parameter in subject.named.items():
        if parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
            if name in getters:
                keywords[name] = getters[name]
        elif name in getters and not gap:
            positional.append(getters[name])
        else:
            gap = True

    def call(ctx: EvaluatorContext) -> Any:
        values = {name: getter(ctx) for name, getter in keywords.items()}
        return subject.obj(*[getter(ctx) for getter in positional], **values)

    return call


def call_in_order(subject: Subject, getters: list[Getter]) -> Callable[..., Any]:
    """A function of the context that calls the subject with these values, positionally."""

    def call(ctx: EvaluatorContext) -> Any:
        return subject.obj(*[getter(ctx) for getter in getters])

    return call
