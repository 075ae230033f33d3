"""Dates and times as filters and payloads write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_DATETIME = re.compile(
    r"\s*(?P<date>\d{4}-\d\d-\d\d)"
    r"(?:[T ](?P<minute>\d\d:\d\d)(?:(?P<second>:\d\d)(?:\.(?P<fraction>\d+))?"
    r" ?(?P<offset>[Zz]|UTC|[+-]\d\d(?::?\d\d)?)?)?)?",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def parse_datetime(text: str) -> datetime | None:
    """The moment that *text* names in RFC 3339 or a shorter form (UTC where it names no offset), or None."""
    match = _DATETIME.fullmatch(text)
    if match is None:
        return None
    fraction = f".{match['fraction'][:6]:0<6}" if match["fraction"] else ""
    offset = match["offset"]
    zone = "+00:00" if offset in (None, "Z", "z", "UTC") else offset
    try:
        moment = datetime.fromisoformat(
            f"{match['date']}T{match['minute'] or '00:00'}{match['second'] or ':00'}{fraction}{zone}"
        )
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def microseconds(moment: datetime) -> int:
    """Since the beginning of 1970."""
    return (moment - _EPOCH) // _MICROSECOND
