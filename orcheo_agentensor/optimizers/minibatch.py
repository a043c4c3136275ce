"""Which training cases a step learns from: a seeded pass over all of them per epoch."""

from __future__ import annotations

import random
from collections.abc import Sequence

from orcheo_agentensor.optimizers.base import derive_seed


def minibatch(
    case_ids: Sequence[str], *, size: int, step: int, seed: int
) -> tuple[tuple[str, ...], int]:
    """The minibatch of step `step` (from 0) and the epoch (from 0) it belongs to.

    Every epoch is a fresh shuffle cut into pieces of `size`; the last piece may be shorter.
    """
    size = min(size, len(case_ids))
    per_epoch = -(-len(case_ids) // size)
    epoch, piece = divmod(step, per_epoch)
    order = list(case_ids)
    random.Random(derive_seed(seed, epoch, "epoch")).shuffle(order)
    return tuple(order[piece * size : (piece + 1) * size]), epoch
