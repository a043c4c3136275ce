"""Callbacks in configs: live ones from trusted callers, registered names from everyone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager

from orcheo_agentensor.config_rules import NAME, NAME_RULE
from orcheo_agentensor.errors import ConfigError

LiveCallbacks: TypeAlias = Sequence[BaseCallbackHandler] | BaseCallbackManager
CallbackFactory: TypeAlias = Callable[[], BaseCallbackHandler]

_factories: dict[str, CallbackFactory] = {}


def register_callback(name: str, factory: CallbackFactory) -> None:
    """Let configs name a callback: `{"callbacks": [name]}` adds `factory()` to the run.

    Only names registered here are accepted from outside the process. Registering a name again
    replaces its factory.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(field="callback name", value=name, rule=NAME_RULE)
    _factories[name] = factory


def registered_callbacks() -> list[str]:
    """The names that configs may use in `callbacks`, sorted."""
    return sorted(_factories)


def join_callbacks(first: Sequence[BaseCallbackHandler], then: LiveCallbacks) -> LiveCallbacks:
    """Both: a list, or a copy of the manager `then` with the handlers of `first` added."""
    if not isinstance(then, BaseCallbackManager):
        return [*first, *then]
    manager = then.copy()
    for handler in first:
        manager.add_handler(handler, inherit=True)
    return manager


def named_callbacks(names: Sequence[str]) -> list[BaseCallbackHandler]:
    """New handlers from the factories registered under `names`."""
    unknown = [name for name in names if name not in _factories]
    if unknown:
        raise ConfigError(field="callbacks", value=unknown[0], rule="is not a registered callback")
    return [_factories[name]() for name in names]
