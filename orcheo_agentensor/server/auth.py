"""Authentication: tokens, and the identity of a request.

A deployment with an identity provider replaces `create_auth` with its own `langgraph_sdk.Auth`. The
rest of the server needs an identity of it and, as permissions, the scopes `run`, `train` and
`promote`.
"""

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

OWNER = "owner"
_logger = logging.getLogger(__name__)


def identity_of_request(scope: Mapping[str, Any]) -> Identity:
    """The identity of a request, as the server's authentication left it in the ASGI scope.

    A request of the server to itself carries the identity in a context variable; without one, this
    process itself sends it.
    """
    user, auth = scope.get("user"), scope.get("auth")
    if user is not None:
        return identity_of_user(user, getattr(auth, "scopes", ()))
    known = server_user()
    return LOCAL_IDENTITY if known is None else identity_of_user(*known)


def create_auth(settings: Settings | None = None) -> Auth:
    """An `Auth` for `langgraph.json`.

    `AGENTENSOR_AUTH_TOKENS` holds the SHA-256 hashes of tokens; a request sends its token as
    `Authorization: Bearer` or, as the SDK's `api_key`, in `x-api-key`. Without any token the
    bundled development set-up accepts every request and says so; any other server accepts none.

    Threads, runs, assistants, crons and stored items belong to the identity that made them, and no
    other sees them. Everything needs the scope `run`; requests that need `train` or `promote` are
    checked for these.
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
        made = ctx.action in ("create", "create_run", "put")
        if made or (ctx.action == "update" and value.get("metadata")):
            # In place: the server reads the very object that it has handed over.
            held = value.get("metadata")
            metadata = held if isinstance(held, dict) else {}
            metadata.pop("created_by", None)  # "system" would show it to every identity
            metadata[OWNER] = owner
            value["metadata"] = metadata
        if ctx.resource == "assistants" and ctx.action in ("read", "search"):
            return {"$or": [{OWNER: owner}, {"created_by": "system"}]}
        return {OWNER: owner}

    return auth


def _user(identity: str, scopes: tuple[str, ...], *, known: bool) -> Any:
    return {"identity": identity, "permissions": [*scopes], "is_authenticated": known}
