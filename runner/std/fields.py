"""Fill a command's template from an item: the item, a field of it, parts of a path."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_HOLE = re.compile(r"\{\{|\}\}|\{(?P<field>[A-Za-z_]\w*|\d+)?(?P<part>//|/\.|/|\.)?\}")


def fill_template(template: str, item: Any, quote: Callable[[str], str] = str) -> str:
    """Put the item, or what the braces name of it, into a text.

    >>> fill_template("{a} {b/.}.gz", {"a": 1, "b": "x/y.txt"})
    '1 y.gz'
    >>> fill_template("{.}.jpg {/} {//} {0", "d/a.b.png")
    'd/a.b.jpg a.b.png d {0'
    """

    def put(match: re.Match[str]) -> str:
        whole = match.group()
        if whole in {"{{", "}}"}:
            return whole[0]
        value = item if match["field"] is None else _field_of(item, match["field"])
        text = _text_of(value, whole)
        return quote(_path_part(text, match["part"]))

    return _HOLE.sub(put, template)


def _field_of(item: Any, name: str) -> Any:
    if isinstance(item, (tuple, list)) and name.isdecimal():
        if int(name) < len(item):
            return item[int(name)]
    elif isinstance(item, dict):
        for key in (name, int(name)) if name.isdecimal() else (name,):
            if key in item:
                return item[key]
    elif (dataclasses.is_dataclass(item) or hasattr(item, "_fields")) and name[0] != "_" and hasattr(item, name):
        return getattr(item, name)
    known = ""
    if isinstance(item, dict):
        known = "; it has " + ", ".join(map(repr, list(item)[:20]))
    elif isinstance(item, (tuple, list)):
        known = f"; it has {len(item)} elements"
    raise LookupError(f"`{{{name}}}` of the command: the item ({type(item).__name__}) has no {name!r}{known}")


def _text_of(value: Any, hole: str) -> str:
    if isinstance(value, (str, int, float)):
        text = str(value)
    elif isinstance(value, (bytes, os.PathLike)):
        text = os.fsdecode(value)
    else:
        raise TypeError(
            f"`{hole}` of the command would be of type {type(value).__name__}; name a field of it, as {{name}}"
        )
    if "\0" in text:
        raise ValueError(f"`{hole}` of the command has a NUL in it, which no argument can have")
    return text


def _path_part(text: str, part: str | None) -> str:
    if part is None:
        return text
    folder, name = os.path.split(text)
    if part == "//":
        return folder or "."
    stem = os.path.splitext(name)[0]  # noqa: PTH122  of a text that need not be a path
    if part == ".":
        return os.path.join(folder, stem) if folder else stem  # noqa: PTH118
    return name if part == "/" else stem
