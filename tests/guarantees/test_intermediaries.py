"""What stands between a node and its client, as it comes out of the box: nothing is held back.

Bytes that arrive before the session's end were not held back, so no clock is asked.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deploy.local.ports import free_block
from tests.protocol.wire import STREAM, Node, target, until

from .breakable import Breakable

SERVERS = ("default", "gzip", "h2")
SLOWLY = "[[tokens=60 rate=100 pause_at=1 pause_s=4 seed=1]]"
"""A word, then silence: less than any buffer would wait for."""

ENDLESSLY = "[[tokens=100000 rate=50 seed=1]]"
ANY_CODING = {b"Accept-Encoding": b"gzip, br"}

CONFIGURATION = """
daemon off;
user root;
pid {folder}/pid;
worker_processes 1;
error_log {folder}/error.log warn;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{default};
        location / {{ proxy_pass {node}; }}
    }}
    server {{
        listen 127.0.0.1:{gzip};
        gzip on;
        gzip_proxied any;
        gzip_types *;
        location / {{ proxy_pass {node}; }}
    }}
    server {{
        listen 127.0.0.1:{h2} http2;
        location / {{ proxy_pass {node}; }}
    }}
}}
"""


def program(name: str) -> str:
    """Where it is; without it the test is skipped."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        pytest.skip(f"no {name} here")
    return found


@pytest.fixture
def nginx(cluster: Breakable, tmp_path: Path) -> Iterator[dict[str, Node]]:
    """The first node through nginx, by what nginx is told beside that."""
    first = free_block("127.0.0.1", len(SERVERS))
    ports = {server: first + number for number, server in enumerate(SERVERS)}
    file = tmp_path / "nginx.conf"
    text = CONFIGURATION.format(folder=tmp_path, node=cluster.nodes[0].url, **ports)
    file.write_text(text)
    with subprocess.Popen([program("nginx"), "-c", file, "-e", tmp_path / "error.log"]) as process:
        try:
            until(lambda: all(answers(port) for port in ports.values()))
            nodes = {name: Node(f"http://127.0.0.1:{port}") for name, port in ports.items()}
            yield nodes
            for node in nodes.values():
                node.http.close()
        finally:
            process.send_signal(signal.SIGTERM)


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_done(node: Node, name: str) -> bool:
    """Whether the session has ended."""
    return bool(node.found(name)["is_done"])


@pytest.mark.guarantee("T31")
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_nginx_as_it_comes_holds_nothing_back(
    nginx: dict[str, Node], cluster: Breakable, name: str, method: str
) -> None:
    through, node = nginx["default"], cluster.nodes[1]
    with through.posting(name, SLOWLY) as post:
        post.first(1)
        with through.reading(name) if method == "GET" else post as answer:
            answer.first(1)
            assert not is_done(node, name)
            assert answer.headers["cache-control"] == "no-store, no-transform"
            assert answer.headers["content-type"] == "text/event-stream"
            log = answer.whole()
    assert log == node.read(name).content


@pytest.mark.guarantee("T31")
def test_nginx_that_compresses_holds_nothing_back(
    nginx: dict[str, Node], cluster: Breakable, name: str
) -> None:
    node = cluster.nodes[1]
    inflated = zlib.decompressobj(wbits=31)
    with node.posting(name, SLOWLY) as post:
        post.first(1)
        with nginx["gzip"].exchange("GET", target(STREAM, conv_id=name), ANY_CODING) as answer:
            text = b""
            while not text:
                text = inflated.decompress(answer.chunk())
            assert not is_done(node, name)
            assert answer.headers["content-encoding"] == "gzip"
            while piece := answer.chunk():
                text += inflated.decompress(piece)
    assert text == node.read(name).content


@pytest.mark.guarantee("T31")
def test_http_2_through_nginx_holds_nothing_back(
    nginx: dict[str, Node], cluster: Breakable, name: str
) -> None:
    node = cluster.nodes[1]
    with node.posting(name, SLOWLY) as post:
        post.first(1)
        with curl("--http2-prior-knowledge", nginx["h2"].url, name) as process:
            assert process.stdout is not None
            text = os.read(process.stdout.fileno(), 1024)
            assert text and not is_done(node, name)
            text += process.stdout.read()
    assert process.returncode == 0
    assert text == node.read(name).content


@pytest.mark.guarantee("T31")
def test_a_dead_node_behind_nginx_never_looks_like_an_end(
    nginx: dict[str, Node], cluster: Breakable, name: str
) -> None:
    there, elsewhere = nginx["default"], cluster.nodes[1]
    with elsewhere.posting(name, ENDLESSLY) as post:
        post.first(1)
        with (
            there.reading(name) as reader,
            curl("--http2-prior-knowledge", nginx["h2"].url, name) as process,
        ):
            reader.first(2000)
            assert process.stdout is not None
            os.read(process.stdout.fileno(), 1024)
            cluster.kill("api-1")
            got = reader.cut()
            process.stdout.read()
        assert process.returncode != 0
        assert elsewhere.stop(name, keep="true").status_code == 204
        assert got + elsewhere.read(name, from_=len(got)).content == post.whole()


def curl(option: str, url: str, name: str) -> subprocess.Popen[bytes]:
    """A process that reads a session to its output as it comes."""
    asked = url + target(STREAM, conv_id=name)
    command = [program("curl"), "--silent", "--no-buffer", option, asked]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


@pytest.mark.guarantee("T31")
def test_a_live_stream_is_never_compressed(cluster: Breakable, name: str) -> None:
    there, node = cluster.nodes
    with there.posting(name, SLOWLY) as post:
        post.first(1)
        with there.exchange("GET", target(STREAM, conv_id=name), ANY_CODING) as answer:
            answer.first(1)
            assert not is_done(node, name)
            assert "content-encoding" not in answer.headers
            assert answer.whole() == post.whole()


@pytest.mark.guarantee("T31")
def test_a_client_of_http_1_0_gets_chunks_as_they_come(cluster: Breakable, name: str) -> None:
    there, node = cluster.nodes
    where = urlsplit(there.url)
    with (
        there.posting(name, SLOWLY) as post,
        socket.create_connection((where.hostname, where.port)) as client,
    ):
        post.first(1)
        client.sendall(f"GET {target(STREAM, conv_id=name)} HTTP/1.0\r\n\r\n".encode())
        raw = client.recv(4096)
        assert not is_done(node, name)
        while data := client.recv(4096):
            raw += data
        log = post.whole()
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head.lower()
    assert b"\r\ntransfer-encoding: chunked" in head.lower()
    assert body.endswith(b"0\r\n\r\n")
    assert len(log) < len(body) < 2 * len(log)
