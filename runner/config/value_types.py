"""The types of values: how each is converted, and what the JSON Schema and the reference say of it."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.cgroups import usable_cpus
from runner.config import units
from runner.config.reader import (
    MAX_COUNT,
    NAME_PATTERN,
    NAME_WANTED,
    UNKNOWN,
    AlreadyReported,
    InvalidValue,
    Key,
    ValueType,
    check_range,
    check_type,
    describe_value,
    has_unknown,
    or_reference,
    pattern_schema,
    wrong_type,
)
from runner.model import DEFAULT_PORT, Batch, Halt, OutputPort
from runner.problems import quote_name
from runner.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.config.reader import KeyTable, ValuePlace

Schema = dict[str, Any]

MAX_WORKERS = 10_000

_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
_CALL = r"[^\W\d][\w-]*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.[^\W\d]\w*)*)?"
_WORKER_RANGE = r"([0-9]{1,9})\.\.([0-9]{1,9})"
_EXCEPTION = r"[^\W\d]\w*(\.[^\W\d]\w*)*"


def _range_schema(low: float, high: float, type_: str = "integer") -> Schema:
    return {"type": type_, "minimum": low, "maximum": high}


def _object_schema(values: Schema, names: str = NAME_PATTERN) -> Schema:
    return {"type": "object", "propertyNames": {"pattern": f"^{names}$"}, "additionalProperties": values}


def _one_or_more(items: Schema) -> Schema:
    """Return the schema of several values, each once; a single one may stand alone."""
    return {"anyOf": [items, {"type": "array", "items": items, "uniqueItems": True}]}


def _names_or(values: Schema) -> Schema:
    """Return the schema of names of queues or tasks, or of a table that says more of each."""
    return {"anyOf": [_one_or_more(_NAME_SCHEMA), _object_schema(values)]}


_NAME_SCHEMA = or_reference(pattern_schema(NAME_PATTERN))
_WORKER_SCHEMA = {"type": "string", "minLength": 1, "maxLength": 64}


def _plain(type_: type, wanted: str, schema: Schema, description: str = "") -> ValueType:
    """Return a value of one of TOML's own types."""

    def convert(value: Any, at: ValuePlace) -> Any:
        check_type(value, type_, wanted)
        return value

    return ValueType(convert, schema, description or wanted)


ANY = _plain(object, "anything", {})
TEXT = _plain(str, "a string", {"type": "string"})
BOOLEAN = _plain(bool, "true or false", or_reference({"type": "boolean"}), "`true`, `false`")
LIST = _plain(list, "a list", or_reference({"type": "array", "items": {}}))


def _matching(pattern: str, wanted: str, code: str, hint: str) -> ValueType:
    """Return a string of a certain form."""

    def convert(value: Any, at: ValuePlace) -> Any:
        check_type(value, str, wanted)
        if not re.fullmatch(pattern, value):
            raise wrong_type(wanted, value, code, hint)
        return value

    return ValueType(convert, or_reference(pattern_schema(pattern)), "a name")


ENGINE = _matching(NAME_PATTERN, "the name of an engine", "E105", NAME_WANTED)
ADDRESS = _matching(r"[^\s]*:\d{1,5}", "an address", "E105", 'such as "10.0.0.7:0" (any port) or "0.0.0.0:7000"')
CALL = _matching(_CALL, "the name of a function", "E107", '"function", "plugin.function" or "package.module:function"')


def _convert_path(value: Any, at: ValuePlace) -> Path:
    if not isinstance(value, (str, Path)):
        raise wrong_type("a path", value)
    if not str(value) or "\x00" in str(value):
        raise InvalidValue("E105", "must be a path, not an empty one" if not str(value) else "must be a path")
    return Path(value)


PATH = ValueType(_convert_path, {"type": "string", "minLength": 1}, "a path")


def choice(*choices: str) -> ValueType:
    """Return the type of one of a few words."""
    words = [f'"{one}"' for one in choices]
    wanted = ", ".join(words[:-1]) + " or " + words[-1]

    def convert(value: Any, at: ValuePlace) -> Any:
        check_type(value, str, wanted)
        if value not in choices:
            raise wrong_type(wanted, value, "E105", did_you_mean(value, choices))
        return value

    return ValueType(convert, or_reference({"enum": list(choices)}), ", ".join(f"`{word}`" for word in words))


