"""Tables by the grammar: keys, the types of their values, names that must exist; and the problems of one file."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.config.source_map import VALUE_PART
from runner.config.toml import parse_value
from runner.problems import Problem, nearest_location, quote_name, sorted_problems
from runner.text import MAX_COMPARED_WORDS, clean_text, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from runner.config.source_map import KeyPath, SourceMap
    from runner.problems import Severity

#: A table with at most this many keys has them all in the hint for an unknown one.
_MAX_LISTED_KEYS = 9
#: So many problems are collected; `render` shows fewer.
MAX_COLLECTED_PROBLEMS = 200
#: So many words are compared in all, each some 40 µs, to find those that were meant.
_COMPARED = 10 * MAX_COMPARED_WORDS
_HINTED = 50

#: Whole numbers stay below this: what is beyond is a slip or an attack, and C code under us counts in 64 bits.
MAX_COUNT = 10**15
NAME_PATTERN = r"\w[\w-]{0,63}"
NAME_WANTED = "a name is up to 64 letters, digits, `_` and `-`"
#: Stands for a value that could not be found out; code that meets it stays silent, because the problem is reported.
UNKNOWN: Any = type("Unknown", (), {"__repr__": lambda self: "unknown", "__slots__": ()})()


class InvalidValue(Exception):
    """A value is wrong; the reader, which knows its key and place, makes a `Problem` of it. `key` names a key below."""

    def __init__(self, code: str, message: str, hint: str = "", key: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint, self.key = code, message, hint, key


class AlreadyReported(Exception):
    """A value is unusable, and the report already says why."""


class TooManyProblems(Exception):
    """The file has more problems than a person reads: looking on would only cost time."""


def describe_value(value: object) -> str:
    """Return a value as a message shows it: short ones as they are, others by their kind.

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


def wrong_type(wanted: str, value: object, code: str = "E103", hint: str = "") -> InvalidValue:
    """Return the error of a value that has another type, or another form, than its key wants."""
    return InvalidValue(code, f"must be {wanted}, not {describe_value(value)}", hint)


def check_type(value: Any, type_: type, wanted: str) -> None:
    """Raise `wrong_type` if the value has another type; true and false are not numbers."""
    if not isinstance(value, type_) or (isinstance(value, bool) and type_ is int):
        raise wrong_type(wanted, value)


def show_number(value: float) -> str:
    """Return a number as a message shows it."""
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def check_range(
    value: Any, low: float, high: float, shown: str, show_bound: Callable[[float], str] = show_number
) -> Any:
    """Return the value if it is between both bounds, or on one; `shown` is the value in the message."""
    if value < low:
        raise InvalidValue("E105", f"must be at least {show_bound(low)}, not {shown}")
    if value > high:
        raise InvalidValue("E105", f"must be at most {show_bound(high)}, not {shown}")
    return value


