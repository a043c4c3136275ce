"""Configs of callers in this process: what they may add to the rules for everyone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager

from orcheo_agentensor.config_callbacks import LiveCallbacks
from orcheo_agentensor.json_values import MAX_DEPTH
from orcheo_agentensor.tensor import TextTensor


def split_trusted(obj: Mapping[str, Any]) -> tuple[dict[str, Any], LiveCallbacks]:
    """A runnable config as JSON, and its live callbacks apart; LangGraph's own keys are left out.

    What has no JSON form is left in place, to be refused by the rules.
    """
    plain = dict(obj)
    live: LiveCallbacks = []
    callbacks = plain.pop("callbacks", None)
    if isinstance(callbacks, BaseCallbackManager):
        live = callbacks
    elif isinstance(callbacks, list | tuple):
        live = [item for item in callbacks if isinstance(item, BaseCallbackHandler)]
        plain["callbacks"] = [
            item for item in callbacks if not isinstance(item, BaseCallbackHandler)
        ]
    elif callbacks is not None:
        plain["callbacks"] = callbacks
    limit = plain.get("recursion_limit")
    if isinstance(limit, int) and type(limit) not in (int, bool):
        del plain["recursion_limit"]  # LangGraph's marker for "nobody has set one"
    configurable = plain.get("configurable")
    if isinstance(configurable, Mapping):
        plain["configurable"] = {
            key: value for key, value in configurable.items() if not _is_runtime_key(key)
        }
    for key in ("tags", "run_id", "prompts", "configurable", "metadata"):
        if key in plain:
            plain[key] = _as_json(plain[key])
    return plain, live


def runtime_configurable(obj: Mapping[str, Any] | None) -> dict[str, Any]:
    """The keys of `configurable` that are LangGraph's own: `__*`, `checkpoint_*`, `langgraph_*`.

    From a trusted caller they steer time travel and nesting, and travel beside the config.
    """
    configurable = (obj or {}).get("configurable")
    if not isinstance(configurable, Mapping):
        return {}
    return {key: value for key, value in configurable.items() if _is_runtime_key(key)}


def _is_runtime_key(key: object) -> bool:
    return isinstance(key, str) and key.startswith(("__", "checkpoint_", "langgraph_"))


def _as_json(value: Any, depth: int = 0) -> Any:
    """What in-process callers write naturally, as JSON values; the rest is left to `parse`."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, TextTensor):
        written = value.to_json()
        return {k: v for k, v in written.items() if k == "type" or k in value.model_fields_set}
    if depth > MAX_DEPTH:
        return value
    if isinstance(value, Mapping):
        return {key: _as_json(item, depth + 1) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_as_json(item, depth + 1) for item in value]
    return value
