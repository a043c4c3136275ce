"""Who asks for something: one policy for running a workflow and for what it has stored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables.config import var_child_runnable_config

from orcheo_agentensor.errors import Forbidden
from orcheo_agentensor.settings import SCOPES


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who sent a request; `identity` is None where the server asks nobody who they are."""

    identity: str | None = None
    scopes: frozenset[str] = frozenset(SCOPES)

    def require(self, scope: str) -> None:
        """Raise `Forbidden` unless the caller has `scope`."""
        if self.identity is not None and scope not in self.scopes:
            raise Forbidden(f"this needs the scope {scope!r}, which your token does not have")

    def may_see(self, owner: str | None) -> bool:
        """Whether what belongs to `owner` is this caller's to see; what nobody owns is shared."""
        return self.identity is None or owner is None or owner == self.identity


NOBODY_ASKED = Caller()


def caller_known_as(user: Any, scopes: Iterable[str] | None) -> Caller:
    """The caller that a server's authentication knows as `user`."""
    if user is None or not getattr(user, "is_authenticated", True) or not user.identity:
        return NOBODY_ASKED
    return Caller(identity=str(user.identity), scopes=frozenset(scopes or ()))


def caller_of_run() -> Caller:
    """For whom a server executes the graph run that we are in.

    `NOBODY_ASKED` outside of a run, and in one that no server started. A thread's state is its
    owner's to write, so what a run finds there says nothing about what its caller may do.
    """
    configurable = (var_child_runnable_config.get() or {}).get("configurable") or {}
    user = configurable.get("langgraph_auth_user")
    scopes = configurable.get("langgraph_auth_permissions")
    return caller_known_as(user, SCOPES if not scopes and is_by_schedule(user) else scopes)


def inside_a_host() -> bool:
    """Whether the graph run that we are in is a subgraph of another one."""
    configurable = (var_child_runnable_config.get() or {}).get("configurable") or {}
    return "|" in str(configurable.get("checkpoint_ns") or "")


def is_by_schedule(user: Any) -> bool:
    """Whether a cron's run acts for `user`: then the server knows whose it is and nothing more.

    What they may was asked when the cron was stored.
    """
    return getattr(user, "permissions", None) is None
