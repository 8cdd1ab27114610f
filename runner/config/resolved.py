"""The resolved file: every key that has a value, in the long form, as TOML, and where each value comes from."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli
from msgspec import Struct

from runner.config import grammar
from runner.config.params import UNKNOWN
from runner.config.problems import format_location
from runner.config.text import clean_text
from runner.config.units import WrittenDuration, WrittenSize

if TYPE_CHECKING:
    from runner.config.model import Config

_BARE = re.compile(r"[A-Za-z0-9_-]+")


class ResolvedLine(Struct, frozen=True):
    """One key: its table as a path, its value as TOML, and what gave it."""

    table: tuple[str, ...]
    key: str
    value: str
    origin: str


def render_resolved(config: Config, *, origins: bool = False) -> str:
    """The whole file as text; with `origins`, a comment says where each value comes from."""
    found = resolved_lines(config)
    text = [f"# {clean_text(config.file)}, resolved"]
    for name, param in config.declared_params.items():
        shown = "***" if param.secret else to_toml(config.params.get(name))
        text.append(f"# param {name} = {shown}" + (f"  ({_param_origin(config, name)})" if origins else ""))
    table: tuple[str, ...] = ()
    width = max([len(f"{line.key} = {line.value}") for line in found if len(line.value) < 50] or [0])
    for line in found:
        if line.table != table:
            table = line.table
            text.append(f"\n[{'.'.join(_key(part) for part in table)}]")
        shown = f"{_key(line.key)} = {line.value}"
        text.append(f"{shown:<{width}}  # {line.origin}" if origins else shown)
    return "\n".join(text)


def resolved_lines(config: Config) -> list[ResolvedLine]:
    """Every key with a value, in the order of the reference."""
    found = [
        ResolvedLine((), key, to_toml(config.filled_tables[key]), _origin(config, (key,)))
        for key in ("title", "plugins")
        if key in config.filled_tables
    ]
    found += _table(config, ("run",), "run", config.filled_tables.get("run"))
    if "ray" in config.filled_tables:
        found += _table(config, ("ray",), "ray", config.filled_tables["ray"])
    for kind, names in (("queue", config.queues), ("task", config.tasks)):
        for name in names:
            path = (f"{kind}s", name)
            found += _table(config, path, kind, config.filled_tables.get(path[0], {}).get(name))
    return found


def _table(config: Config, path: tuple[str, ...], table: str, own: Any) -> list[ResolvedLine]:
    defaults = config.filled_tables.get("defaults", {}).get(table, {}) if table in {"queue", "task"} else {}
    own, defaults = ({} if not isinstance(each, dict) else each for each in (own, defaults))
    found = []
    for name, key in grammar.TABLES[table].items():
        if name in own:
            place, value = (*path, name), own[name]
        elif name in defaults:
            place, value = ("defaults", table, name), defaults[name]
        else:
            value = _built_in(config, path, key, own)
            if value is not None:
                found.append(ResolvedLine(path, name, to_toml(value), _why(name, path)))
            continue
        shown = to_toml(visible_value(config, _long(key, value, place), place))
        found.append(ResolvedLine(path, name, shown, _origin(config, place)))
    return found


def _why(name: str, path: tuple[str, ...]) -> str:
    if name == "call" and path[0] == "tasks":
        return "the task's own name"
    return "built in"


def _built_in(config: Config, path: tuple[str, ...], key: grammar.Key, own: dict[str, Any]) -> Any:
    """The default of a key; None when there is none that a file could say."""
    if path[0] == "tasks" and key.name == "call":
        return path[1]
    if path[0] == "tasks" and key.name == "on_error":
        return config.tasks[path[1]].on_error
    if key.table in {"backoff", "restarts"}:
        return _long(key, {}, ())
    return _parsed(key.default) if key.name not in own else None


def _parsed(text: str) -> Any:
    try:
        return tomli.loads(f"v = {text}")["v"] if text else None
    except tomli.TOMLDecodeError:  # prose, such as "what the function declares"
        return None


def _long(key: grammar.Key, value: Any, path: tuple[str, ...]) -> Any:
    """The canonical long form of a value that has a short one."""
    if key.kind in {"queues", "strs", "exceptions"} and isinstance(value, str):
        return [value]
    if key.kind == "ports" and isinstance(value, (str, list)):
        return {"default": [value] if isinstance(value, str) else value} if value else []
    if key.kind == "after" and isinstance(value, (str, list)):
        return dict.fromkeys([value] if isinstance(value, str) else value, "ok")
    if key.kind == "batch" and isinstance(value, int):
        return {"items": value}
    if key.table in {"backoff", "restarts"} and isinstance(value, dict):
        whole = {name: _parsed(inner.default) for name, inner in grammar.TABLES[key.table].items()}
        return {**whole, **value}
    return value


def visible_value(config: Config, value: Any, path: tuple[str, ...]) -> Any:
    """The value with references instead of secrets and of what nobody has given yet."""
    if value is UNKNOWN or config.contains_secret(path):
        raw: Any = config.raw_tables
        for part in path:
            raw = raw[int(part)] if isinstance(raw, list) else raw[part]
        return raw
    if isinstance(value, dict):
        return {name: visible_value(config, inner, (*path, name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [visible_value(config, inner, (*path, str(number))) for number, inner in enumerate(value)]
    return value


def _origin(config: Config, path: tuple[str, ...]) -> str:
    place = config.place(*path)
    found = format_location(place)
    if path[0] == "defaults":
        found += f" [defaults.{path[1]}]"
    inside = {name for at, names in config.param_references.items() if at[: len(path)] == path for name in names}
    params = [f"{name}: {_param_origin(config, name)}" for name in sorted(inside) if name in config.declared_params]
    return found + (f" ({'; '.join(params)})" if params else "")


def _param_origin(config: Config, name: str) -> str:
    if name in config.param_sources:
        return config.param_sources[name]
    if config.declared_params[name].required:
        return "not given"
    return f"default, {format_location(config.place('params', name))}"


# -- writing TOML -----------------------------------------------------------------------------


def to_toml(value: Any) -> str:
    r"""A value as TOML, on one line.

    >>> to_toml({"a": [1, "b\n"], "c d": True})
    '{ a = [1, "b\\n"], "c d" = true }'
    """
    if isinstance(value, (WrittenDuration, WrittenSize)):
        return _string(value.text)
    if isinstance(value, (bool, int, float)):  # TOML writes inf and nan as Python does
        return repr(value).lower()
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, dict):
        inside = ", ".join(f"{_key(name)} = {to_toml(inner)}" for name, inner in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(to_toml(inner) for inner in value)}]"
    return _string(str(value)) if isinstance(value, (str, Path)) else '"?"'


def _string(text: str) -> str:
    """A basic string; what could steer a terminal is escaped."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else _escape(char) for char in quoted)


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _string(name)
