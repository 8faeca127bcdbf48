"""What routes read of a request beside its fields: tenant, body, names, offsets, epochs.

Path, query and headers are bytes; each is decoded once, here, and as UTF-8.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote_to_bytes

from starlette.requests import Request

from api import event_ids, gzip_coding
from api.event_ids import EventId
from api.problems import BodyTooLarge, RequestInvalid
from replay.errors import OffsetInvalid
from replay.identity import KEYED, NAME_BYTES_MAX
from replay.log_values import IfBusy

STREAM_PATH = b"/v1/stream/"
DIGITS_MAX = 19
"""Every number of fewer digits fits into 63 bits; no log has so many bytes."""

COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd"})
"""What a body must not be sent in: a small one could become as large as it likes."""

KEY_CHARACTERS_MAX = 255
"""The longest idempotency key, or message id."""

READ_NAME_BYTES_MAX = 2 * NAME_BYTES_MAX
"""A longer name can be no session's: a conversation and a model have at most so much."""


def tenant_of(request: Request) -> str:
    """Whose request it is; ``auth`` has found it out."""
    tenant: str = request.state.tenant
    return tenant


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, uncompressed. Raises BodyTooLarge, at the latest when ``limit`` bytes have
    come, and RequestInvalid."""
    if (coding := request.headers.get("content-encoding", "").strip().lower()) in COMPRESSIONS:
        raise RequestInvalid(f"header 'Content-Encoding': a body in {coding} is not taken")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:DIGITS_MAX]) > limit:
        raise BodyTooLarge(limit)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise BodyTooLarge(limit)
        parts.append(part)
    return b"".join(parts)


def header_name(request: Request, bytes_max: int = NAME_BYTES_MAX) -> str:
    """The session name in X-Conversation-Id, verbatim; "" where there is none."""
    value = _header(request, "X-Conversation-Id") or b""
    if len(value) > bytes_max:
        raise RequestInvalid(f"header 'X-Conversation-Id' exceeds {bytes_max} bytes")
    name = _utf8(value, "header 'X-Conversation-Id'")
    if any(unicodedata.category(character) == "Cc" for character in name):
        raise RequestInvalid("header 'X-Conversation-Id' contains a control character")
    if name.startswith(KEYED):
        raise RequestInvalid(f"header 'X-Conversation-Id' begins with '{KEYED}', which is reserved")
    return name


def header_key(request: Request) -> str:
    """The key in Idempotency-Key, verbatim; "" where there is none. Raises RequestInvalid."""
    return _printable(request, "Idempotency-Key")


def _printable(request: Request, name: str) -> str:
    value = _header(request, name)
    if value is None:
        return ""
    if not 0 < len(value) <= KEY_CHARACTERS_MAX:
        raise RequestInvalid(f"header '{name}' must have 1 to {KEY_CHARACTERS_MAX} characters")
    if any(not 0x20 <= byte < 0x7F for byte in value):
        raise RequestInvalid(f"header '{name}' must be printable ASCII")
    return value.decode("ascii")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page shows the answer: its message, and how many characters stand there already."""

    message_id: str = ""
    content_chars: int = 0
    reasoning_chars: int = 0


def header_place(request: Request) -> Place:
    """X-Message-Id and X-Stream-Prefix-Chars. Raises RequestInvalid."""
    return Place(_printable(request, "X-Message-Id"), *_prefix_chars(request))


def _prefix_chars(request: Request) -> tuple[int, int]:
    value = _header(request, "X-Stream-Prefix-Chars") or b"0"
    found = re.fullmatch(rb"([0-9]{1,9})(?:, ?([0-9]{1,9}))?", value)
    if found is None:
        raise RequestInvalid(
            "header 'X-Stream-Prefix-Chars' must be one or two decimal numbers, as in '120,0'"
        )
    content, reasoning = found.groups()
    return int(content), int(reasoning or 0)


def _header(request: Request, name: str) -> bytes | None:
    """The one value of a header, None where it is absent. Raises RequestInvalid for two."""
    wanted = name.lower().encode()
    values = [value for key, value in request.scope["headers"] if key == wanted]
    if len(values) > 1:
        raise RequestInvalid(f"header '{name}' is given more than once")
    return values[0] if values else None


def accepts_gzip(request: Request) -> bool:
    """Whether the client takes a gzipped answer."""
    return gzip_coding.accepts_gzip(",".join(request.headers.getlist("accept-encoding")))


