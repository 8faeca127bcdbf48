"""One keep-alive HTTP connection that notes when which bytes came.

A plain blocking socket: an HTTP client library would add more than what is measured.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 20.0
READ_BYTES = 1 << 18
HEADERS_END = b"\r\n\r\n"
FINAL_CHUNK = b"0\r\n\r\n"
CHUNK_HEAD = re.compile(rb"([0-9a-f]+)\r\n")


@dataclass(slots=True)
class Exchange:
    """One request: when it was sent, and what came when (monotonic seconds)."""

    sent_s: float
    came: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def raw(self) -> bytes:
        """Everything that came, headers and chunk sizes included."""
        return b"".join(data for _, data in self.came)

    @property
    def chunked_body(self) -> bytes:
        """The bytes of a body that came in chunks, without their sizes."""
        rest, parts = self.raw.partition(HEADERS_END)[2], list[bytes]()
        while found := CHUNK_HEAD.match(rest):
            size = int(found[1], 16)
            parts.append(rest[found.end() : found.end() + size])
            rest = rest[found.end() + size + 2 :]
        return b"".join(parts)

    @property
    def took_s(self) -> float:
        """From sending to the last byte."""
        return self.came[-1][0] - self.sent_s

    def until(self, mark: bytes) -> float:
        """Seconds from sending until ``mark`` was there. Raises ValueError where it never came."""
        seen = b""
        for at, data in self.came:
            seen += data
            if mark in seen:
                return at - self.sent_s
        raise ValueError(f"{mark!r} is not in {seen[:1000]!r}")

    def until_body(self) -> float:
        """Seconds from sending to the first byte after the headers."""
        seen = 0
        headers_end = self.raw.index(HEADERS_END) + len(HEADERS_END)
        for at, data in self.came:
            seen += len(data)
            if seen > headers_end:
                return at - self.sent_s
        raise ValueError("no body")


class HttpSocket:
    """One connection to the server at ``url``; ``close`` it."""

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        self._host = parts.netloc
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def get(self, path: str, *, coding: str = "identity") -> Exchange:
        """The whole answer, chunked or with a length."""
        lines = [f"GET {path} HTTP/1.1", f"Host: {self._host}", f"Accept-Encoding: {coding}"]
        return self._exchange("\r\n".join(lines).encode() + HEADERS_END)

    def post(self, path: str, body: Any, headers: Mapping[str, str]) -> Exchange:
        """The same for a POST of JSON."""
        content = json.dumps(body).encode()
        lines = [
            f"POST {path} HTTP/1.1",
            f"Host: {self._host}",
            "Content-Type: application/json",
            f"Content-Length: {len(content)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        return self._exchange("\r\n".join(lines).encode() + HEADERS_END + content)

    def _exchange(self, request: bytes) -> Exchange:
        exchange = Exchange(time.monotonic())
        self._socket.sendall(request)
        head = b""
        while HEADERS_END not in head:
            head += self._receive(exchange)
        left = _length(head)
        while left > 0:
            left -= len(self._receive(exchange))
        tail = head.partition(HEADERS_END)[2][-len(FINAL_CHUNK) :]
        while left < 0 and tail != FINAL_CHUNK:
            tail = (tail + self._receive(exchange))[-len(FINAL_CHUNK) :]
        return exchange

    def _receive(self, exchange: Exchange) -> bytes:
        data = self._socket.recv(READ_BYTES)
        exchange.came.append((time.monotonic(), data))
        if not data:
            raise ConnectionError("the server closed the connection")
        return data


def _length(raw: bytes) -> int:
    """How many bytes are still to come; -1 where chunks tell. Raises ValueError for a refusal."""
    head, _, body = raw.partition(HEADERS_END)
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise ValueError(raw.decode(errors="replace"))
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1]) - len(body)
    return -1
