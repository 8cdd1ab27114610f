"""`--set PATH=VALUE`: put values into the dict of a file before anything looks at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tomli

from runner.problems import quote_name
from runner.text import clean_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.config.diagnostics import Diagnostics


def apply_overrides(raw: dict[str, Any], sets: Sequence[tuple[str, str]], report: Diagnostics) -> None:
    """Set the values in `raw`; their locations are the options themselves."""
    for word, text in sets:
        path = tuple(word.split("."))
        option = f"--set {clean_text(word, 60)}"
        if not all(path) or len(path) > 16:
            report.source_map.given[(option,)] = option
            report.add_problem("E110", f"{quote_name(word)} is not a path such as `tasks.bake.workers`", (option,))
            continue
        report.source_map.given[path] = option
        table: Any = raw
        for end, part in enumerate(path[:-1], 1):
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                message = f"{quote_name('.'.join(path[:end]))} is not a table, so it has no key {quote_name(path[end])}"
                report.add_problem("E110", message, path)
                break
        else:
            _set_value(table, path, parse_value(text))


def _set_value(table: dict[str, Any], path: tuple[str, ...], made: Any) -> None:
    """Set one value; a param keeps its type, bounds and secrecy."""
    declared = table.get(path[-1])
    if path[0] == "params" and len(path) == 2 and isinstance(declared, dict) and not isinstance(made, dict):
        declared.pop("required", None)
        declared["default"] = made
    else:
        table[path[-1]] = made


def parse_value(text: str) -> Any:
    r"""Return the text as a TOML value, or as a string if it is not one.

    >>> parse_value("3"), parse_value("[1, 2]"), parse_value("10s"), parse_value("1\nb = 2")
    (3, [1, 2], '10s', '1\nb = 2')
    """
    try:
        found = tomli.loads(f"v = {text}") if "\n" not in text else {}
    except (ValueError, RecursionError):
        return text
    return found["v"] if set(found) == {"v"} else text
