"""Converters: one function for each simple kind of `grammar`. Each gives the value or raises `InvalidValue`."""

from __future__ import annotations

import datetime as dt
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config import units
from runner.config.diagnostics import InvalidValue
from runner.config.model import Halt, Rate, Workers
from runner.config.problems import quote_name
from runner.text import clean_text, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.config.grammar import Key

NAME_PATTERN = re.compile(r"[^\W_][\w-]{0,63}|_[\w-]{0,63}")
NAME_WANTED = "a name is up to 64 letters, digits, `_` and `-`"

_SPAN = re.compile(r"([0-9]{1,6})\.\.([0-9]{1,6})")
_CALL = re.compile(r"[^\W\d][\w-]*(?:\.[^\W\d]\w*)*(?::[^\W\d]\w*(?:\.[^\W\d]\w*)*)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def describe_value(value: object) -> str:
    """A value in a message: short ones as they are, others by their kind.

    >>> describe_value("thred"), describe_value(True), describe_value([1]), describe_value({})
    ('"thred"', 'true', 'a list', 'a table')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + clean_text(value, 60) + '"'
    if isinstance(value, (int, float)):
        return clean_text(str(value), 40)
    kinds = {list: "a list", dict: "a table", Path: f'"{value}"', dt.datetime: "a date"}
    return next((word for kind, word in kinds.items() if isinstance(value, kind)), "a date or time")


def wrong_type(wanted: str, value: object) -> InvalidValue:
    """The value has another type than its key wants."""
    return InvalidValue("E103", f"must be {wanted}, not {describe_value(value)}")


def check_range(value: Any, key: Key, shown: str) -> Any:
    """The value, when it lies between `low` and `high` of its key."""
    if key.low is not None and value < key.low:
        raise InvalidValue("E105", f"must be at least {_number(key.low, key)}, not {shown}")
    if key.high is not None and value > key.high:
        raise InvalidValue("E105", f"must be at most {_number(key.high, key)}, not {shown}")
    return value


def _number(value: float, key: Key) -> str:
    if key.kind == "duration":
        return f"{value / 86400:g}d" if value >= 86400 else f"{value * 1000:g}ms"
    return (f"{value:,.0f}" if value >= 1 else f"{value:g}") + ("B" if key.kind == "size" else "")


def _text(value: Any, key: Key) -> str:
    if not isinstance(value, str):
        raise wrong_type("a string", value)
    return value


def _bool(value: Any, key: Key) -> bool:
    if not isinstance(value, bool):
        raise wrong_type("true or false", value)
    return value


def _int(value: Any, key: Key) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type("a whole number", value)
    return int(check_range(value, key, describe_value(value)))


def _float(value: Any, key: Key) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise wrong_type("a number", value)
    return float(check_range(value, key, describe_value(value)))


def _path(value: Any, key: Key) -> Path:
    if not isinstance(value, (str, Path)):
        raise wrong_type("a path", value)
    if not str(value) or "\x00" in str(value):
        raise InvalidValue("E105", "must be a path, not an empty one" if not str(value) else "must be a path")
    return Path(value)


def _unit(value: Any, read: Callable[[str], Any], what: str, wanted: str) -> Any:
    if not isinstance(value, str):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            raise InvalidValue("E106", f"must be {what}, not {describe_value(value)}, which has no unit", wanted)
        raise wrong_type(what, value)
    try:
        return read(value)
    except ValueError:
        raise InvalidValue("E106", f"must be {what}, not {describe_value(value)}", wanted) from None


def _duration(value: Any, key: Key) -> float:
    seconds = value if isinstance(value, units.WrittenDuration) else None
    if seconds is None:
        seconds = _unit(value, units.parse_duration, "a duration", units.DURATION_WANTED)
    return float(check_range(float(seconds), key, describe_value(str(value))))


def _size(value: Any, key: Key) -> int:
    count = value if isinstance(value, units.WrittenSize) else None
    if count is None:
        count = _unit(value, units.parse_size, "a size", units.SIZE_WANTED)
    return int(check_range(int(count), key, describe_value(str(value))))


def _rate(value: Any, key: Key) -> Rate:
    return Rate(*_unit(value, units.parse_rate, "a rate", units.RATE_WANTED))


def _choice(value: Any, key: Key) -> str:
    words = [f'"{one}"' for one in key.choices]
    wanted = ", ".join(words[:-1]) + " or " + words[-1]
    if not isinstance(value, str):
        raise wrong_type(wanted, value)
    if value not in key.choices:
        raise InvalidValue("E105", f"must be {wanted}, not {describe_value(value)}", did_you_mean(value, key.choices))
    return value


def _engine(value: Any, key: Key) -> str:
    if not isinstance(value, str):
        raise wrong_type("the name of an engine", value)
    if not NAME_PATTERN.fullmatch(value):
        raise InvalidValue("E105", f"must be the name of an engine, not {describe_value(value)}", NAME_WANTED)
    return value


def _halt(value: Any, key: Key) -> Halt:
    wanted = '"never", "first", a count or a percentage such as "10%"'
    if value == "never":
        return Halt()
    if value == "first":
        return Halt(count=1)
    if isinstance(value, int) and not isinstance(value, bool):
        return Halt(count=check_range(value, key, describe_value(value)))
    if not isinstance(value, str):
        raise wrong_type(wanted, value)
    try:
        return Halt(share=units.parse_share(value))
    except ValueError:
        raise InvalidValue(
            "E105", f"must be {wanted}, not {describe_value(value)}", did_you_mean(value, ("never", "first"))
        ) from None


def _call(value: Any, key: Key) -> str:
    if not isinstance(value, str):
        raise wrong_type("the name of a function", value)
    if not _CALL.fullmatch(value):
        hint = '"function", "plugin.function" or "package.module:function"'
        raise InvalidValue("E107", f"must name a function, not {describe_value(value)}", hint)
    return value


def _env(value: Any, key: Key) -> dict[str, str]:
    if not isinstance(value, dict):
        raise wrong_type("a table of strings", value)
    for word, text in value.items():
        if not _VARIABLE.fullmatch(word):
            wanted = "letters, digits and `_` make the name of a variable"
            raise InvalidValue("E107", f"cannot have {quote_name(word)}: {wanted}", key=word)
        if not isinstance(text, str):
            raise InvalidValue(
                "E103", f"must have a string for {quote_name(word)}, not {describe_value(text)}", key=word
            )
        if "\x00" in text:
            raise InvalidValue("E105", f"must not have a NUL character in {quote_name(word)}", key=word)
    return dict(value)


def _list(value: Any, key: Key) -> list[Any]:
    if not isinstance(value, list):
        raise wrong_type("a list", value)
    return value


def _any_table(value: Any, key: Key) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong_type("a table", value)
    return value


def usable_cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def named_workers(task: str, count: int, most: int = 0) -> Workers:
    """So many workers with made-up names.

    >>> named_workers("bake", 1).names, named_workers("bake", 2).names
    (('bake',), ('bake-1', 'bake-2'))
    """
    names = (task,) if max(count, most) == 1 else tuple(f"{task}-{number}" for number in range(1, count + 1))
    return Workers(count, max(count, most), names)


def convert_workers(value: Any, key: Key, task: str) -> Workers:
    """A number, a list of names, "auto" or "2..16"; an adaptive one has `most` above `count`."""
    if isinstance(value, list):
        return _listed(value, key)
    if value == "auto":
        return named_workers(task, usable_cores())
    wanted = 'a number, a list of names, "auto" or a range such as "2..16"'
    if isinstance(value, str):
        span = _SPAN.fullmatch(value)
        if span is None:
            raise InvalidValue("E105", f"must be {wanted}, not {describe_value(value)}", did_you_mean(value, ("auto",)))
        low, high = (check_range(int(end), key, describe_value(value)) for end in span.groups())
        if low > high:
            raise InvalidValue(
                "E105", f"must be a range from the smaller to the larger number, not {describe_value(value)}"
            )
        return named_workers(task, low, high)
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(wanted, value)
    return named_workers(task, check_range(value, key, describe_value(value)))


def _listed(value: list[Any], key: Key) -> Workers:
    check_range(len(value), key, f"{len(value)} names")
    seen = set()
    for number, word in enumerate(value):
        if not isinstance(word, str):
            raise InvalidValue("E103", f"must be a list of names, and {describe_value(word)} is none", key=str(number))
        if not word.strip() or not word.isprintable() or len(word) > 64:
            text = f"must not have {describe_value(word)}: a name is up to 64 characters that can be printed"
            raise InvalidValue("E107", text, key=str(number))
        if word in seen:
            raise InvalidValue("E211", f"must not name {quote_name(word)} twice", key=str(number))
        seen.add(word)
    return Workers(len(value), len(value), tuple(value))


SIMPLE_CONVERTERS: dict[str, Callable[[Any, Key], Any]] = {
    "any": lambda value, key: value,
    "any table": _any_table,
    "bool": _bool,
    "call": _call,
    "choice": _choice,
    "duration": _duration,
    "engine": _engine,
    "env": _env,
    "float": _float,
    "halt": _halt,
    "int": _int,
    "list": _list,
    "path": _path,
    "rate": _rate,
    "size": _size,
    "str": _text,
}
