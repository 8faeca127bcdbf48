"""The formats of JSON Schema that constrain a string, as patterns; all others are annotations.

Each matches only what every reader takes for one: a day that any month has, hosts in ASCII.
"""

from __future__ import annotations

from collections.abc import Mapping

_MONTHS_OF_31 = "(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
_MONTHS_OF_30 = "(0[469]|11)-(0[1-9]|[12][0-9]|30)"
_FEBRUARY = "02-(0[1-9]|1[0-9]|2[0-8])"
_DATE = f"[1-9][0-9]{{3}}-({_MONTHS_OF_31}|{_MONTHS_OF_30}|{_FEBRUARY})"
_TIME = (
    "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_LABEL = "[a-z0-9]{1,15}(-[a-z0-9]{1,15}){0,2}"
_HOST = f"({_LABEL}[.]){{0,4}}[a-z][a-z0-9]{{0,15}}"
_MAILBOX = "[a-z0-9]([a-z0-9_]|[.+-][a-z0-9]){0,30}"
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_GROUP = "[0-9a-f]{1,4}"
_CLOCK = "([0-9]{1,3}H([0-9]{1,3}M)?([0-9]{1,3}S)?|[0-9]{1,3}M([0-9]{1,3}S)?|[0-9]{1,3}S)"
_UUID = "[0-9a-f]{{8}}-[0-9a-f]{{4}}-{}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}"

FORMATS: Mapping[str, str] = {
    name: f"^{body}$"
    for name, body in {
        "date": _DATE,
        "time": _TIME,
        "date-time": f"{_DATE}T{_TIME}",
        "duration": f"P([0-9]{{1,4}}D(T{_CLOCK})?|T{_CLOCK}|[0-9]{{1,4}}W)",
        "email": f"{_MAILBOX}@{_LABEL}([.]{_LABEL}){{0,2}}[.][a-z]{{2,6}}",
        "hostname": _HOST,
        "ipv4": f"{_OCTET}([.]{_OCTET}){{3}}",
        "ipv6": f"{_GROUP}(:{_GROUP}){{7}}",
        "uri": f"https?://{_HOST}(/[A-Za-z0-9._~-]{{0,40}}){{0,8}}",
        "uuid": _UUID.format("[1-5]"),
        **{f"uuid{version}": _UUID.format(version) for version in (1, 3, 4, 5, 6, 7, 8)},
    }.items()
}
