"""Who may come in, as which tenant, and to do what. Pure ASGI; runs before any route is looked for.

A client never learns of another tenant's sessions: a foreign id is simply not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from api.keyring import OPEN, Access, Keyring, Scope
from api.links import Signer
from api.problems import KeyInvalid, LinkInvalid, ScopeMissing, problem_response, route_path

PUBLIC_PATHS = frozenset({"/health", "/v1/health", "/ready", "/openapi.json"})

STREAM_PATH = re.compile(r"/v1/stream(/.*)?", re.DOTALL)
"""Where a signed link is a credential."""

_ROUTES: tuple[tuple[re.Pattern[str], Scope | None], ...] = (
    (re.compile(r"(GET|HEAD) ((/v1)?/models(/.*)?|/props)"), None),
    (re.compile(r"POST /v1/streams/links"), None),
    (re.compile(r"POST /v1/streams/\w+"), Scope.READ),
    (re.compile(r"POST .*/(cancel|control)"), Scope.STOP),
    (re.compile(r"\w+ /(slots|metrics|lora-adapters)(/.*)?"), Scope.ADMIN),
    (re.compile(r"(POST|DELETE) /(models(/.*)?|props)"), Scope.ADMIN),
)
"""What stands here is not as its method says; None: any key will do."""

_METHODS = {"GET": Scope.READ, "HEAD": Scope.READ, "DELETE": Scope.STOP}


def scope_of(method: str, path: str) -> Scope | None:
    """What a key must be allowed for this; None: nothing more. Pure.

    By the method unless it is known better, so that a new route is never open by oversight.
    """
    for route, scope in _ROUTES:
        if route.fullmatch(f"{method} {path}"):
            return scope
    return _METHODS.get(method, Scope.GENERATE)


def credential_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key in Authorization (bearer or bare), else in X-Api-Key."""
    found: Mapping[bytes, bytes] = dict(reversed(list(headers)))
    authorization = found.get(b"authorization", b"").strip()
    if not authorization:
        return found.get(b"x-api-key", b"").strip()
    scheme, _, rest = authorization.partition(b" ")
    return rest.strip() if scheme.lower() == b"bearer" else authorization


def _reads_stream(scope: AsgiScope) -> bool:
    return bool(STREAM_PATH.fullmatch(route_path(scope)))


def _unreferred(send: Send) -> Send:
    """Keeps a link's URL from being told to whom its page leads."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message["headers"], (b"referrer-policy", b"no-referrer")]
            message = {**message, "headers": headers}
        await send(message)

    return sending


class Auth:
    """Lets a request in as the tenant of its link or key, or answers 401 or 403.

    ``request.state`` then has ``tenant`` and ``scopes``.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, signer: Signer) -> None:
        self._app = app
        self._keyring = keyring
        self._signer = signer

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await Response(media_type="text/html")(scope, receive, send)
            return
        try:
            access = self._signer.access(scope) if _reads_stream(scope) else None
            if access is not None:
                send = _unreferred(send)
            else:
                access = self._access(scope)
        except (KeyInvalid, LinkInvalid, ScopeMissing) as error:
            await problem_response(error, route_path(scope))(scope, receive, send)
            return
        scope.setdefault("state", {}).update(tenant=access.tenant, scopes=access.scopes)
        await self._app(scope, receive, send)

    def _access(self, scope: AsgiScope) -> Access:
        """Raises KeyInvalid and ScopeMissing."""
        if scope["path"] in PUBLIC_PATHS:
            return OPEN
        access = self._keyring.access(credential_of(scope["headers"]))
        if access is None:
            raise KeyInvalid
        needed = scope_of(scope["method"], route_path(scope))
        if needed is not None and needed not in access.scopes:
            raise ScopeMissing(needed)
        return access
