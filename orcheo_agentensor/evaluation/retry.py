"""Another attempt after a passing trouble of a target or an evaluator."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import tenacity

from orcheo_agentensor.errors import BudgetExhausted

FIRST_BACKOFF = 0.2  # seconds before the second attempt; doubles, with jitter, from there


class Attempted(Protocol):
    """What an attempt came to."""

    @property
    def transient(self) -> bool:
        """Whether another attempt is worth its price."""


T = TypeVar("T", bound=Attempted)


async def retried(attempt: Callable[[], Awaitable[T]], *, retries: int) -> T:
    """What the last of at most `1 + retries` attempts came to.

    An attempt that the budget refuses leaves it at the one before; raises `BudgetExhausted` only
    where the first is refused.
    """
    last = await attempt()
    if not (last.transient and retries):
        return last

    async def again() -> bool:
        nonlocal last
        try:
            last = await attempt()
        except BudgetExhausted:
            return False
        return last.transient

    def asked() -> float:
        """The seconds that a server asks to wait for."""
        return float(getattr(last, "retry_after", 0.0))

    own = tenacity.wait_random_exponential(multiplier=2 * FIRST_BACKOFF, max=20.0)
    await asyncio.sleep(max(FIRST_BACKOFF, asked()))
    await tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(retries),
        wait=lambda state: max(own(state), asked()),
        retry=tenacity.retry_if_result(bool),
        retry_error_callback=lambda _state: None,
    )(again)
    return last
