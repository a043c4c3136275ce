"""The state that template nodes share: Orcheo's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from langchain_core.messages import AnyMessage
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict


def merge_results(
    left: Mapping[str, Any] | None, right: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The reducer of `results`: outputs by node name, a later one in place of an earlier."""
    return {**(left or {}), **(right or {})}


def keep_latest(_left: Any, right: Any) -> Any:
    """The reducer of a value that nodes running side by side may each write: the last one stays."""
    return right


class State(TypedDict, total=False):
    """A workflow state for template nodes.

    `inputs` is what the run was asked, `results` what each node gave (by node name), `messages` the
    conversation, `structured_response` the last structured output (as JSON), and `config` the run's
    config as JSON, with the prompts under `config["prompts"]`.
    """

    messages: Annotated[list[AnyMessage], add_messages]
    inputs: dict[str, Any]
    results: Annotated[dict[str, Any], merge_results]
    structured_response: Annotated[Any, keep_latest]
    config: dict[str, Any]