def query_of(request: Request) -> dict[str, list[str]]:
    """The query's parameters, all values of each in order. Raises RequestInvalid."""
    found: dict[str, list[str]] = {}
    try:
        text = request.scope["query_string"].decode()
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=100)
    except UnicodeDecodeError:
        raise RequestInvalid("the query is not UTF-8") from None
    except ValueError:
        raise RequestInvalid("the query has too many parameters") from None
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def path_name(request: Request) -> str:
    """What follows ``/v1/stream/``: slashes belong to it, and escapes are undone once."""
    raw: bytes = request.scope["raw_path"]
    _, _, rest = raw.partition(STREAM_PATH)
    return _utf8(unquote_to_bytes(rest), "the path")


def stream_name(request: Request, query: dict[str, list[str]]) -> str:
    """The session name of a GET or DELETE in either form. Raises RequestInvalid without one."""
    in_path = STREAM_PATH in request.scope["raw_path"]
    name = path_name(request) if in_path else single(query, "conv_id") or ""
    if not name:
        raise RequestInvalid("Missing conversation id in path (or query: 'conv_id')")
    return name


def may_exist(name: str) -> bool:
    """Whether any session can have this name; else no log need be asked."""
    return len(name.encode()) <= READ_NAME_BYTES_MAX


def single(query: dict[str, list[str]], key: str) -> str | None:
    """The one value of a parameter, None where it is absent. Raises RequestInvalid for two."""
    values = query.get(key, [])
    if len(values) > 1:
        raise RequestInvalid(f"'{key}' is given more than once")
    return values[0] if values else None


def parse_offset(query: dict[str, list[str]]) -> int:
    """``from``: a plain non-negative decimal, 0 where it is absent. Raises OffsetInvalid."""
    values = query.get("from", ["0"])
    if len(values) != 1 or not _is_decimal(values[0]):
        raise OffsetInvalid("&".join(values))
    return _number(values[0])


def parse_epoch(query: dict[str, list[str]]) -> int | None:
    """``epoch``: a positive decimal, None where it is absent. Raises RequestInvalid."""
    text = single(query, "epoch")
    if text is None:
        return None
    if not _is_decimal(text) or not _number(text):
        raise RequestInvalid(f"'epoch' must be a positive decimal number, got {text[:40]!r}")
    return _number(text)


def parse_number(query: dict[str, list[str]], key: str) -> int | None:
    """A non-negative decimal, None where it is absent. Raises RequestInvalid."""
    text = single(query, key)
    if text is None:
        return None
    if not _is_decimal(text):
        raise RequestInvalid(f"'{key}' must be a non-negative decimal number, got {text[:40]!r}")
    return _number(text)


def parse_last_event(request: Request, query: dict[str, list[str]]) -> EventId | None:
    """Where an EventSource comes back to; None at its first coming. Raises RequestInvalid."""
    value = _header(request, event_ids.HEADER)
    if not value:
        return None
    try:
        found = EventId.parse(value.decode("ascii"))
    except ValueError:
        raise RequestInvalid(f"header '{event_ids.HEADER}' is none of this server's ids") from None
    if parse_epoch(query) not in (None, found.epoch):
        raise RequestInvalid(f"'epoch' is another than that of header '{event_ids.HEADER}'")
    return found


def parse_view(query: dict[str, list[str]]) -> bool:
    """Whether ``view`` is "merged"; without it the log is meant. Raises RequestInvalid."""
    text = single(query, "view")
    if text not in (None, "merged"):
        raise RequestInvalid(f"'view' must be merged, got {text[:40]!r}")
    return text is not None


def parse_if_busy(query: dict[str, list[str]]) -> IfBusy:
    """``if_busy``, "replace" where it is absent. Raises RequestInvalid."""
    text = single(query, "if_busy")
    if text is None:
        return IfBusy.REPLACE
    if text not in set(IfBusy):
        raise RequestInvalid(f"'if_busy' must be {', '.join(IfBusy)}, got {text[:40]!r}")
    return IfBusy(text)


def parse_flag(query: dict[str, list[str]], key: str) -> bool:
    """``true`` or ``false`` (or 1 or 0), false where it is absent. Raises RequestInvalid."""
    text = single(query, key) or "false"
    if text not in ("true", "false", "1", "0"):
        raise RequestInvalid(f"'{key}' must be true or false, got {text[:40]!r}")
    return text in ("true", "1")


def _is_decimal(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _number(text: str) -> int:
    """Of a number that no offset or epoch can reach, one of that kind: digits cost time."""
    digits = text.lstrip("0") or "0"
    return int(digits) if len(digits) <= DIGITS_MAX else 10**DIGITS_MAX


def _utf8(value: bytes, what: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise RequestInvalid(f"{what} is not UTF-8") from None
