"""`--set PATH=VALUE`: put values into the dict of a file before anything looks at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tomli

from runner.config.problems import quote_name
from runner.text import clean_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.config.diagnostics import Diagnostics


def apply_overrides(raw: dict[str, Any], sets: Sequence[tuple[str, str]], report: Diagnostics) -> None:
    """Change `raw`; places of what is set are the options themselves."""
    for word, text in sets:
        path = tuple(word.split("."))
        option = f"--set {clean_text(word, 60)}"
        if not all(path) or len(path) > 16:
            report.source_map.given[(option,)] = option
            report.add_problem("E110", f"{quote_name(word)} is no path such as `tasks.bake.workers`", (option,))
            continue
        table: Any = raw
        for part in path[:-1]:
            table = table.setdefault(part, {}) if isinstance(table, dict) else None
        report.source_map.given[path] = option
        if isinstance(table, dict):
            _put(table, path, parse_value(text))
        else:
            report.add_problem("E110", f"{quote_name(word)} leads through a value that is no table", path)


def _put(table: dict[str, Any], path: tuple[str, ...], made: Any) -> None:
    """A param that is set keeps its type, bounds and secrecy: only its value is another."""
    declared = table.get(path[-1])
    if path[0] == "params" and len(path) == 2 and isinstance(declared, dict) and not isinstance(made, dict):
        declared.pop("required", None)
        declared["default"] = made
    else:
        table[path[-1]] = made


def parse_value(text: str) -> Any:
    r"""The text as a TOML value; what is none is a string.

    >>> parse_value("3"), parse_value("[1, 2]"), parse_value("10s"), parse_value("1\nb = 2")
    (3, [1, 2], '10s', '1\nb = 2')
    """
    try:
        found = tomli.loads(f"v = {text}") if "\n" not in text else {}
    except (ValueError, RecursionError):
        return text
    return found["v"] if set(found) == {"v"} else text
