"""The resolved file: every key that has a value, in the long form, as TOML, and where each value comes from."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config import grammar
from runner.config.diagnostics import UNKNOWN
from runner.config.units import Written
from runner.problems import format_location
from runner.structs import dataclass
from runner.text import clean_text

if TYPE_CHECKING:
    from runner.config.reader import Key, KeyTable
    from runner.model import Config

_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class ResolvedLine:
    """One key: its table as a path, its value as TOML, and what gave it."""

    table: tuple[str, ...]
    key: str
    value: str
    origin: str


def render_resolved(config: Config, *, origins: bool = False) -> str:
    """Return the whole file as text; with `origins`, a comment says where each value comes from."""
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
            text.append(f"\n[{'.'.join(_quote_key(part) for part in table)}]")
        shown = f"{_quote_key(line.key)} = {line.value}"
        text.append(f"{shown:<{width}}  # {line.origin}" if origins else shown)
    return "\n".join(text)


def resolved_lines(config: Config) -> list[ResolvedLine]:
    """Return every key with a value, in the order of the reference."""
    found = [
        ResolvedLine((), key, to_toml(config.filled_tables[key]), _describe_origin(config, (key,)))
        for key in ("title", "plugins")
        if key in config.filled_tables
    ]
    found += _table_lines(config, ("run",), grammar.RUN, config.filled_tables.get("run"))
    for table, names in ((grammar.QUEUE, config.queues), (grammar.TASK, config.tasks)):
        for name in names:
            path = (f"{table.name}s", name)
            found += _table_lines(config, path, table, config.filled_tables.get(path[0], {}).get(name))
    return found


def _table_lines(config: Config, path: tuple[str, ...], table: KeyTable, own: Any) -> list[ResolvedLine]:
    defaults = config.filled_tables.get("defaults", {}).get(table.name, {})
    own, defaults = ({} if not isinstance(each, dict) else each for each in (own, defaults))
    found = []
    for name, key in table.items():
        if name in own:
            place, value = (*path, name), own[name]
        elif name in defaults:
            place, value = ("defaults", table.name, name), defaults[name]
        else:
            value, origin = _built_in_value(config, path, key)
            if value is not None:
                found.append(ResolvedLine(path, name, to_toml(value), origin))
            continue
        shown = to_toml(visible_value(config, key.type.expand(value), place))
        found.append(ResolvedLine(path, name, shown, _describe_origin(config, place)))
    return found


def _built_in_value(config: Config, path: tuple[str, ...], key: Key) -> tuple[Any, str]:
    """Return the default of a key and where it comes from; None if a file could not say it."""
    if path[0] == "tasks" and key.name == "call":
        return path[1], "the task's own name"
    if path[0] == "tasks" and key.name == "on_error":
        return config.tasks[path[1]].on_error, "built in"
    return key.type.expand({}) or key.parse_default(), "built in"


def visible_value(config: Config, value: Any, path: tuple[str, ...]) -> Any:
    """Return the value with references in place of secrets and of params without a value."""
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


def _describe_origin(config: Config, path: tuple[str, ...]) -> str:
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
    r"""Return a value as TOML, on one line.

    >>> to_toml({"a": [1, "b\n"], "c d": True})
    '{ a = [1, "b\\n"], "c d" = true }'
    """
    if isinstance(value, Written):
        return _quote_string(value.text)
    if isinstance(value, (bool, int, float)):  # TOML writes inf and nan as Python does
        return repr(value).lower()
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, dict):
        inside = ", ".join(f"{_quote_key(name)} = {to_toml(inner)}" for name, inner in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(to_toml(inner) for inner in value)}]"
    return _quote_string(str(value)) if isinstance(value, (str, Path)) else '"?"'


def _quote_string(text: str) -> str:
    """Return a basic string; what could steer a terminal is escaped."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else _escape_char(char) for char in quoted)


def _escape_char(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def _quote_key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _quote_string(name)
