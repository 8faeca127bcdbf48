"""Who may come in, and as which tenant. Pure ASGI; runs before any route is looked for.

A tenant is derived from its key, so that one client never learns of another's sessions: a foreign
id is simply not there.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import KeyInvalid, problem_response, route_path

OPEN_TENANT = "default"
PUBLIC_PATHS = frozenset({"/health", "/v1/health", "/ready"})


def tenant_of_key(key: str) -> str:
    """The tenant that a key stands for."""
    return "key-" + hashlib.sha256(key.encode()).hexdigest()[:16]


class Keys:
    """The API keys, as hashes. Pure."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._tenants = {hashlib.sha256(key.encode()).digest(): tenant_of_key(key) for key in keys}

    def tenant(self, credential: bytes) -> str | None:
        """Whose key it is; compares with every key, so that time tells nothing."""
        given = hashlib.sha256(credential).digest()
        found = None
        for known, tenant in self._tenants.items():
            if hmac.compare_digest(given, known):
                found = tenant
        return found

    def __bool__(self) -> bool:
        return bool(self._tenants)


def credential_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key in Authorization (bearer or bare), else in X-Api-Key."""
    found: Mapping[bytes, bytes] = dict(reversed(list(headers)))
    authorization = found.get(b"authorization", b"").strip()
    if not authorization:
        return found.get(b"x-api-key", b"").strip()
    scheme, _, rest = authorization.partition(b" ")
    return rest.strip() if scheme.lower() == b"bearer" else authorization


class Auth:
    """Lets a request in as its key's tenant, or answers 401."""

    def __init__(self, app: ASGIApp, keys: Iterable[str]) -> None:
        self._app = app
        self._keys = Keys(keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await Response(media_type="text/html")(scope, receive, send)
            return
        tenant = self._tenant(scope)
        if tenant is None:
            await problem_response(KeyInvalid(), route_path(scope))(scope, receive, send)
            return
        scope.setdefault("state", {})["tenant"] = tenant
        await self._app(scope, receive, send)

    def _tenant(self, scope: Scope) -> str | None:
        if not self._keys or scope["path"] in PUBLIC_PATHS:
            return OPEN_TENANT
        return self._keys.tenant(credential_of(scope["headers"]))
