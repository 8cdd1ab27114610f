"""The resolved file: every key that has a value, in the long form, as TOML, and where each value comes from."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from typing import TYPE_CHECKING, Any

from runner.config import grammar
from runner.config.reader import UNKNOWN
from runner.config.units import Written
from runner.errors import UsageError
from runner.model import CLUSTER_ENGINES
from runner.problems import format_location
from runner.text import clean_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.config.reader import KeyTable
    from runner.model import Config

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def render_resolved(config: Config, *, origins: bool = False) -> str:
    """Return the whole file as text; with `origins`, a comment says where each value comes from."""
    text = [f"# {clean_text(config.file)}, resolved"]
    for name, param in config.declared_params.items():
        value = config.params.get(name)
        shown = "***" if param.secret else '"?"' if value is None or value is UNKNOWN else to_toml(value)
        text.append(f"# param {name} = {shown}" + (f"  ({_param_origin(config, name)})" if origins else ""))
    last: tuple[str, ...] = ()
    found = list(_resolved_lines(config))
    width = max([len(f"{key} = {value}") for _, key, value, _ in found if len(value) < 50] or [0])
    for table, key, value, origin in found:
        if table != last:
            last = table
            text.append(f"\n[{'.'.join(_quote_key(part) for part in table)}]")
        shown = f"{_quote_key(key)} = {value}"
        text.append(f"{shown:<{width}}  # {origin}" if origins else shown)
    return "\n".join(text)


def _resolved_lines(config: Config) -> Iterator[tuple[tuple[str, ...], str, str, str]]:
    """Yield every key with a value: its table as a path, the key, its value as TOML, and what gave it."""
    filled = config.filled_tables
    for key in ("title", "plugins"):
        if key in filled:
            yield (), key, to_toml(filled[key]), _describe_origin(config, (key,))
    yield from _table_lines(config, ("run",), grammar.RUN, filled.get("run"))
    if config.run.engine in CLUSTER_ENGINES or "agents" in filled:
        yield from _table_lines(config, ("agents",), grammar.AGENTS, filled.get("agents"))
    if config.run.engine == "ray" or "ray" in filled:
        yield from _table_lines(config, ("ray",), grammar.RAY, filled.get("ray"))
    for table, names in ((grammar.QUEUE, config.queues), (grammar.TASK, config.tasks)):
        for name in names:
            path = (f"{table.name}s", name)
            yield from _table_lines(config, path, table, filled.get(path[0], {}).get(name))


def _table_lines(
    config: Config, path: tuple[str, ...], table: KeyTable, own: Any
) -> Iterator[tuple[tuple[str, ...], str, str, str]]:
    defaults = config.filled_tables.get("defaults", {}).get(table.name, {})
    own, defaults = ({} if not isinstance(each, dict) else each for each in (own, defaults))
    for name, key in table.items():
        if name in own or name in defaults:
            place = (*path, name) if name in own else ("defaults", table.name, name)
            value = own[name] if name in own else defaults[name]
            shown = to_toml(visible_value(config, key.type.expand(value), place))
            yield path, name, shown, _describe_origin(config, place)
        else:
            origin = "built in"
            if path[0] == "tasks" and name == "call":
                value, origin = path[1], "the task's own name"
            elif path[0] == "tasks" and name == "on_error":
                value = config.tasks[path[1]].on_error
            else:
                value = key.type.expand({}) or key.parse_default()
            if value is not None:  # a file could say it
                yield path, name, to_toml(value), origin


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


def to_toml(value: Any) -> str:
    r"""Return a value as TOML, on one line; UsageError if TOML has no such value.

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
        inside = ", ".join(f"{_quote_key(str(name))} = {to_toml(inner)}" for name, inner in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(to_toml(inner) for inner in value)}]"
    if isinstance(value, (str, os.PathLike)):
        return _quote_string(os.fspath(value))
    raise UsageError(f"a value of type {type(value).__name__} cannot be written in a file: {value!r:.100}")


def _quote_string(text: str) -> str:
    """Return a basic string; what could steer a terminal is escaped."""
    quoted = json.dumps(text, ensure_ascii=False)
    odd = {ord(char) for char in quoted if not char.isprintable()}
    return quoted.translate({code: f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}" for code in odd})


def _quote_key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _quote_string(name)
