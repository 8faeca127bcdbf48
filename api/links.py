"""Links: URLs that read or stop one session without a key, until they expire.

Everything that a link's URL says of its session is signed: the tenant, the name, the epoch, what it
allows and until when. So nothing is stored, every node knows every link, and whoever holds one can
make no other of it. It goes by the node's clock.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.types import Scope as AsgiScope

from api import requests
from api.fields import Fields
from api.json_body import parse_object
from api.keyring import Access, Scope
from api.node import NodeDep
from api.problems import LinkInvalid, NotSupported, RequestInvalid, ScopeMissing
from api.stream import resolve

PARAMETER = "link"
SECRET_CHARACTERS_MIN = 16
EXPIRES_S = 3600
BODY_BYTES_MAX = 16 * 1024
ALLOWS = {"GET": Scope.READ, "HEAD": Scope.READ, "DELETE": Scope.STOP}
"""What a link must allow for each method; there is none for others."""

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Link:
    """What a link opens. ``expires_s`` is Unix time."""

    tenant: str
    name: str
    epoch: int
    allows: Scope
    expires_s: int

    def query(self, signature: str) -> dict[str, str]:
        """The query of its URL. A stop by link evicts nothing."""
        tenant = _written(self.tenant.encode())
        return {
            "conv_id": self.name,
            "epoch": str(self.epoch),
            **({"keep": "true"} if self.allows is Scope.STOP else {}),
            PARAMETER: f"{self.allows}.{self.expires_s}.{tenant}.{signature}",
        }


class Signer:
    """Signs links with the first secret and takes those of all, so that secrets can be changed."""

    def __init__(self, secrets: Sequence[str], clock: Callable[[], float] = time.time) -> None:
        """Raises ValueError where a secret is too short to be one."""
        if any(len(secret) < SECRET_CHARACTERS_MIN for secret in secrets):
            raise ValueError(f"a link secret has less than {SECRET_CHARACTERS_MIN} characters")
        self._secrets = [secret.encode() for secret in secrets]
        self.now = clock

    def __bool__(self) -> bool:
        return bool(self._secrets)

    def query(self, link: Link) -> dict[str, str]:
        """The query of the link's URL. Raises NotSupported."""
        if not self._secrets:
            raise NotSupported("This server does not sign links. Start it with REPLAY_LINK_SECRETS")
        return link.query(_signature(self._secrets[0], link))

    def access(self, scope: AsgiScope) -> Access | None:
        """What a request's link opens, None where it has none. Raises LinkInvalid."""
        if f"{PARAMETER}=".encode() not in scope["query_string"]:
            return None
        try:
            request = Request(scope)
            query = requests.query_of(request)
            token = requests.single(query, PARAMETER)
            if token is None:
                return None
            link = _claimed(request, query, token)
        except (RequestInvalid, ValueError):
            raise LinkInvalid("invalid") from None
        signature = token.rpartition(".")[2].encode()
        # With all of them, whichever it was: time tells nothing.
        fits = [
            hmac.compare_digest(_signature(secret, link).encode(), signature)
            for secret in self._secrets
        ]
        if not (any(fits) and ALLOWS.get(scope["method"]) is link.allows):
            raise LinkInvalid("invalid")
        if link.expires_s <= self.now():
            raise LinkInvalid("expired")
        return Access(link.tenant, frozenset({link.allows}))


def _claimed(request: Request, query: dict[str, list[str]], token: str) -> Link:
    """The link that a URL claims to be. Raises ValueError and RequestInvalid."""
    allows, expires_s, tenant, _ = token.split(".")
    if not expires_s.isdecimal():
        raise ValueError(expires_s)
    if allows == Scope.STOP and not requests.parse_flag(query, "keep"):
        raise ValueError(allows)
    return Link(
        tenant=base64.urlsafe_b64decode(tenant + "=" * (-len(tenant) % 4)).decode(),
        name=requests.stream_name(request, query),
        epoch=requests.parse_epoch(query) or 0,
        allows=Scope(allows),
        expires_s=int(expires_s),
    )


def _signature(secret: bytes, link: Link) -> str:
    told = ["link", link.tenant, link.name, link.epoch, link.allows, link.expires_s]
    return _written(hmac.digest(secret, json.dumps(told).encode(), hashlib.sha256))


def _written(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


@router.post("/v1/streams/links")
async def create_link(request: Request, node: NodeDep) -> dict[str, Any]:
    """A URL by which one session can be read, or stopped, without a key."""
    fields = Fields(parse_object(await requests.read_body(request, BODY_BYTES_MAX)))
    allows = _allows(fields)
    if allows not in request.state.scopes:
        raise ScopeMissing(allows)
    name = fields.text("conversation_id")
    if not name:
        raise RequestInvalid("Field 'conversation_id': is missing")
    life_s = fields.bounded("expires_in_s", EXPIRES_S, low=1, high=node.settings.link_max_s)
    epoch = fields.get("epoch")
    if epoch is not None and (type(epoch) is not int or epoch < 1):
        raise RequestInvalid("Field 'epoch': must be a positive integer")
    signer: Signer = request.app.state.signer
    record = await resolve(node, request, name, epoch)
    expires_s = int(signer.now()) + life_s
    link = Link(record.tenant, name, record.epoch, allows, expires_s)
    path = node.settings.root_path.rstrip("/") + "/v1/stream"
    return {
        "url": f"{path}?{urlencode(signer.query(link))}",
        "method": "GET" if allows is Scope.READ else "DELETE",
        "epoch": record.epoch,
        "expires_at": expires_s,
    }


def _allows(fields: Fields) -> Scope:
    text = fields.text("allow", Scope.READ)
    if text not in set(ALLOWS.values()):
        raise RequestInvalid(f"Field 'allow': must be read or stop, got {text[:40]!r}")
    return Scope(text)
