"""HTTP/1.1 byte by byte, and a node as its clients see it. Knows nothing of our packages.

``Exchange`` is one request over a socket of its own: it shows the chunks as they were sent, and
tells a clean end from a cut. ``Node`` asks for what fits into one answer.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx

WAIT_S = 45.0
"""Bound of every wait: far above the 9 s of a takeover's silence, since the machine may be busy."""

LOOK_S = 0.02
CHAT = "/v1/chat/completions"
STREAM = "/v1/stream"
DONE = b"data: [DONE]\n\n"

Value = TypeVar("Value")


def until(condition: Callable[[], Value], limit_s: float = WAIT_S) -> Value:
    """The first true value that the condition comes to."""
    last = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < last, f"not within {limit_s} s"
        time.sleep(LOOK_S)  # what is waited for tells nobody
    return value


def target(path: str, **query: object) -> str:
    """A request target; ``from_`` is ``from``."""
    given = {key.rstrip("_"): value for key, value in query.items() if value is not None}
    pairs = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in given.items())
    return f"{path}?{pairs}" if pairs else path


def asking(words: str, **fields: object) -> dict[str, Any]:
    """A chat request of one message."""
    return {"messages": [{"role": "user", "content": words}], "temperature": 0, **fields}


def naming(name: str | bytes | None) -> dict[bytes, bytes]:
    """The header that names a session; none for None."""
    if name is None:
        return {}
    return {b"X-Conversation-Id": name if isinstance(name, bytes) else name.encode()}


class Cut(AssertionError):
    """The response ended without its final chunk."""


class Exchange:
    """One exchange; ``with`` it, since leaving hangs up. ``data`` is the body so far."""

    def __init__(
        self,
        url: str,
        method: str,
        target: str | bytes,
        headers: Mapping[bytes, bytes] | None = None,
        body: bytes = b"",
        *,
        receive_buffer_bytes: int = 0,
    ) -> None:
        where = urlsplit(url)
        self._socket = socket.socket()
        self._socket.settimeout(WAIT_S)
        if receive_buffer_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self._socket.connect((where.hostname, where.port))
        self._buffer = b""
        self._status = 0
        self._headers: list[tuple[str, str]] = []
        self.data = b""
        aimed = target if isinstance(target, bytes) else target.encode()
        lines = [method.encode() + b" " + aimed + b" HTTP/1.1", b"Host: replay"]
        lines += [key + b": " + value for key, value in (headers or {}).items()]
        if body and b"Content-Length" not in (headers or {}):
            lines.append(b"Content-Length: %d" % len(body))
        self.send(b"\r\n".join(lines) + b"\r\n\r\n" + body)

    def __enter__(self) -> Exchange:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hangs up."""
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Sends more of the request."""
        self._socket.sendall(data)

    def answers(self) -> bool:
        """Whether anything has come that was not yet looked at."""
        return bool(self._buffer or select.select([self._socket], [], [], 0)[0])

    def awaits_body(self) -> None:
        """Returns once the server has said ``100 Continue``."""
        assert self._line() == b"HTTP/1.1 100 Continue"
        assert self._line() == b""

    @property
    def status(self) -> int:
        """The status, as soon as it is there."""
        self._head()
        return self._status

    @property
    def headers(self) -> dict[str, str]:
        """The headers, names in small letters."""
        self._head()
        return dict(self._headers)

    def _head(self) -> None:
        if self._status:
            return
        self._status = int(self._line().split()[1])
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(":")
            self._headers.append((name.lower(), value.strip()))

    def chunk(self) -> bytes:
        """The next HTTP chunk; b"" is the final one. Raises Cut."""
        assert self.headers.get("transfer-encoding") == "chunked", (self._status, self._headers)
        size = int(self._line(), 16)
        data = self._take(size)
        assert self._take(2) == b"\r\n"
        self.data += data
        return data

    def first(self, size: int) -> bytes:
        """At least so many bytes of the body."""
        while len(self.data) < size:
            assert self.chunk(), f"ended after {len(self.data)} bytes"
        return self.data

    def containing(self, part: bytes) -> bytes:
        """The body up to and with a chunk that completes ``part``."""
        while part not in self.data:
            assert self.chunk(), f"no {part!r} in {self.data!r}"
        return self.data

    def whole(self) -> bytes:
        """The body, which must end cleanly."""
        while self.chunk():
            pass
        return self.data

    def cut(self) -> bytes:
        """The body, which must not end cleanly."""
        with suppress(Cut):
            self.whole()
            raise AssertionError("ended cleanly")
        return self.data

    def error(self) -> dict[str, Any]:
        """The error of a refusal."""
        body = self._take(int(self.headers["content-length"]))
        error: dict[str, Any] = json.loads(body)["error"]
        return error

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._receive()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _receive(self) -> None:
        try:
            data = self._socket.recv(65536)
        except ConnectionError as error:
            raise Cut(str(error)) from None
        if not data:
            raise Cut("closed")
        self._buffer += data


