"""Identities: what the sender of a request may do, and what of the stored things they may see."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from orcheo_agentensor.errors import Forbidden
from orcheo_agentensor.settings import SCOPES
from orcheo_agentensor.upstream import var_child_runnable_config


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The sender of a request; `name` is None where nothing authenticates senders."""

    name: str | None = None
    scopes: frozenset[str] = frozenset(SCOPES)

    def require(self, scope: str) -> None:
        """Raise `Forbidden` unless this identity has `scope`."""
        if self.name is not None and scope not in self.scopes:
            raise Forbidden(f"this needs the scope {scope!r}, which your token does not have")

    def may_see(self, owner: str | None) -> bool:
        """Whether this identity may see what `owner` owns; what has no owner is shared."""
        return self.name is None or owner is None or owner == self.name


LOCAL_IDENTITY = Identity()
"""This process, or any sender of a server without authentication: may do and see everything."""


def identity_of_user(user: Any, scopes: Iterable[str] | None) -> Identity:
    """The identity that a server's authentication knows as `user`."""
    if user is None or not getattr(user, "is_authenticated", True) or not user.identity:
        return LOCAL_IDENTITY
    return Identity(name=str(user.identity), scopes=frozenset(scopes or ()))


def identity_of_run() -> Identity:
    """The identity for which a server executes the graph run that we are in.

    `LOCAL_IDENTITY` outside of a run, and in one that no server started. It never comes from the
    thread's state: the owner of a thread can write that.
    """
    configurable = (var_child_runnable_config.get() or {}).get("configurable") or {}
    user = configurable.get("langgraph_auth_user")
    scopes = configurable.get("langgraph_auth_permissions")
    return identity_of_user(user, SCOPES if not scopes and is_by_schedule(user) else scopes)


def inside_a_host() -> bool:
    """Whether the graph run that we are in is a subgraph of another one."""
    configurable = (var_child_runnable_config.get() or {}).get("configurable") or {}
    return "|" in str(configurable.get("checkpoint_ns") or "")


def is_by_schedule(user: Any) -> bool:
    """Whether a cron started a run: the server then knows the user's name and no permissions.

    The scopes were checked when the cron was stored.
    """
    return getattr(user, "permissions", None) is None
