"""What a durable run is made of: its resolved file, its plugins, Python; and what of that differs between two lives.

Code and values may change while a run is down: what is done stays done, and the rest is done by the new code. So a
difference is no error; it is told. Secrets are not part of a resolved file.
"""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import tomli
from msgspec import Struct

from runner.text import count_with_noun, cut_text, printable_line
from runner.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from runner.plugins import PluginSet
    from runner.supervisor.plan import Plan

#: Noted of a run by each of its lives.
BASIS_KEY = "basis"
#: So many differences are told one by one; a value is cut to so many columns.
_MOST_TOLD, _MOST_COLUMNS = 6, 30
_MOST_FILES = 1000


class RunBasis(Struct, frozen=True):
    """What a life of a run is made of: the resolved file, digests of local plugin files, versions of other plugins."""

    resolved: str
    digests: dict[str, str]
    versions: dict[str, str]


def describe_basis(plan: Plan) -> RunBasis:
    """Return what a run is made of that is about to be executed."""
    versions = {"Python": platform.python_version(), "runner": __version__}
    digests: dict[str, str] = {}
    if plan.plugins is not None:
        for plugin in plan.plugins.all_plugins:
            if plugin.distribution is not None and (plugin.loaded or plugin.hooks):
                versions[f"plugin {plugin.name}"] = plugin.version
        digests = dict(_digest_files(plan.plugins))
    return RunBasis(plan.secret_mask(plan.description.resolved), digests, versions)


def _digest_files(plugins: PluginSet) -> Iterator[tuple[str, str]]:
    """Yield the files of local plugins, as the project names them, with their digests; of packages all modules."""
    for plugin in plugins.all_plugins:
        if plugin.distribution is not None or plugin.name == "std" or not plugin.source_file:
            continue
        source = Path(plugin.source_file)
        files = sorted(source.parent.rglob("*.py"))[:_MOST_FILES] if source.name == "__init__.py" else [source]
        for path in files:
            try:
                yield os.path.relpath(path, plugins.folder), hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError:  # gone, or not to be read: importing it says so
                continue


def encode_basis(basis: RunBasis) -> str:
    """Return a basis as text, for the notes of a run."""
    return msgspec.json.encode(basis).decode()


def tell_differences(noted: str | None, now: RunBasis) -> str:
    r"""Return a sentence on what differs from what an earlier life has noted; empty if nothing is known to differ.

    >>> before = RunBasis("[tasks.t]\nworkers = 1", {"plugins/x.py": "12"}, {"Python": "3.11.2"})
    >>> tell_differences(encode_basis(before), before)
    ''
    >>> after = RunBasis("[tasks.t]\nworkers = 2\n[queues.q]", {"plugins/x.py": "34"}, {"Python": "3.12.0"})
    >>> for part in tell_differences(encode_basis(before), after).split("; "): print(part)
    changed since the last time: tasks.t.workers is 2 (was 1)
    queue `q` is new
    plugins/x.py
    Python 3.12.0 (was 3.11.2)
    """
    if noted is None:
        return ""
    try:
        before = msgspec.json.decode(noted, type=RunBasis)
    except msgspec.MsgspecError:
        return ""
    found = [
        *_file_differences(before.resolved, now.resolved),
        *_name_differences(before.digests, now.digests),
        *(
            f"{name} {now.versions[name] or '?'} (was {was or '?'})"
            for name, was in _changed(before.versions, now.versions)
        ),
    ]
    if not found:
        return ""
    more = [f"and {count_with_noun(len(found) - _MOST_TOLD, 'thing')} more"] if len(found) > _MOST_TOLD else []
    return f"changed since the last time: {'; '.join([*found[:_MOST_TOLD], *more])}"


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, was) for name, was in before.items() if name in now and now[name] != was)


def _name_differences(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    yield from (printable_line(name) for name, _ in _changed(before, now))
    yield from (f"{printable_line(name)} is new" for name in now if name not in before)
    yield from (f"{printable_line(name)} is gone" for name in before if name not in now)


def _file_differences(before: str, now: str) -> Iterator[str]:
    if before == now:
        return
    try:
        tables = tomli.loads(before), tomli.loads(now)
    except tomli.TOMLDecodeError:  # a secret that was masked may have been a number
        yield "the file"
        return
    yield from _table_differences(*tables, ())


def _table_differences(before: dict[str, Any], now: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Yield what differs in a table and those below it: keys with their values, whole tasks and queues by name."""
    for name in [*before, *(name for name in now if name not in before)]:
        was, value, place = before.get(name), now.get(name), (*path, name)
        if was == value:
            continue
        if path in {("tasks",), ("queues",)} and (was is None or value is None):
            yield f"{path[0][:-1]} `{printable_line(name)}` is {'new' if was is None else 'gone'}"
        elif isinstance(was or {}, dict) and isinstance(value or {}, dict) and len(place) < 3:
            yield from _table_differences(was or {}, value or {}, place)
        else:
            yield f"{printable_line('.'.join(place))} is {_shown(value)} (was {_shown(was)})"


def _shown(value: Any) -> str:
    from runner.config.resolved import to_toml

    return "not set" if value is None else cut_text(printable_line(to_toml(value)), _MOST_COLUMNS)
