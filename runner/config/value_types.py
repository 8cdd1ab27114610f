"""The kinds of single values: how each is converted, and what the JSON Schema and the reference say of it."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config import units
from runner.config.diagnostics import NAME_WANTED, InvalidValue, check_type, describe_value, wrong_type
from runner.config.reader import ValueType
from runner.model import Halt, Rate, Workers
from runner.problems import quote_name
from runner.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.config.reader import ValuePlace

Schema = dict[str, Any]

#: Whole numbers stay below this: what is beyond is a slip or an attack, and C code under us counts in 64 bits.
MAX_COUNT = 10**15
MAX_WORKERS = 10_000
MAX_DURATION = 10 * 365 * 86400

_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"

# -- schemas ----------------------------------------------------------------------------------

_NUMBER = r"[0-9]+(\.[0-9]+)?\s*"
_DURATION = rf"\s*({_NUMBER}({'|'.join(units.SECONDS_PER_UNIT)})\s*)+"
_SIZE = rf"\s*{_NUMBER}({'|'.join(units.BYTES_PER_UNIT)})\s*"
_RATE = rf"\s*{_NUMBER}/\s*({'|'.join(units.PERIOD_SECONDS)})\s*"
_SHARE = r"\s*(100(\.0*)?|[0-9]{1,2}(\.[0-9]+)?)\s*%\s*"
NAME = r"\w[\w-]{0,63}"

#: A value may be, or hold, `${param}`; what comes out of that only runner knows.
REFERENCE_SCHEMA: Schema = {"type": "string", "pattern": r"\$\{"}


def or_reference(*schemas: Schema) -> Schema:
    """Return the schema of a value, or of a reference to a param that gives it."""
    return {"anyOf": [*schemas, REFERENCE_SCHEMA]}


def pattern_schema(pattern: str) -> Schema:
    """Return the schema of strings that match as a whole."""
    return {"type": "string", "pattern": f"^{pattern}$"}


def type_schema(type_: str, **more: Any) -> Schema:
    """Return the schema of one of JSON's types."""
    return {"type": type_, **more}


def array_schema(items: Schema, **more: Any) -> Schema:
    """Return the schema of a list."""
    return type_schema("array", items=items, **more)


def object_schema(values: Schema, names: str = NAME) -> Schema:
    """Return the schema of a table with any keys of a certain form."""
    return {"type": "object", "propertyNames": {"pattern": f"^{names}$"}, "additionalProperties": values}


# -- plain values -----------------------------------------------------------------------------


class PlainType(ValueType):
    """A value of one of TOML's own types."""

    def __init__(self, type_: type, wanted: str, schema: Schema, description: str) -> None:
        self.type, self.wanted, self.schema, self.description = type_, wanted, schema, description

    def convert_value(self, value: Any, at: ValuePlace) -> Any:
        if not isinstance(value, self.type):
            raise wrong_type(self.wanted, value)
        return value


ANY = PlainType(object, "", {}, "anything")
TEXT = PlainType(str, "a string", {"type": "string"}, "a string")
BOOLEAN = PlainType(bool, "true or false", or_reference({"type": "boolean"}), "`true`, `false`")
LIST = PlainType(list, "a list", or_reference(array_schema({})), "a list")


class PatternType(ValueType):
    """A string of a certain form."""

    description = "a name"

    def __init__(self, pattern: str, wanted: str, code: str, hint: str) -> None:
        self.pattern, self.wanted, self.code, self.hint = pattern, wanted, code, hint
        self.schema = or_reference(pattern_schema(pattern))

    def convert_value(self, value: Any, at: ValuePlace) -> Any:
        check_type(value, str, self.wanted)
        if not re.fullmatch(self.pattern, value):
            raise InvalidValue(self.code, f"must be {self.wanted}, not {describe_value(value)}", self.hint)
        return value


ENGINE = PatternType(NAME, "the name of an engine", "E105", NAME_WANTED)
CALL = PatternType(
    r"[^\W\d][\w-]*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.[^\W\d]\w*)*)?",
    "the name of a function",
    "E107",
    '"function", "plugin.function" or "package.module:function"',
)


class PathType(ValueType):
    """A path in the file system."""

    description = "a path"
    schema = type_schema("string", minLength=1)

    def convert_value(self, value: Any, at: ValuePlace) -> Path:
        if not isinstance(value, (str, Path)):
            raise wrong_type("a path", value)
        if not str(value) or "\x00" in str(value):
            raise InvalidValue("E105", "must be a path, not an empty one" if not str(value) else "must be a path")
        return Path(value)


