"""The grammar as JSON Schema, draft 2020-12, for editors and other tools.

A schema knows types, names, ranges and units, and nothing of what belongs together; `runner check` knows that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tomli

from runner.config import grammar

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.config.grammar import Key

Schema = dict[str, Any]

_NUMBER = r"[0-9]+(\.[0-9]+)?\s*"
_DURATION = rf"^\s*({_NUMBER}(us|µs|ms|s|m|h|d)\s*)+$"
_SIZE = rf"^\s*{_NUMBER}(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)\s*$"
_RATE = rf"^\s*{_NUMBER}/\s*(s|sec|m|min|h|hour|d|day)\s*$"
_SHARE = r"^\s*(100(\.0*)?|[0-9]{1,2}(\.[0-9]+)?)\s*%\s*$"
_NAME = r"^\w[\w-]{0,63}$"
_CALL = r"^[^\W\d][\w-]*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.[^\W\d]\w*)*)?$"
_EXCEPTION = r"^[^\W\d]\w*(\.[^\W\d]\w*)*$"

#: A value may be, or hold, `${param}`; what comes out of that only runner knows.
REFERENCE_SCHEMA: Schema = {"type": "string", "pattern": r"\$\{"}


def build_schema() -> Schema:
    """The schema of the whole file."""
    tables = [name for name in grammar.TABLES if name != "top"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "runner",
        "description": "A file of tasks and queues for `runner run`.",
        **_table("top"),
        "required": ["tasks"],
        "$defs": {_id(name): _table(name) for name in tables},
    }


def _id(table: str) -> str:
    return table.replace(" ", "-")


def _ref(table: str) -> Schema:
    return {"$ref": f"#/$defs/{_id(table)}"}


def _table(name: str) -> Schema:
    keys = grammar.TABLES[name]
    made: Schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {key.name: _key(key) for key in keys.values()},
    }
    required = [key.name for key in keys.values() if key.required]
    return {**made, "required": required} if required else made


def _key(key: Key) -> Schema:
    made = {"description": key.help, **_KINDS[key.kind](key)}
    default = _default(key)
    if default is not None:
        made["default"] = default
    return made


def _default(key: Key) -> Any:
    try:
        return tomli.loads(f"v = {key.default}")["v"] if key.default else None
    except tomli.TOMLDecodeError:  # prose, such as "what the function declares"
        return None


def _or_reference(*schemas: Schema) -> Schema:
    return {"anyOf": [*schemas, REFERENCE_SCHEMA]}


def _text(pattern: str) -> Schema:
    return {"type": "string", "pattern": pattern}


def _bounded(key: Key, kind: str) -> Schema:
    low = {} if key.low is None else {"minimum": key.low}
    high = {} if key.high is None else {"maximum": key.high}
    return {"type": kind, **low, **high}


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _one_or_more(items: Schema) -> Schema:
    """Several, each once; a single one may stand alone."""
    return {"anyOf": [items, _list(items, uniqueItems=True)]}


def _object(values: Schema, names: str = _NAME) -> Schema:
    return {"type": "object", "propertyNames": {"pattern": names}, "additionalProperties": values}


_NAMES = _or_reference(_text(_NAME))


def _workers(key: Key) -> Schema:
    names = _list({"type": "string", "minLength": 1, "maxLength": 64}, uniqueItems=True, minItems=1)
    return _or_reference(_bounded(key, "integer"), names, {"const": "auto"}, _text(r"^[0-9]{1,6}\.\.[0-9]{1,6}$"))


def _ports(key: Key) -> Schema:
    targets = {"anyOf": [_NAMES, _list(_NAMES, uniqueItems=True, minItems=1)]}
    return {"anyOf": [_one_or_more(_NAMES), _object(targets)]}


def _after(key: Key) -> Schema:
    states = _or_reference({"enum": ["started", "ended", "ok"]})
    return {"anyOf": [_one_or_more(_NAMES), _object(states)]}


def _halt(key: Key) -> Schema:
    return _or_reference({"enum": ["never", "first"]}, _bounded(key, "integer"), _text(_SHARE))


def _params(key: Key) -> Schema:
    plain = {"type": ["string", "number", "boolean", "array"]}
    long = {"allOf": [_ref("param"), {"anyOf": [{"required": ["default"]}, {"required": ["required"]}]}]}
    return _object({"anyOf": [plain, long]})


_ANY: Schema = {}
_KINDS: dict[str, Callable[[Key], Schema]] = {
    "after": _after,
    "any": lambda key: _ANY,
    "any table": lambda key: {"type": "object"},
    "args": lambda key: _or_reference(_list(_ANY)),
    "batch": lambda key: _or_reference(_bounded(key, "integer"), _ref("batch")),
    "bool": lambda key: _or_reference({"type": "boolean"}),
    "call": lambda key: _or_reference(_text(_CALL)),
    "engine": lambda key: _or_reference(_text(_NAME)),
    "choice": lambda key: _or_reference({"enum": list(key.choices)}),
    "duration": lambda key: _or_reference(_text(_DURATION)),
    "env": lambda key: _object({"type": "string"}, "^[A-Za-z_][A-Za-z0-9_]*$"),
    "exceptions": lambda key: _one_or_more(_or_reference(_text(_EXCEPTION))),
    "faults": lambda key: _list(_ref(key.table)),
    "float": lambda key: _or_reference(_bounded(key, "number")),
    "for queues": lambda key: _object(_ref(key.table) if key.table != "feed" else _list(_ANY)),
    "for tasks": lambda key: _object(_ref(key.table)),
    "halt": _halt,
    "int": lambda key: _or_reference(_bounded(key, "integer")),
    "list": lambda key: _or_reference(_list(_ANY)),
    "named": lambda key: _object(_ref(key.table)),
    "params": _params,
    "path": lambda key: {"type": "string", "minLength": 1},
    "ports": _ports,
    "queue": lambda key: _NAMES,
    "queues": lambda key: _one_or_more(_NAMES),
    "rate": lambda key: _or_reference(_text(_RATE)),
    "size": lambda key: _or_reference(_text(_SIZE)),
    "str": lambda key: {"type": "string"},
    "strs": lambda key: _one_or_more({"type": "string", "minLength": 1}),
    "table": lambda key: _ref(key.table),
    "task": lambda key: _NAMES,
    "tasks": lambda key: _one_or_more(_NAMES),
    "tests": lambda key: _list(_ref(key.table)),
    "with": lambda key: {"type": "object"},
    "workers": _workers,
}