class Node:
    """One node, by its own address. ``key`` is an API key."""

    def __init__(self, url: str, key: str = "") -> None:
        self.url = url
        self._headers = {b"Authorization": b"Bearer " + key.encode()} if key else {}
        self.http = httpx.Client(base_url=url, headers=self._headers, timeout=WAIT_S)

    def exchange(
        self,
        method: str,
        target: str | bytes,
        headers: Mapping[bytes, bytes] | None = None,
        body: bytes = b"",
    ) -> Exchange:
        """A request over a socket of its own."""
        return Exchange(self.url, method, target, {**self._headers, **(headers or {})}, body)

    def post(self, name: str | None, words: str, **fields: object) -> httpx.Response:
        """Asks, and waits for the whole answer."""
        return self.http.post(CHAT, headers=naming(name), json=asking(words, **fields))

    def posting(self, name: str | bytes | None, words: str, **fields: object) -> Exchange:
        """Asks for a stream."""
        body = json.dumps(asking(words, **{"stream": True, **fields})).encode()
        return self.exchange("POST", CHAT, naming(name), body)

    def read(self, name: str, **query: object) -> httpx.Response:
        """The session's bytes to its end."""
        return self.http.get(target(STREAM, conv_id=name, **query))

    def reading(self, name: str, **query: object) -> Exchange:
        """The session's bytes as they come."""
        return self.exchange("GET", target(STREAM, conv_id=name, **query))

    def stop(self, name: str, **query: object) -> httpx.Response:
        """Stops the session."""
        return self.http.delete(target(STREAM, conv_id=name, **query))

    def erase(self, name: str) -> None:
        """Evicts the session; asks again where it is told "later", as the disk is slow."""

        def status() -> int:
            code = self.stop(name).status_code
            return 0 if code == 503 else code

        assert until(status) == 204

    def lookup(self, *names: object) -> list[dict[str, Any]]:
        """What lookup tells of these names."""
        response = self.http.post("/v1/streams/lookup", json={"conversation_ids": names})
        assert response.status_code == 200, response.text
        found: list[dict[str, Any]] = response.json()
        return found

    def found(self, name: str) -> dict[str, Any]:
        """The one session of this name, once it is there."""
        [one] = until(lambda: self.lookup(name))
        return one

    def place(self, name: str) -> int:
        """The session's place in the queue, once it has one: it is opened before it is queued."""

        def seen() -> list[int]:
            places = [one["queue_position"] for one in self.lookup(name)]
            return [one for one in places if one is not None]

        return until(seen)[0]

    def reaches(self, name: str, *states: str) -> dict[str, Any]:
        """The session, once it is in one of these states."""

        def seen() -> list[dict[str, Any]]:
            return [one for one in self.lookup(name) if one["state"] in states]

        return until(seen)[0]

    def is_sure(self) -> bool:
        """Whether it says that nothing is there where nothing is: not while Redis is just back."""
        return self.http.get(target(STREAM, conv_id="nobody's")).status_code == 404

    def models(self) -> list[dict[str, Any]]:
        """The models of the cluster."""
        found: list[dict[str, Any]] = self.http.get("/v1/models").json()["data"]
        return found


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error in a refusal."""
    error: dict[str, Any] = response.json()["error"]
    return error


def frames(log: bytes) -> list[bytes]:
    """The frames of a log, each without its empty line."""
    assert log.endswith(b"\n\n"), log[-40:]
    return log.removesuffix(b"\n\n").split(b"\n\n")


def events(log: bytes) -> list[dict[str, Any]]:
    """The JSON of every event of a log."""
    return [json.loads(one[6:]) for one in frames(log) if one.startswith(b"data: {")]


def text_of(parts: Iterable[dict[str, Any]]) -> str:
    """What the chat chunks say."""
    choices = [choice for part in parts for choice in part.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def end_comment(state: str, reason: str) -> bytes:
    """The last frame of a log that did not complete."""
    end = json.dumps({"state": state, "reason": reason}, separators=(",", ":"))
    return f": end {end}\n\n".encode()
