"""Who calls a route or asks for a run."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Mapping
from typing import Any

from langgraph_sdk import Auth

from orcheo_agentensor.identity import LOCAL_IDENTITY, Identity, identity_of_user, is_by_schedule
from orcheo_agentensor.settings import SCOPES, Settings
from orcheo_agentensor.upstream import server_user


def identity_of_request(scope: Mapping[str, Any]) -> Identity:
    """The identity of a request, as the server's authentication left it in the ASGI scope.

    A request of the server to itself carries the identity in a context variable; without one it is
    this process that asks.
    """
    user, auth = scope.get("user"), scope.get("auth")
    if user is not None:
        return identity_of_user(user, getattr(auth, "scopes", ()))
    known = server_user()
    return LOCAL_IDENTITY if known is None else identity_of_user(*known)


# A deployment with an identity provider replaces it with its own `langgraph_sdk.Auth`; what the
# rest of the server needs from it is an identity and, as permissions, the scopes `run`, `train`
# and `promote`.


OWNER = "owner"
_ACTIONS_THAT_WRITE = ("create", "update", "create_run", "put")
_logger = logging.getLogger(__name__)


def create_auth(settings: Settings | None = None) -> Auth:
    """An `Auth` for `langgraph.json`.

    Tokens are those of `AGENTENSOR_AUTH_TOKENS`, kept as SHA-256 hashes; a request bears one as
    `Authorization: Bearer` or, as the SDK's `api_key`, in `x-api-key`. Without any, the bundled
    development set-up lets everybody in and says so; any other server lets nobody in.

    Threads, runs, assistants, crons and stored items belong to who made them, and nobody else sees
    them. The scope `run` is needed for everything; `train` and `promote` are checked with the
    requests that need them.
    """
    settings = settings or Settings()
    tokens = [(token.sha256.encode(), token) for token in settings.auth_tokens]
    if not tokens:
        _logger.warning(
            "No tokens are configured: %s (AGENTENSOR_AUTH_TOKENS)",
            "everybody who can reach this development server may use it"
            if settings.dev_server
            else "nobody is let in",
        )
    auth = Auth()

    @auth.authenticate
    async def authenticate(headers: dict[bytes, bytes]) -> Any:
        if not tokens and settings.dev_server:
            return _user("local", SCOPES, known=False)
        # Headers are bytes: the parameter `authorization` would turn what is not UTF-8 into a 400.
        key = headers.get(b"x-api-key", b"")  # what the SDK calls the key
        authorization = headers.get(b"authorization") or b"Bearer " + key
        scheme, _, given = authorization.partition(b" ")
        digest = hashlib.sha256(given.strip()).hexdigest().encode()
        # Every token is compared, so that the time taken tells nothing about any of them.
        matches = [token for known, token in tokens if hmac.compare_digest(known, digest)]
        if scheme.lower() != b"bearer" or not matches:
            raise Auth.exceptions.HTTPException(
                status_code=401,
                detail="a known bearer token is needed",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return _user(matches[0].identity, matches[0].scopes, known=True)

    @auth.on
    async def own(ctx: Auth.types.AuthContext, value: Any) -> Any:
        if not tokens and settings.dev_server:
            return None
        owner = ctx.user.identity
        scopes = ctx.permissions
        if is_by_schedule(ctx.user):  # as the tokens say by now
            scopes = [s for _, token in tokens if token.identity == owner for s in token.scopes]
        if "run" not in scopes:
            raise Auth.exceptions.HTTPException(
                status_code=403, detail="this needs the scope 'run'"
            )
        if ctx.resource == "store":
            namespace = tuple(value.get("namespace") or ())
            value["namespace"] = namespace if namespace[:1] == (owner,) else (owner, *namespace)
            return None
        if ctx.action in _ACTIONS_THAT_WRITE and _is_written(ctx, value):
            metadata = dict(value.get("metadata") or {})
            metadata.pop("created_by", None)  # who says "system" would be seen by everybody
            _replace(value, {**metadata, OWNER: owner})
        if ctx.resource == "assistants" and ctx.action in ("read", "search"):
            return {"$or": [{OWNER: owner}, {"created_by": "system"}]}
        return {OWNER: owner}

    return auth


def _user(identity: str, scopes: tuple[str, ...], *, known: bool) -> Any:
    return {"identity": identity, "permissions": [*scopes], "is_authenticated": known}


def _is_written(ctx: Auth.types.AuthContext, value: Any) -> bool:
    """Whether what is written gets an owner: everything made, and metadata that is changed."""
    return ctx.action != "update" or bool(value.get("metadata"))


def _replace(value: Any, metadata: dict[str, Any]) -> None:
    """Change the metadata in place: the server reads the very object that it has handed over."""
    held = value.get("metadata")
    if isinstance(held, dict):
        held.clear()
        held.update(metadata)
    else:
        value["metadata"] = metadata
