"""Quantities with units: durations, sizes, rates, shares; and the types of values that are such.

What parses a text raises ValueError, saying what it wants.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from runner.config import reader
from runner.model import Rate

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS_PER_UNIT = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES_PER_UNIT = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
BYTES_PER_UNIT |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
PERIOD_SECONDS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "hour": 3600.0}
PERIOD_SECONDS |= {"d": 86400.0, "day": 86400.0}

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)\s*"
#: The form of each: the functions below read by it, and the JSON Schema has it.
DURATION_PATTERN = rf"\s*({_NUMBER}({'|'.join(SECONDS_PER_UNIT)})\s*)+"
SIZE_PATTERN = rf"\s*{_NUMBER}({'|'.join(BYTES_PER_UNIT)})\s*"
RATE_PATTERN = rf"\s*{_NUMBER}/\s*({'|'.join(PERIOD_SECONDS)})\s*"
SHARE_PATTERN = r"\s*(0*(?:100(?:\.0+)?|[0-9]{1,2}(?:\.[0-9]+)?))\s*%\s*"
_PART = re.compile(_NUMBER + "([A-Za-zµ]+)")

#: Numbers are short: a hostile one must not cost time.
MAX_TEXT_LENGTH = 40
MAX_DURATION = 10 * 365 * 86400


class Written:
    """A quantity that came out of a param: it knows how it was written, so that `${name}` inside a text reads well."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


class WrittenDuration(Written, float):
    """A duration.

    >>> WrittenDuration("1m30s") + 0, str(WrittenDuration("1m30s"))
    (90.0, '1m30s')
    """

    def __new__(cls, text: str) -> WrittenDuration:
        """Make it from its text, which `str` gives back."""
        return super().__new__(cls, parse_duration(text))


class WrittenSize(Written, int):
    """A size.

    >>> WrittenSize("1KiB") + 0, str(WrittenSize("1KiB"))
    (1024, '1KiB')
    """

    def __new__(cls, text: str) -> WrittenSize:
        """Make it from its text, which `str` gives back."""
        return super().__new__(cls, parse_size(text))


def plain_value(value: Any) -> Any:
    """Return a value as user code sees it: durations are floats, sizes are ints.

    >>> plain_value({"pause": WrittenDuration("1m")})
    {'pause': 60.0}
    """
    if isinstance(value, Written):
        return value + 0  # type: ignore[operator]  # each is a number as well
    if isinstance(value, dict):
        return {key: plain_value(inner) for key, inner in value.items()}
    return [plain_value(inner) for inner in value] if isinstance(value, list) else value


def parse_duration(text: str) -> float:
    """Return seconds.

    >>> parse_duration("200ms"), parse_duration("10s"), parse_duration("2h"), parse_duration("1m30s")
    (0.2, 10.0, 7200.0, 90.0)
    >>> parse_duration("10")
    Traceback (most recent call last):
    ValueError: a number and a unit, for instance "200ms", "10s", "2h"
    """
    _match(DURATION_PATTERN, text, 'a number and a unit, for instance "200ms", "10s", "2h"')
    return sum((float(number) * SECONDS_PER_UNIT[unit] for number, unit in _PART.findall(text)), 0.0)


def parse_size(text: str) -> int:
    """Return bytes; KB is 1000 and KiB is 1024.

    >>> parse_size("256MB"), parse_size("64KiB"), parse_size("1.5 KiB")
    (256000000, 65536, 1536)
    """
    number, unit = _match(SIZE_PATTERN, text, 'a number and a unit, for instance "64KiB", "256MB"')
    return int(float(number) * BYTES_PER_UNIT[unit]) if "." in number else int(number) * BYTES_PER_UNIT[unit]


def parse_rate(text: str) -> tuple[float, float]:
    """Return a count and its period in seconds.

    >>> parse_rate("50/s"), parse_rate("100/min")
    ((50.0, 1.0), (100.0, 60.0))
    """
    wanted = 'a number for each period, for instance "50/s", "100/min"'
    count, period = _match(RATE_PATTERN, text, wanted)
    if float(count) == 0:
        raise ValueError(wanted)
    return float(count), PERIOD_SECONDS[period]


def parse_share(text: str) -> float:
    """Return a percentage as a number from 0 to 1.

    >>> parse_share("10%")
    0.1
    """
    return float(_match(SHARE_PATTERN, text, 'a percentage from 0% to 100%, for instance "10%"')[0]) / 100


def _match(pattern: str, text: str, wanted: str) -> tuple[str, ...]:
    found = re.fullmatch(pattern, text) if len(text) <= MAX_TEXT_LENGTH else None
    if found is None:
        raise ValueError(wanted)
    return found.groups()


def _show_duration(value: float) -> str:
    return f"{value / 86400:g}d" if value >= 86400 else f"{value * 1000:g}ms"


def _show_size(value: float) -> str:
    return f"{reader.show_number(value)}B"


def _parse_unit(value: Any, parse: Callable[[str], Any], what: str) -> Any:
    no_unit = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not no_unit:
        reader.check_type(value, str, what)
    try:
        return parse(str(value))
    except ValueError as wanted:
        shown = reader.describe_value(value) + ", which has no unit" * no_unit
        raise reader.InvalidValue("E106", f"must be {what}, not {shown}", str(wanted)) from None


def duration(low: float = 0.0) -> reader.ValueType:
    """Return the type of times; in the model, seconds."""

    def convert(value: Any, at: reader.ValuePlace) -> float:
        if not isinstance(value, WrittenDuration):
            value = _parse_unit(value, WrittenDuration, "a duration")
        return float(reader.check_range(value, low, MAX_DURATION, reader.describe_value(str(value)), _show_duration))

    return reader.ValueType(convert, reader.or_reference(reader.pattern_schema(DURATION_PATTERN)), "a time")


def size(low: int = 1) -> reader.ValueType:
    """Return the type of sizes; in the model, bytes."""

    def convert(value: Any, at: reader.ValuePlace) -> int:
        if not isinstance(value, WrittenSize):
            value = _parse_unit(value, WrittenSize, "a size")
        return int(reader.check_range(value, low, reader.MAX_COUNT, reader.describe_value(str(value)), _show_size))

    return reader.ValueType(convert, reader.or_reference(reader.pattern_schema(SIZE_PATTERN)), "a size")


SIZE = size()
RATE = reader.ValueType(
    lambda value, at: Rate(*_parse_unit(value, parse_rate, "a rate")),
    reader.or_reference(reader.pattern_schema(RATE_PATTERN)),
    '`"50/s"`, `"100/min"`',
)
