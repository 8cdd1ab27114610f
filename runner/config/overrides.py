"""`--set PATH=VALUE`: put values into the dict of a file before anything looks at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tomli

from runner.config.problems import name
from runner.config.text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.config.diagnostics import Report


def apply(raw: dict[str, Any], sets: Sequence[tuple[str, str]], report: Report) -> None:
    """Change `raw`; places of what is set are the options themselves."""
    for word, text in sets:
        path = tuple(word.split("."))
        option = f"--set {clean(word, 60)}"
        if not all(path) or len(path) > 16:
            report.places.given[(option,)] = option
            report.add("E110", f"{name(word)} is no path such as `tasks.bake.workers`", (option,))
            continue
        table: Any = raw
        for part in path[:-1]:
            table = table.setdefault(part, {}) if isinstance(table, dict) else None
        report.places.given[path] = option
        if isinstance(table, dict):
            _put(table, path, value(text))
        else:
            report.add("E110", f"{name(word)} leads through a value that is no table", path)


def _put(table: dict[str, Any], path: tuple[str, ...], made: Any) -> None:
    """A param that is set keeps its type, bounds and secrecy: only its value is another."""
    declared = table.get(path[-1])
    if path[0] == "params" and len(path) == 2 and isinstance(declared, dict) and not isinstance(made, dict):
        declared.pop("required", None)
        declared["default"] = made
    else:
        table[path[-1]] = made


def value(text: str) -> Any:
    r"""The text as a TOML value; what is none is a string.

    >>> value("3"), value("[1, 2]"), value("10s"), value("1\nb = 2")
    (3, [1, 2], '10s', '1\nb = 2')
    """
    try:
        found = tomli.loads(f"v = {text}") if "\n" not in text else {}
    except (ValueError, RecursionError):
        return text
    return found["v"] if set(found) == {"v"} else text