def _convert_environment(value: Any, at: ValuePlace) -> dict[str, str]:
    check_type(value, dict, "a table of strings")
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


ENVIRONMENT = ValueType(_convert_environment, _object_schema({"type": "string"}, _VARIABLE), "a table of strings")


def integer(low: int = 1, high: int = MAX_COUNT) -> ValueType:
    """Return the type of whole numbers in a range."""

    def convert(value: Any, at: ValuePlace) -> int:
        check_type(value, int, "a whole number")
        return int(check_range(value, low, high, describe_value(value)))

    description = f"a whole number, at least {low}" if low else "a whole number"
    return ValueType(convert, or_reference(_range_schema(low, high)), description)


def number(low: float, high: float) -> ValueType:
    """Return the type of numbers in a range."""

    def convert(value: Any, at: ValuePlace) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
            raise wrong_type("a number", value)
        return float(check_range(value, low, high, describe_value(value)))

    return ValueType(convert, or_reference(_range_schema(low, high, "number")), "a number")


def _convert_halt(value: Any, at: ValuePlace) -> Halt:
    if isinstance(value, str) and value in {"never", "first"}:
        return Halt(count=1 if value == "first" else None)
    if isinstance(value, int) and not isinstance(value, bool):
        return Halt(count=check_range(value, 1, MAX_COUNT, describe_value(value)))
    wanted = '"never", "first", a count or a percentage such as "10%"'
    check_type(value, str, wanted)
    try:
        return Halt(share=units.parse_share(value))
    except ValueError:
        raise wrong_type(wanted, value, "E105", did_you_mean(value, ("never", "first"))) from None


#: The number, or the share, of dead items that stops the run.
HALT = ValueType(
    _convert_halt,
    or_reference({"enum": ["never", "first"]}, _range_schema(1, MAX_COUNT), pattern_schema(units.SHARE_PATTERN)),
    '`"never"`, `"first"`, a whole number, a percentage',
)


def named_workers(task: str, count: int) -> tuple[str, ...]:
    """Return the names of `count` workers.

    >>> named_workers("bake", 1), named_workers("bake", 2)
    (('bake',), ('bake-1', 'bake-2'))
    """
    return (task,) if count == 1 else tuple(f"{task}-{number}" for number in range(1, count + 1))


def _convert_workers(value: Any, at: ValuePlace) -> Callable[[str], tuple[tuple[str, ...], int]]:
    """Return what makes the workers of a task: a default is for every task, and their names come from each.

    It gives their names, and the least number of a range, whose names are those of the most; 0: there is no range.
    """
    _name_workers(value, "")
    return partial(_name_workers, value)


def are_auto_workers(named: Any) -> bool:
    """Return True if what `WORKERS` has made of a value is "auto"."""
    return isinstance(named, partial) and named.args == ("auto",)


def _name_workers(value: Any, task: str) -> tuple[tuple[str, ...], int]:
    if isinstance(value, list):
        return _listed_workers(value), 0
    if value == "auto":
        return named_workers(task, usable_cpus()), 0
    wanted = 'a number, a list of names, "auto" or a range such as "2..16"'
    if isinstance(value, str):
        return _range_of_workers(value, task, wanted)
    check_type(value, int, wanted)
    return named_workers(task, check_range(value, 1, MAX_WORKERS, describe_value(value))), 0


def _range_of_workers(value: str, task: str, wanted: str) -> tuple[tuple[str, ...], int]:
    found = re.fullmatch(_WORKER_RANGE, value)
    if found is None:
        raise wrong_type(wanted, value, "E105", did_you_mean(value, ("auto",)))
    least, most = (check_range(int(end), 1, MAX_WORKERS, describe_value(value)) for end in found.groups())
    if least > most:
        raise InvalidValue("E105", f'must begin with the smaller number: "{most}..{least}"')
    return named_workers(task, most), least if least < most else 0


