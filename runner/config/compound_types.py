"""The kinds of values that consist of others: lists of strings, names of queues and tasks, arguments, tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.config.diagnostics import AlreadyReported, InvalidValue, check_type, describe_value, wrong_type
from runner.config.params import UNKNOWN, plain_value
from runner.config.reader import ValueType, has_unknown
from runner.config.source_map import VALUE_PART
from runner.config.value_types import (
    LIST,
    NAME,
    ChoiceType,
    IntegerType,
    array_schema,
    object_schema,
    or_reference,
    pattern_schema,
    type_schema,
)
from runner.model import DEFAULT_PORT, Batch, OutputPort

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.config.reader import KeyTable, ValuePlace

Schema = dict[str, Any]

_NAME_SCHEMA = or_reference(pattern_schema(NAME))
_EXCEPTION = r"[^\W\d]\w*(\.[^\W\d]\w*)*"


def _one_or_more(items: Schema) -> Schema:
    """Return the schema of several values, each once; a single one may stand alone."""
    return {"anyOf": [items, array_schema(items, uniqueItems=True)]}


def _names_or(values: Schema) -> Schema:
    """Return the schema of names of queues or tasks, or of a table that says more of each."""
    return {"anyOf": [_one_or_more(_NAME_SCHEMA), object_schema(values)]}


def schema_id(table: KeyTable) -> str:
    """Return the name of a table in the schema."""
    return table.name.replace(" ", "-")


def _table_schema(table: KeyTable) -> Schema:
    return {"$ref": f"#/$defs/{schema_id(table)}"}


# -- lists of strings -------------------------------------------------------------------------


class StringsType(ValueType):
    """Strings; a single one may stand alone."""

    description = "strings"
    schema = _one_or_more(type_schema("string", minLength=1))

    def convert_value(self, value: Any, at: ValuePlace) -> tuple[str, ...]:
        listed = self.expand_value(value)
        if not isinstance(listed, list):
            raise wrong_type("a list of strings", value)
        for number, one in enumerate(listed):
            if not isinstance(one, str) or not one:
                wrong = "is empty" if isinstance(one, str) else "is not a string"
                message = f"`{at.key}` of {at.owner} must be a list of strings, and {describe_value(one)} {wrong}"
                raise at.report_invalid("E103", message, str(number))
        return tuple(listed)

    def expand_value(self, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class ExceptionsType(StringsType):
    """Names of exceptions."""

    description = "names"
    schema = _one_or_more(or_reference(pattern_schema(_EXCEPTION)))

    def convert_value(self, value: Any, at: ValuePlace) -> tuple[str, ...]:
        names = super().convert_value(value, at)
        for number, word in enumerate(names):
            if not all(part.isidentifier() for part in word.split(".")):
                message = f"{describe_value(word)} is not a valid name of an exception"
                raise at.report_invalid("E107", message, str(number))
        return names


# -- queues and tasks of the file -------------------------------------------------------------


class DeadQueueType(ValueType):
    """The name of the queue for dead letters."""

    accepts_unknown = True
    description = "a name"
    schema = _NAME_SCHEMA

    def convert_value(self, value: Any, at: ValuePlace) -> str:
        check_type(value, str, "the name of a queue")
        found = at.reader.find_names(value, "queue", at.path, f"{at.owner} sends its dead letters to")
        if not found:
            raise AlreadyReported
        return found[0]


class QueuesType(ValueType):
    """The names of the queues that a task reads."""

    accepts_unknown = True
    description = "names"
    schema = _one_or_more(_NAME_SCHEMA)

    def convert_value(self, value: Any, at: ValuePlace) -> Any:
        return at.reader.find_names(value, "queue", at.path, f"{at.owner} reads")

    def expand_value(self, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class PortsType(QueuesType):
    """The queues that a task writes: names, or a table of named ports."""

    description = "names, or a table"
    schema = _names_or({"anyOf": [_NAME_SCHEMA, array_schema(_NAME_SCHEMA, uniqueItems=True, minItems=1)]})

    def convert_value(self, value: Any, at: ValuePlace) -> tuple[OutputPort, ...]:
        what = f"{at.owner} writes"
        if not isinstance(value, dict):
            queues = at.reader.find_names(value, "queue", at.path, what)
            return (OutputPort(DEFAULT_PORT, queues),) if queues else ()
        ports = []
        for word, target in value.items():
            path = (*at.path, word)
            if not at.reader.diagnostics.check_name(word, "port", path):
                raise AlreadyReported
            ports.append(OutputPort(word, at.reader.find_names(target, "queue", path, what)))
        return tuple(ports)

    def expand_value(self, value: Any) -> Any:
        listed = super().expand_value(value)
        return {DEFAULT_PORT: listed} if isinstance(listed, list) and listed else listed


class AfterType(QueuesType):
    """The tasks that a task waits for, and what of each."""

    description = "names, or a table"
    _states = ChoiceType("started", "ended", "ok")
    schema = _names_or(_states.schema)

    def convert_value(self, value: Any, at: ValuePlace) -> dict[str, str]:
        what = f"{at.owner} starts after"
        if not isinstance(value, dict):
            return dict.fromkeys(at.reader.find_names(value, "task", at.path, what), "ok")
        made = {}
        for word, state in value.items():
            if has_unknown(state):
                raise AlreadyReported
            other = at.reader.find_name(word, "task", (*at.path, word), what)
            try:
                made[other] = self._states.convert_value(state, at)
            except InvalidValue as wrong:
                message = f"`{at.key}` of {at.owner} {wrong.message}"
                raise at.report_invalid(wrong.code, message, word, VALUE_PART, hint=wrong.hint) from None
        made.pop("", None)
        return made

    def expand_value(self, value: Any) -> Any:
        listed = super().expand_value(value)
        return dict.fromkeys(listed, "ok") if isinstance(listed, list) else listed


# -- arguments of the function ----------------------------------------------------------------


def _convert_argument(value: Any, at: ValuePlace, spot: str) -> Any:
    """Return one argument; UNKNOWN stays, so that the others can be checked."""
    if has_unknown(value):
        at.reader.diagnostics.unknown_paths.add((*at.path, spot))
        return UNKNOWN
    return plain_value(value)


class PositionalType(ValueType):
    """Positional arguments."""

    accepts_unknown = True
    description = "a list"
    schema = LIST.schema

    def convert_value(self, value: Any, at: ValuePlace) -> Any:
        check_type(value, list, "a list")
        return tuple(_convert_argument(one, at, str(number)) for number, one in enumerate(value))


class KeywordsType(ValueType):
    """Keyword arguments."""

    accepts_unknown = True
    description = "a table"
    schema = type_schema("object")

    def convert_value(self, value: Any, at: ValuePlace) -> dict[str, Any]:
        check_type(value, dict, "a table")
        return {word: _convert_argument(one, at, word) for word, one in value.items()}


# -- tables -----------------------------------------------------------------------------------


class TableType(ValueType):
    """A table of further keys; `made` is the class of the model that it becomes, a dict without one."""

    accepts_unknown = True

    def __init__(self, table: KeyTable, made: Callable[..., Any] | None = None) -> None:
        self.table, self.made = table, made
        self.schema = _table_schema(table)
        self.description = f"a table of {', '.join(f'`{name}`' for name in table)}"

    def convert_value(self, value: Any, at: ValuePlace) -> Any:
        diagnostics = at.reader.diagnostics
        before = len(diagnostics.problems)
        owner = f"`{at.key}` of {at.owner}" if len(at.path) > 1 else f"[{at.key}]"
        found = at.reader.convert_table(value, self.table, at.path, owner)
        if self.made is None:
            return found
        unknown = any(path[: len(at.path)] == at.path for path in diagnostics.unknown_paths)
        if len(diagnostics.problems) > before or unknown:
            raise AlreadyReported
        return self.made(**found)

    def expand_value(self, value: Any) -> Any:
        if self.made is None or not isinstance(value, dict):
            return value
        return {name: key.parse_default() for name, key in self.table.items() if key.default} | value


class BatchType(TableType):
    """A number of items, or a table that says more."""

    _items = IntegerType()

    def __init__(self, table: KeyTable, made: Callable[..., Any]) -> None:
        super().__init__(table, made)
        self.schema = or_reference(self._items.range_schema, self.schema)
        self.description = f"a number, or {self.description}"

    def convert_value(self, value: Any, at: ValuePlace) -> Any:
        return (
            super().convert_value(value, at) if isinstance(value, dict) else Batch(self._items.convert_value(value, at))
        )

    def expand_value(self, value: Any) -> Any:
        return {"items": value} if isinstance(value, int) else super().expand_value(value)


class NamedTablesType(ValueType):
    """Tables by their names: `[queues]`, `[tasks]`. `build` reads them one by one."""

    def __init__(self, table: KeyTable) -> None:
        self.schema = object_schema(_table_schema(table))


class ParamsType(ValueType):
    """The declarations of `[params]`: values, or tables; `params_table` reads them."""

    def __init__(self, table: KeyTable) -> None:
        plain = {"type": ["string", "number", "boolean", "array"]}
        needed = {"anyOf": [{"required": ["default"]}, {"required": ["required"]}]}
        self.schema = object_schema({"anyOf": [plain, {"allOf": [_table_schema(table), needed]}]})
