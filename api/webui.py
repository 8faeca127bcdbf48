"""Serves the built page from memory: compressed once, cached by content, nothing else reachable.

Stands before the key check, so that a browser can load the page that asks for the key. It must
not know the API beyond the paths that are not the page's.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.gzip_coding import accepts_gzip

INDEX = "/index.html"
API_PATHS = frozenset(
    {
        *("v1", "chat", "models", "props", "slots", "metrics", "lora-adapters", "tools"),
        *("cors-proxy", "health", "ready", "docs", "openapi.json"),
    }
)
"""First parts of paths that are the API's, whatever a client accepts."""

HASHED = re.compile(r"[-.][A-Za-z0-9_-]{8,}\.[a-z0-9]+$")
COMPRESSIBLE = ("text/", "application/javascript", "application/json", "image/svg")
GZIP_BYTES_MIN = 512

POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

MISSING = (
    b"<!doctype html><title>replay-cluster</title>"
    b"<p>The page is not built: run <code>make webui</code>. The API is here all the same.</p>"
)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, ready to be sent."""

    content: bytes
    etag: str
    headers: Mapping[str, str] = field(default_factory=dict)
    gzipped: bytes | None = None


def load(folder: Path, root_path: str) -> dict[str, Asset]:
    """Every file of the bundle by its path; without a bundle, a page that says so."""
    if not (folder / "index.html").is_file():
        return {INDEX: asset(INDEX, MISSING)}
    assets = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            path = "/" + file.relative_to(folder).as_posix()
            content = file.read_bytes()
            if path == INDEX:
                content = with_base(content, root_path)
            assets[path] = asset(path, content)
    return assets


def with_base(page: bytes, root_path: str) -> bytes:
    """The page with its address in ``<base>``, so that relative links work on every path. Pure."""
    base = f'<base href="{escape(root_path.rstrip("/"))}/">'.encode()
    return page.replace(b"<head>", b"<head>" + base, 1)


def asset(path: str, content: bytes) -> Asset:
    """One file with its headers. Pure."""
    kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
    if path.endswith((".js", ".mjs")):
        kind = "text/javascript"  # the system's own table may say otherwise
    is_page = kind == "text/html"
    headers = {
        "Content-Type": f"{kind}; charset=utf-8" if kind.startswith("text/") else kind,
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "public, max-age=31536000, immutable"
        if path.startswith("/assets/") and HASHED.search(path)
        else "no-cache",
        "Vary": "Accept-Encoding",
    }
    if is_page:
        headers |= {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
    etag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    return Asset(content, etag, headers, _gzipped(kind, content))


def _gzipped(kind: str, content: bytes) -> bytes | None:
    if len(content) < GZIP_BYTES_MIN or not kind.startswith(COMPRESSIBLE):
        return None
    packed = gzip.compress(content, 9, mtime=0)
    return packed if len(packed) < len(content) else None


class Webui:
    """Answers what is the page's and passes everything else on."""

    def __init__(self, app: ASGIApp, assets: Mapping[str, Asset]) -> None:
        self._app = app
        self._assets = assets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        found = self._find(scope) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        status, headers, body = answer(found, Headers(scope=scope))
        raw = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        body = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": body})

    def _find(self, scope: Scope) -> Asset | None:
        if scope["method"] not in ("GET", "HEAD"):
            return None
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        found = self._assets.get(INDEX if path == "/" else path)
        return found or (self._assets[INDEX] if _is_page(path, scope) else None)


def _is_page(path: str, scope: Scope) -> bool:
    """Whether a browser asks for a place within the page."""
    accepts_html = "text/html" in Headers(scope=scope).get("accept", "")
    return accepts_html and path.strip("/").split("/", 1)[0] not in API_PATHS


def answer(found: Asset, asked: Headers) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body for one asset. Pure."""
    headers = {**found.headers, "ETag": found.etag}
    if found.etag in asked.get("if-none-match", ""):
        return 304, headers, b""
    body = found.content
    if found.gzipped is not None and accepts_gzip(asked.get("accept-encoding", "")):
        body, headers["Content-Encoding"] = found.gzipped, "gzip"
    headers["Content-Length"] = str(len(body))
    return 200, headers, body