class ChoiceType(ValueType):
    """One of a few words."""

    def __init__(self, *choices: str) -> None:
        self.choices = choices
        self.schema = or_reference({"enum": list(choices)})
        self.description = ", ".join(f'`"{choice}"`' for choice in choices)

    def convert_value(self, value: Any, at: ValuePlace) -> Any:
        words = [f'"{one}"' for one in self.choices]
        wanted = ", ".join(words[:-1]) + " or " + words[-1]
        check_type(value, str, wanted)
        if value not in self.choices:
            hint = did_you_mean(value, self.choices)
            raise InvalidValue("E105", f"must be {wanted}, not {describe_value(value)}", hint)
        return value


class EnvironmentType(ValueType):
    """Environment variables."""

    description = "a table of strings"
    schema = object_schema({"type": "string"}, _VARIABLE)

    def convert_value(self, value: Any, at: ValuePlace) -> dict[str, str]:
        check_type(value, dict, self.description)
        for word, text in value.items():
            named = quote_name(word)
            if not re.fullmatch(_VARIABLE, word):
                wanted = "letters, digits and `_` make the name of a variable"
                raise InvalidValue("E107", f"cannot have {named}: {wanted}", key=word)
            if not isinstance(text, str):
                raise InvalidValue("E103", f"must have a string for {named}, not {describe_value(text)}", key=word)
            if "\x00" in text:
                raise InvalidValue("E105", f"must not have a NUL character in {named}", key=word)
        return dict(value)


# -- numbers, with and without units ----------------------------------------------------------


class RangeType(ValueType):
    """A value between `low` and `high`, both included; `type_` is what JSON calls it."""

    def __init__(self, low: float, high: float, type_: str = "integer") -> None:
        self.low, self.high = low, high
        self.range_schema = type_schema(type_, minimum=low, maximum=high)
        self.schema = or_reference(self.range_schema)

    def check_range(self, value: Any, shown: str) -> Any:
        """Return the value if it is in the range; `shown` is the value in the message."""
        if value < self.low:
            raise InvalidValue("E105", f"must be at least {self.show_bound(self.low)}, not {shown}")
        if value > self.high:
            raise InvalidValue("E105", f"must be at most {self.show_bound(self.high)}, not {shown}")
        return value

    def show_bound(self, value: float) -> str:
        """Return an end of the range as a message shows it."""
        return f"{value:,.0f}" if value >= 1 else f"{value:g}"


class IntegerType(RangeType):
    """A whole number."""

    def __init__(self, low: int = 1, high: int = MAX_COUNT) -> None:
        super().__init__(low, high)
        self.description = f"a whole number, at least {low}" if low else "a whole number"

    def convert_value(self, value: Any, at: ValuePlace) -> Any:
        check_type(value, int, "a whole number")
        return int(self.check_range(value, describe_value(value)))


class NumberType(RangeType):
    """A number."""

    description = "a number"

    def __init__(self, low: float, high: float) -> None:
        super().__init__(low, high, "number")

    def convert_value(self, value: Any, at: ValuePlace) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
            raise wrong_type("a number", value)
        return float(self.check_range(value, describe_value(value)))


def _parse_unit(value: Any, parse: Callable[[str], Any], what: str, wanted: str) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise InvalidValue("E106", f"must be {what}, not {describe_value(value)}, which has no unit", wanted)
    check_type(value, str, what)
    try:
        return parse(value)
    except ValueError:
        raise InvalidValue("E106", f"must be {what}, not {describe_value(value)}", wanted) from None


class UnitType(RangeType):
    """A number with its unit; `written` is what a param gives, `number` what the model wants."""

    written: type[units.WrittenDuration | units.WrittenSize]
    number: type[float | int]
    what = wanted = ""

    def convert_value(self, value: Any, at: ValuePlace) -> Any:
        found = value if isinstance(value, self.written) else _parse_unit(value, self.written, self.what, self.wanted)
        return self.check_range(self.number(found), describe_value(str(value)))