def or_reference(*schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a value that may be, or hold, `${param}`; what comes out of that only runner knows."""
    return {"anyOf": [*schemas, {"type": "string", "pattern": r"\$\{"}]}


def pattern_schema(pattern: str) -> dict[str, Any]:
    """Return the schema of a string of a certain form."""
    return {"type": "string", "pattern": f"^{pattern}$"}


class ValueType(NamedTuple):
    """A type of values: how one is converted, and what the schema and the reference say of it.

    `convert` returns a value as the model wants it; it raises `InvalidValue`, or `AlreadyReported`. `expand` returns
    the long form of a value that has a short one. `accepts_unknown`: `convert` accepts values with reported holes in
    them; for all other types the reader stays silent. `description` is the column *value* of the reference.
    """

    convert: Callable[[Any, ValuePlace], Any]
    schema: dict[str, Any]
    description: str = ""
    expand: Callable[[Any], Any] = lambda value: value
    accepts_unknown: bool = False


class Key(NamedTuple):
    """One key of a table: the type of its value, what it means, and its default as a file would say it."""

    name: str
    type: ValueType
    help: str
    default: str = ""
    required: bool = False

    def parse_default(self) -> Any:
        """Return the default as a value; None if there is none, or only prose such as "the task's own name"."""
        value = parse_value(self.default)
        return None if value == self.default else value


class KeyTable(dict[str, Key]):
    """The keys that a table may have."""

    def __init__(self, name: str, *keys: Key) -> None:
        super().__init__((key.name, key) for key in keys)
        self.name = name
        self.schema_id = name.replace(" ", "-")
        self.reference_schema = {"$ref": f"#/$defs/{self.schema_id}"}

    def describe(self) -> dict[str, Any]:
        """Return the schema of such a table."""
        properties = {key.name: {"description": key.help, **key.type.schema} for key in self.values()}
        for key in self.values():
            if (default := key.parse_default()) is not None:
                properties[key.name]["default"] = default
        required = [key.name for key in self.values() if key.required]
        made = {"type": "object", "additionalProperties": False, "properties": properties}
        return {**made, "required": required} if required else made


class ValuePlace(NamedTuple):
    """The place of a value that is converted: the reader that converts, its key, its path, and who has it."""

    reader: Reader
    key: str
    path: KeyPath
    owner: str


class Reader:
    """Converts the tables of one file, and collects its problems with their places.

    `homes` are the tables that a misplaced key may belong to; `names` are the queues, tasks and params that exist.
    """

    def __init__(self, source_map: SourceMap, homes: Mapping[str, KeyTable] | None = None) -> None:
        self.source_map = source_map
        self.homes = homes or {}
        self.names: dict[str, Collection[str]] = {"queue": (), "task": (), "param": ()}
        self.problems: list[Problem] = []
        #: Paths whose values are wrong or missing for a reason that is reported: nothing may be concluded from them.
        self.unknown_paths: set[KeyPath] = set()
        self._compared = 0

    def add_problem(self, code: str, message: str, path: KeyPath, hint: str = "", severity: Severity = "error") -> None:
        """Add a problem at the key (or, with `VALUE_PART` as its last part, the value) of `path`."""
        if len(self.problems) > MAX_COLLECTED_PROBLEMS:
            raise TooManyProblems
        place = nearest_location(self.source_map, path, self.source_map.file)
        self.problems.append(Problem(code, message, place, severity, hint))

    def finished_problems(self) -> list[Problem]:
        """Return all problems, sorted by place, as they may be shown."""
        return sorted_problems(map(self.source_map.complete, self.problems))

    def suggest_nearest(self, word: str, known: Iterable[str]) -> str:
        """Return `did you mean ...?`; nothing in a file with more mistakes than a search for each may take time."""
        if len(self.problems) >= _HINTED or self._compared >= _COMPARED:
            return ""
        words = list(known)
        self._compared += min(len(words), MAX_COMPARED_WORDS)
        return did_you_mean(word, words)

    def check_name(self, word: str, what: str, path: KeyPath) -> bool:
        """Return True if the word can be the name of a task, a queue, ...; report it if it cannot."""
        if re.fullmatch(NAME_PATTERN, word):
            return True
        self.add_problem("E107", f"{quote_name(word)} is not a valid {what} name", path, NAME_WANTED)
        return False

    def convert_table(self, raw: Any, table: KeyTable, path: KeyPath, owner: str) -> dict[str, Any]:
        """Return the keys of one table, converted; what is wrong is reported and left out."""
        if raw is UNKNOWN:
            return {}
        if not isinstance(raw, dict):
            text = f"{owner} must be a table, not {describe_value(raw)}"
            self.add_problem("E103", text, (*path, VALUE_PART))
            return {}
        made = {}
        for word, value in raw.items():
            if (key := table.get(word)) is not None:
                try:
                    made[word] = self.convert_value(value, key, (*path, word), owner)
                except AlreadyReported:
                    self.unknown_paths.add((*path, word))
            else:
                self._report_unknown(word, table, path, owner)
        for key in table.values():
            if key.required and key.name not in raw and (*path, key.name) not in self.unknown_paths:
                self.add_problem("E109", f"{owner} needs `{key.name}`", path)
        return made

    def _report_unknown(self, word: str, table: KeyTable, path: KeyPath, owner: str) -> None:
        """Report an unknown key; the one that was probably meant is not missing, but unknown."""
        hint = self.suggest_nearest(word, table)
        if hint:
            self.unknown_paths.add((*path, hint.split("`")[1]))
        elif homes := [label for label, home in self.homes.items() if word in home]:
            hint = f"it is a key of {homes[0]}" if any(table is home for home in self.homes.values()) else ""
        if not hint and len(table) <= _MAX_LISTED_KEYS:
            hint = f"known: {', '.join(quote_name(key) for key in table)}"
        self.add_problem("E104", f"unknown key {quote_name(word)} in {owner}", (*path, word), hint)

    def convert_value(self, value: Any, key: Key, path: KeyPath, owner: str) -> Any:
        """Return one value as the type of its key wants it; raises `AlreadyReported`."""
        if has_unknown(value) if not key.type.accepts_unknown else value is UNKNOWN:
            raise AlreadyReported
        try:
            return key.type.convert(value, ValuePlace(self, key.name, path, owner))
        except InvalidValue as wrong:
            message = f"`{key.name}` of {owner} {wrong.message}"
            self.add_problem(wrong.code, message, (*path, wrong.key or VALUE_PART), wrong.hint)
            raise AlreadyReported from None

    def find_names(self, value: Any, kind: str, path: KeyPath, what: str) -> tuple[str, ...]:
        """Return names of queues or tasks, each of which must exist; a single one may stand alone."""
        if value is UNKNOWN:
            raise AlreadyReported
        listed = [value] if isinstance(value, str) else value
        check_type(listed, list, f"names of {kind}s")
        found: dict[str, None] = {}
        for number, word in enumerate(listed):
            spot = (*path, str(number)) if isinstance(value, list) else (*path, VALUE_PART)
            if word is UNKNOWN:  # the others are looked at all the same
                self.unknown_paths.add(path)
                continue
            if not isinstance(word, str):
                message = f"{what} a {kind}, and {describe_value(word)} is not the name of one"
                self.add_problem("E103", message, spot)
                raise AlreadyReported
            if word in found:
                self.add_problem("E211", f"{what} {kind} {quote_name(word)} twice", spot)
            found[self.find_name(word, kind, spot, what)] = None
        found.pop("", None)
        return tuple(found)

    def find_name(self, word: str, kind: str, spot: KeyPath, what: str) -> str:
        """Return the name if it exists; if not, report it and return the one that was probably meant, or ""."""
        if word in self.names[kind] or (f"{kind}s",) in self.unknown_paths:
            return word
        hint = self.suggest_nearest(word, self.names[kind])
        code = {"queue": "E203", "task": "E201", "param": "E111"}[kind]
        self.add_problem(code, f"{what} {kind} {quote_name(word)}, which does not exist", spot, hint)
        if not hint:
            self.unknown_paths.update((spot, spot[:3]))
        return hint.split("`")[1] if hint else ""


def has_unknown(value: Any) -> bool:
    """Return True if a problem with this value, or with a part of it, is reported already."""
    if isinstance(value, (dict, list)):
        return any(map(has_unknown, value.values() if isinstance(value, dict) else value))
    return value is UNKNOWN
