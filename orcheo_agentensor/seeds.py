"""Seeds of rollouts: for targets, judges and models that draw at random."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from orcheo_agentensor.upstream import var_child_runnable_config

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

RUN_ID = "agentensor_run_id"
"""The key in the metadata of a rollout that names its run."""

SEED = "agentensor_seed"
CASE_ID = "agentensor_case_id"
REPLICATE = "agentensor_replicate"
"""The keys of metadata from which a rollout's seed follows, on a server as well: the seed of the
job, and what it is a rollout of."""

UNHEARD = "__agentensor_labels"
"""The key of `configurable` that holds these in the place of metadata, in a graph of which nobody
hears: LangGraph merges metadata key by key for each node, and hands `configurable` on as it is."""

MOST = 2**31
"""Seeds are below this: every random generator and every provider takes such a number."""

_FIELDS = ("seed", "random_seed")

DefaultT = TypeVar("DefaultT")
ModelT = TypeVar("ModelT", bound="BaseChatModel")


def labels_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a config says of the rollout that it belongs to; without a case where it is of none."""
    told: Mapping[str, Any] = config.get("metadata") or {}
    if CASE_ID in told:
        return told
    return (config.get("configurable") or {}).get(UNHEARD) or told


def get_seed(
    default: DefaultT | None = None, *, config: Mapping[str, Any] | None = None
) -> int | DefaultT | None:
    """The seed of the rollout that we are in, for whatever draws at random.

    It follows from the job's `seed`, the case and the replicate, and not from the prompts: with the
    same job a case draws the same numbers, in the baseline and in each candidate, in the target and
    in its judges, and again after a resume.

    Args:
        default: What to give outside a rollout.
        config: The config of a node, where it is at hand; the one around it when left out.

    Returns:
        A number from 0 to 2**31 - 1, or `default`.

    Example:
        >>> import random
        >>> from orcheo_agentensor import evaluate, get_seed
        >>> def roll(inputs):
        ...     return random.Random(get_seed()).randint(1, 6)
        >>> job = {"dataset": [{"id": "a", "inputs": {}}], "evaluators": [lambda outputs: 1.0]}
        >>> once, again = (evaluate(roll, **job, seed=7).cases[0].output for _ in range(2))
        >>> once == again, get_seed("no rollout")
        (True, 'no rollout')
    """
    around = config if config is not None else var_child_runnable_config.get() or {}
    told = labels_of(around)
    if SEED not in told or CASE_ID not in told:
        return default
    return _derived(told[SEED], told[CASE_ID], told.get(REPLICATE, 0))


def _derived(*parts: object) -> int:
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4]) % MOST


def seeded(chat: ModelT, *, draw: int = 0) -> ModelT:
    """`chat` with the seed of the rollout that we are in, where it takes one and has none.

    Each `draw` of one rollout has another seed.
    """
    known = type(chat).model_fields if hasattr(type(chat), "model_fields") else {}
    name = next((name for name in _FIELDS if name in known), None)
    seed = get_seed()
    if name is None or seed is None or getattr(chat, name) is not None:
        return chat
    if getattr(chat, "use_responses_api", None):  # which knows no seed
        return chat
    return chat.model_copy(update={name: seed if not draw else _derived(seed, draw)})
