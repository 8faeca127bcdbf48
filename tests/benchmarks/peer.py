"""A finished answer in llama-server's replay buffer, to stand beside one of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version

from deploy.bootstrap import model_file
from tests.benchmarks.companion import Companion
from tests.benchmarks.http_socket import Exchange, HttpSocket
from tests.benchmarks.llama_server import PACKAGE, PROGRAM, is_installed

NAME = "replayed"
TOKEN_BYTES_MIN = 2000
"""What a token takes with its 20 likeliest neighbours. The buffer holds bytes and knows no frames,
so the same bytes from a tenth of the tokens are replayed no faster."""

BODY = {
    "messages": [{"role": "user", "content": "Tell me a long story."}],
    "stream": True,
    "ignore_eos": True,
    "logprobs": True,
    "top_logprobs": 20,
    "timings_per_token": True,
}


@dataclass(frozen=True, slots=True)
class Peer:
    """llama-server, and where in its answer the bytes begin that are as many as ours."""

    url: str
    pid: int
    offset: int

    def replay(self) -> float:
        """Seconds for these bytes."""
        return self.replayed().took_s

    def replayed(self) -> Exchange:
        """These bytes, over a connection that was in use; it closes each after a stream."""
        connection = HttpSocket(self.url)
        try:
            connection.get("/health")
            return connection.get(f"/v1/stream?conv_id={NAME}&from={self.offset}")
        finally:
            connection.close()


@contextmanager
def finished_answer(size: int) -> Iterator[Peer | None]:
    """One of at least so many bytes, for 300 s; None where llama-server is not installed."""
    if not is_installed():
        yield None
        return
    with Companion("llama_server", str(model_file())) as server:
        url: str = server.ask("url")
        connection = HttpSocket(url)
        body = {**BODY, "max_tokens": 1 + size // TOKEN_BYTES_MIN}
        answered = connection.post("/v1/chat/completions", body, {"X-Conversation-Id": NAME})
        connection.close()
        peer = Peer(url, server.pid, len(answered.chunked_body) - size)
        if peer.replayed().chunked_body != answered.chunked_body[peer.offset :]:
            raise ValueError("llama-server did not replay what it sent")
        yield peer


def described() -> str:
    """Its name, and where it comes from."""
    if PROGRAM:
        return f"llama-server ({PROGRAM})"
    return f"llama-server ({PACKAGE} {version(PACKAGE)})"
