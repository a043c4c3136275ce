"""Who calls, and what they may: one policy for running a workflow and for what it has stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


def caller_of(scope: Mapping[str, Any]) -> Caller:
    """The caller of a request, as the server's authentication left it in the ASGI scope.

    A request of the server to itself carries the caller in a context variable; without one it is
    this process that asks.
    """
    user, auth = scope.get("user"), scope.get("auth")
    if user is None:
        from langgraph_api.utils import get_auth_ctx

        context = get_auth_ctx()
        if context is None:
            return NOBODY_ASKED
        return _caller(context.user, context.permissions)
    return _caller(user, getattr(auth, "scopes", ()))


def _caller(user: Any, scopes: Any) -> Caller:
    if not getattr(user, "is_authenticated", True) or not user.identity:
        return NOBODY_ASKED
    return Caller(identity=str(user.identity), scopes=frozenset(scopes or ()))
