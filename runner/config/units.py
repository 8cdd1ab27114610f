"""Quantities with units: durations, sizes, rates, shares. Each function raises ValueError saying what it wants."""

from __future__ import annotations

import re

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-zµ]*)\s*")

SECONDS_PER_UNIT = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES_PER_UNIT = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
BYTES_PER_UNIT |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
PERIOD_SECONDS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "hour": 3600.0}
PERIOD_SECONDS |= {"d": 86400.0, "day": 86400.0}

DURATION_WANTED = 'a number and a unit, for instance "200ms", "10s", "2h"'
SIZE_WANTED = 'a number and a unit, for instance "64KiB", "256MB"'
RATE_WANTED = 'a number for each period, for instance "50/s", "100/min"'
SHARE_WANTED = 'a percentage from 0% to 100%, for instance "10%"'

#: Numbers are short: a hostile one must not cost time.
MAX_TEXT_LENGTH = 40


class WrittenDuration(float):
    """A duration that came out of a param: it knows how it was written, so that `${name}` inside a text reads well.

    >>> WrittenDuration("1m30s"), str(WrittenDuration("1m30s"))
    (90.0, '1m30s')
    """

    def __new__(cls, text: str) -> WrittenDuration:
        """Make it from its text, which `str` gives back."""
        return super().__new__(cls, parse_duration(text))

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


class WrittenSize(int):
    """A size that came out of a param, as `WrittenDuration`.

    >>> WrittenSize("1KiB") + 0, str(WrittenSize("1KiB"))
    (1024, '1KiB')
    """

    def __new__(cls, text: str) -> WrittenSize:
        """Make it from its text, which `str` gives back."""
        return super().__new__(cls, parse_size(text))

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


def parse_duration(text: str) -> float:
    """Return seconds.

    >>> parse_duration("200ms"), parse_duration("10s"), parse_duration("2h"), parse_duration("1m30s")
    (0.2, 10.0, 7200.0, 90.0)
    >>> parse_duration("10")
    Traceback (most recent call last):
    ValueError: a number and a unit, for instance "200ms", "10s", "2h"
    """
    total, end = 0.0, 0
    text = text.strip()
    for part in _PART.finditer(text if len(text) <= MAX_TEXT_LENGTH else ""):
        if part.start() != end or part[2] not in SECONDS_PER_UNIT:
            break
        total, end = total + float(part[1]) * SECONDS_PER_UNIT[part[2]], part.end()
    if not text or end != len(text):
        raise ValueError(DURATION_WANTED)
    return total


def parse_size(text: str) -> int:
    """Return bytes; KB is 1000 and KiB is 1024.

    >>> parse_size("256MB"), parse_size("64KiB"), parse_size("1.5 KiB")
    (256000000, 65536, 1536)
    >>> parse_size("64kb")
    Traceback (most recent call last):
    ValueError: a number and a unit, for instance "64KiB", "256MB"
    """
    number, unit = _number_and_unit(text, SIZE_WANTED)
    if unit not in BYTES_PER_UNIT:
        raise ValueError(SIZE_WANTED)
    return int(float(number) * BYTES_PER_UNIT[unit]) if "." in number else int(number) * BYTES_PER_UNIT[unit]


def parse_rate(text: str) -> tuple[float, float]:
    """Return a count and its period in seconds.

    >>> parse_rate("50/s"), parse_rate("100/min")
    ((50.0, 1.0), (100.0, 60.0))
    >>> parse_rate("50")
    Traceback (most recent call last):
    ValueError: a number for each period, for instance "50/s", "100/min"
    """
    count, slash, period = text.partition("/")
    number, unit = _number_and_unit(count, RATE_WANTED)
    if not slash or unit or period.strip() not in PERIOD_SECONDS or float(number) == 0:
        raise ValueError(RATE_WANTED)
    return float(number), PERIOD_SECONDS[period.strip()]


def parse_share(text: str) -> float:
    """Return a percentage as a number from 0 to 1.

    >>> parse_share("10%")
    0.1
    >>> parse_share("110%")
    Traceback (most recent call last):
    ValueError: a percentage from 0% to 100%, for instance "10%"
    """
    number, unit = _number_and_unit(text.strip().removesuffix("%"), SHARE_WANTED)
    if unit or not text.strip().endswith("%") or float(number) > 100:
        raise ValueError(SHARE_WANTED)
    return float(number) / 100


def _number_and_unit(text: str, wanted: str) -> tuple[str, str]:
    found = _PART.fullmatch(text.strip()) if len(text) <= MAX_TEXT_LENGTH else None
    if found is None:
        raise ValueError(wanted)
    return found[1], found[2]