class DurationType(UnitType):
    """A time; in the model, seconds."""

    description = "a time"
    written, number = units.WrittenDuration, float
    what, wanted = "a duration", units.DURATION_WANTED

    def __init__(self, low: float = 0.0) -> None:
        super().__init__(low, MAX_DURATION)
        self.schema = or_reference(pattern_schema(_DURATION))

    def show_bound(self, value: float) -> str:
        return f"{value / 86400:g}d" if value >= 86400 else f"{value * 1000:g}ms"


class SizeType(UnitType):
    """A size; in the model, bytes."""

    description = "a size"
    written, number = units.WrittenSize, int
    what, wanted = "a size", units.SIZE_WANTED

    def __init__(self) -> None:
        super().__init__(1, MAX_COUNT)
        self.schema = or_reference(pattern_schema(_SIZE))

    def show_bound(self, value: float) -> str:
        return super().show_bound(value) + "B"


class RateType(ValueType):
    """A number of items for each period."""

    description = '`"50/s"`, `"100/min"`'
    schema = or_reference(pattern_schema(_RATE))

    def convert_value(self, value: Any, at: ValuePlace) -> Rate:
        return Rate(*_parse_unit(value, units.parse_rate, "a rate", units.RATE_WANTED))


class HaltType(IntegerType):
    """The number, or the share, of dead items that stops the run."""

    def __init__(self) -> None:
        super().__init__()
        self.description = '`"never"`, `"first"`, a whole number, a percentage'
        self.schema = or_reference({"enum": ["never", "first"]}, self.range_schema, pattern_schema(_SHARE))

    def convert_value(self, value: Any, at: ValuePlace) -> Any:
        if value in {"never", "first"} if isinstance(value, str) else False:
            return Halt(count=1 if value == "first" else None)
        if isinstance(value, int) and not isinstance(value, bool):
            return Halt(count=self.check_range(value, describe_value(value)))
        wanted = '"never", "first", a count or a percentage such as "10%"'
        check_type(value, str, wanted)
        try:
            return Halt(share=units.parse_share(value))
        except ValueError:
            hint = did_you_mean(value, ("never", "first"))
            raise InvalidValue("E105", f"must be {wanted}, not {describe_value(value)}", hint) from None


# -- workers ----------------------------------------------------------------------------------


def usable_cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def named_workers(task: str, count: int) -> Workers:
    """Return `count` workers with made-up names.

    >>> named_workers("bake", 1).names, named_workers("bake", 2).names
    (('bake',), ('bake-1', 'bake-2'))
    """
    names = (task,) if count == 1 else tuple(f"{task}-{number}" for number in range(1, count + 1))
    return Workers(count, count, names)


class WorkersType(RangeType):
    """The number of a task's workers, or their names."""

    description = 'a whole number, names, `"auto"`'

    def __init__(self) -> None:
        super().__init__(1, MAX_WORKERS)
        names = array_schema(type_schema("string", minLength=1, maxLength=64), uniqueItems=True, minItems=1)
        self.schema = or_reference(self.range_schema, names, {"const": "auto"})

    def convert_value(self, value: Any, at: ValuePlace) -> Any:
        made = self.name_workers(value, at.path[1])
        # A default is for every task: the names of its workers come from the task that it is used for.
        return made if at.path[0] == "tasks" else lambda task: self.name_workers(value, task)

    def name_workers(self, value: Any, task: str) -> Workers:
        """Return the workers of a task."""
        if isinstance(value, list):
            return self._listed_workers(value)
        if value == "auto":
            return named_workers(task, usable_cores())
        wanted = 'a number, a list of names or "auto"'
        if isinstance(value, str):
            hint = did_you_mean(value, ("auto",))
            raise InvalidValue("E105", f"must be {wanted}, not {describe_value(value)}", hint)
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(wanted, value)
        return named_workers(task, self.check_range(value, describe_value(value)))

    def _listed_workers(self, value: list[Any]) -> Workers:
        self.check_range(len(value), f"{len(value)} names")
        seen = set()
        for number, word in enumerate(value):
            shown, key = describe_value(word), str(number)
            if not isinstance(word, str):
                raise InvalidValue("E103", f"must be a list of names, and {shown} is not a name", key=key)
            if not word.strip() or not word.isprintable() or len(word) > 64:
                text = f"must not have {shown}: a name is up to 64 characters that can be printed"
                raise InvalidValue("E107", text, key=key)
            if word in seen:
                raise InvalidValue("E211", f"must not name {quote_name(word)} twice", key=key)
            seen.add(word)
        return Workers(len(value), len(value), tuple(value))