def choose_workers(
    name_workers: Callable[[str], tuple[tuple[str, ...], int]], task: str, *, has_inputs: bool
) -> tuple[tuple[str, ...], int]:
    """Return the names of a task's workers, and the least number of a range.

    For a task without inputs nothing waits: a range that is the default for all tasks is its lower end there.
    """
    names, least = name_workers(task)
    return (names, least) if has_inputs or not least else (named_workers(task, least), 0)


def _listed_workers(value: list[Any]) -> tuple[str, ...]:
    check_range(len(value), 1, MAX_WORKERS, f"{len(value)} names")
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
    return tuple(value)


WORKERS = ValueType(
    _convert_workers,
    or_reference(
        _range_schema(1, MAX_WORKERS),
        {"type": "array", "items": _WORKER_SCHEMA, "uniqueItems": True, "minItems": 1},
        {"const": "auto"},
        pattern_schema(r"[1-9][0-9]*\.\.[1-9][0-9]*"),
    ),
    'a whole number, names, `"auto"`, a range',
)


def _expand_single(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _convert_strings(value: Any, at: ValuePlace) -> tuple[str, ...]:
    listed = _expand_single(value)
    check_type(listed, list, "a list of strings")
    for number, one in enumerate(listed):
        if not isinstance(one, str) or not one:
            wrong = "is empty" if isinstance(one, str) else "is not a string"
            text = f"must be a list of strings, and {describe_value(one)} {wrong}"
            raise InvalidValue("E103", text, key=str(number))
    return tuple(listed)


def _convert_exceptions(value: Any, at: ValuePlace) -> tuple[str, ...]:
    names = _convert_strings(value, at)
    for number, word in enumerate(names):
        if not all(part.isidentifier() for part in word.split(".")):
            message = f"{describe_value(word)} is not a valid name of an exception"
            at.reader.add_problem("E107", message, (*at.path, str(number)))
            raise AlreadyReported
    return names


STRINGS = ValueType(
    _convert_strings, _one_or_more({"type": "string", "minLength": 1}), "strings", expand=_expand_single
)
EXCEPTIONS = ValueType(
    _convert_exceptions, _one_or_more(or_reference(pattern_schema(_EXCEPTION))), "names", expand=_expand_single
)


def _convert_dead_queue(value: Any, at: ValuePlace) -> str:
    check_type(value, str, "the name of a queue")
    found = at.reader.find_names(value, "queue", at.path, f"{at.owner} sends its dead letters to")
    if not found:
        raise AlreadyReported
    return found[0]


def _convert_ports(value: Any, at: ValuePlace) -> tuple[OutputPort, ...]:
    what = f"{at.owner} writes"
    if not isinstance(value, dict):
        queues = at.reader.find_names(value, "queue", at.path, what)
        return (OutputPort(DEFAULT_PORT, queues),) if queues else ()
    ports = []
    for word, target in value.items():
        path = (*at.path, word)
        if not at.reader.check_name(word, "port", path):
            raise AlreadyReported
        ports.append(OutputPort(word, at.reader.find_names(target, "queue", path, what)))
    return tuple(ports)


def _expand_ports(value: Any) -> Any:
    listed = _expand_single(value)
    return {DEFAULT_PORT: listed} if isinstance(listed, list) and listed else listed


#: A state in the table `after`; its problems bear the name of that key.
_STATE = Key("after", choice("started", "ended", "ok"), "")


def _convert_after(value: Any, at: ValuePlace) -> dict[str, str]:
    what = f"{at.owner} starts after"
    if not isinstance(value, dict):
        return dict.fromkeys(at.reader.find_names(value, "task", at.path, what), "ok")
    made = {}
    for word, state in value.items():
        path = (*at.path, word)
        other = at.reader.find_name(word, "task", path, what)
        made[other] = at.reader.convert_value(state, _STATE, path, at.owner)
    made.pop("", None)
    return made


def _expand_after(value: Any) -> Any:
    listed = _expand_single(value)
    return dict.fromkeys(listed, "ok") if isinstance(listed, list) else listed


DEAD_QUEUE = ValueType(_convert_dead_queue, _NAME_SCHEMA, "a name", accepts_unknown=True)
QUEUES = ValueType(
    lambda value, at: at.reader.find_names(value, "queue", at.path, f"{at.owner} reads"),
    _one_or_more(_NAME_SCHEMA),
    "names",
    expand=_expand_single,
    accepts_unknown=True,
)
PORTS = ValueType(
    _convert_ports,
    _names_or({"anyOf": [_NAME_SCHEMA, {"type": "array", "items": _NAME_SCHEMA, "uniqueItems": True, "minItems": 1}]}),
    "names, or a table",
    expand=_expand_ports,
    accepts_unknown=True,
)
AFTER = ValueType(
    _convert_after, _names_or(_STATE.type.schema), "names, or a table", expand=_expand_after, accepts_unknown=True
)


def _convert_argument(value: Any, at: ValuePlace, spot: str) -> Any:
    """Return one argument; UNKNOWN stays, so that the others can be checked."""
    if has_unknown(value):
        at.reader.unknown_paths.add((*at.path, spot))
        return UNKNOWN
    return units.plain_value(value)


def _convert_args(value: Any, at: ValuePlace) -> tuple[Any, ...]:
    check_type(value, list, "a list")
    return tuple(_convert_argument(one, at, str(number)) for number, one in enumerate(value))


def _convert_kwargs(value: Any, at: ValuePlace) -> dict[str, Any]:
    check_type(value, dict, "a table")
    return {word: _convert_argument(one, at, word) for word, one in value.items()}


ARGS = ValueType(_convert_args, LIST.schema, "a list", accepts_unknown=True)
KWARGS = ValueType(_convert_kwargs, {"type": "object"}, "a table", accepts_unknown=True)


def table_of(keys: KeyTable, made: Callable[..., Any] | None = None) -> ValueType:
    """Return the type of a table of further keys; `made` is the class of the model that it becomes, if not a dict."""

    def convert(value: Any, at: ValuePlace) -> Any:
        before = len(at.reader.problems)
        owner = f"`{at.key}` of {at.owner}" if len(at.path) > 1 else f"[{at.key}]"
        found = at.reader.convert_table(value, keys, at.path, owner)
        if made is None:
            return found
        unknown = any(path[: len(at.path)] == at.path for path in at.reader.unknown_paths)
        if len(at.reader.problems) > before or unknown:
            raise AlreadyReported
        return made(**found)

    def expand(value: Any) -> Any:
        if made is None or not isinstance(value, dict):
            return value
        return {name: key.parse_default() for name, key in keys.items() if key.default} | value

    description = f"a table of {', '.join(f'`{name}`' for name in keys)}"
    return ValueType(convert, keys.reference_schema, description, expand=expand, accepts_unknown=True)


def batch_of(keys: KeyTable) -> ValueType:
    """Return the type of a number of items, or a table that says more."""
    items, table = integer(), table_of(keys, Batch)

    def convert(value: Any, at: ValuePlace) -> Any:
        return table.convert(value, at) if isinstance(value, dict) else Batch(items.convert(value, at))

    def expand(value: Any) -> Any:
        return {"items": value} if isinstance(value, int) else table.expand(value)

    schema = or_reference(_range_schema(1, MAX_COUNT), table.schema)
    return ValueType(convert, schema, f"a number, or {table.description}", expand=expand, accepts_unknown=True)


def named_tables(keys: KeyTable) -> ValueType:
    """Return the type of tables by their names, `[queues]` and `[tasks]`, which `build` reads one by one."""
    return ValueType(ANY.convert, _object_schema(keys.reference_schema))


def declarations(keys: KeyTable) -> ValueType:
    """Return the type of `[params]`, values or tables, which `params` reads."""
    plain = {"type": ["string", "number", "boolean", "array"]}
    needed = {"anyOf": [{"required": ["default"]}, {"required": ["required"]}]}
    return ValueType(ANY.convert, _object_schema({"anyOf": [plain, {"allOf": [keys.reference_schema, needed]}]}))
