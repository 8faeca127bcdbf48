"""The keys themselves: what a file may say, and that reading it anew never opens or closes a door
by mistake."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from node_harness import eventually, memory_node

from api.keyring import OPEN, USUAL, Access, Keyring, KeysInvalid, Scope, parse_keys, tenant_of_key

FILE = """\
# whose they are
one
two  tenant=acme
three scopes=read,stop
  two words tenant=acme   scopes=admin
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_key_may_name_a_tenant_and_scopes(tmp_path: Path) -> None:
    keyring = Keyring((), write(tmp_path / "keys", FILE))
    assert keyring.access(b"one") == Access(tenant_of_key("one"), USUAL)
    assert keyring.access(b"two") == Access("acme", USUAL)
    assert keyring.access(b"three") == Access(
        tenant_of_key("three"), frozenset({Scope.READ, Scope.STOP})
    )
    assert keyring.access(b"two words") == Access("acme", frozenset({Scope.ADMIN}))
    for other in (b"", b"on", b"# whose they are", b"two  tenant=acme"):
        assert keyring.access(other) is None


def test_a_tenant_does_not_show_its_key() -> None:
    assert tenant_of_key("secret") == "key-2bb80d537b1da3e3"
    keyring = Keyring(["secret"])
    assert keyring.access(b"secret") == Access("key-2bb80d537b1da3e3", USUAL)
    assert keyring.access(b"secre") is None
    assert "secret" not in repr(vars(keyring)) and b"secret" not in vars(keyring)["_known"]


def test_without_any_key_everybody_may_do_everything() -> None:
    assert Keyring().access(b"") == Keyring().access(b"any") == OPEN


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no key"),
        ("# nothing\n\n", "no key"),
        ("secret\nsecret tenant=a", "line 2"),
        ("secret scopes=", "line 1"),
        ("secret scopes=read,write", "line 1"),
        ("a\n\nsecret scope=read", "line 3"),
        ("secret tenant=", "line 1"),
        ("secret tenant=a/b", "line 1"),
        ("secret tenant=key-2bb80d537b1da3e3", "line 1"),
        ("secret tenant=a tenant=b", "line 1"),
    ],
)
def test_what_is_no_list_of_keys_is_refused_without_naming_one(text: str, why: str) -> None:
    with pytest.raises(KeysInvalid, match=why) as told:
        parse_keys(text)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("content", [None, b"", b"\xff\n"])
def test_a_node_does_not_begin_with_a_file_that_it_cannot_use(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(KeysInvalid, match=str(file)):
        Keyring(["one"], file)


def test_an_invalid_file_changes_nothing_and_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keyring = Keyring(["env"], file := write(tmp_path / "keys", "old"))
    for text in ("", "new scopes=all", "# all gone"):
        write(file, text)
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            keyring.reload()
        assert "stay as they were" in caplog.text and "new" not in caplog.text
        assert keyring.access(b"old") and keyring.access(b"env") and not keyring.access(b"new")
    write(file, "new tenant=acme\nenv tenant=acme")
    keyring.reload()
    assert (keyring.access(b"old"), keyring.access(b"new")) == (None, Access("acme"))
    assert keyring.access(b"env") == Access("acme")
    file.unlink()
    keyring.reload()
    assert keyring.access(b"new") == Access("acme")


@pytest.mark.anyio
async def test_a_file_that_changes_is_read_anew(tmp_path: Path) -> None:
    file = write(tmp_path / "keys", "old")
    async with memory_node(api_keys_file=file) as node:

        async def opens(key: str) -> bool:
            response = await node.http.get("/v1/models", headers={"X-Api-Key": key})
            return response.status_code == 200

        assert await opens("old") and not await opens("newer")
        write(tmp_path / "next", "newer").replace(file)
        await eventually(lambda: opens("newer"))
        assert not await opens("old")
