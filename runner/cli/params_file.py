"""Params from a file: TOML, JSON, or lines of NAME=VALUE as `.env` files have them."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from runner.errors import UsageError

#: No file of params is larger.
_MOST_BYTES = 1 << 20
_LINE = re.compile(r"(?:export\s+)?([^\s=#]+)\s*=\s*(.*)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def read_params(path: str) -> dict[str, Any]:
    """Return the params of a file, by its name: `.toml`, `.json`, else NAME=VALUE; UsageError names what is wrong.

    A value may be a secret: none is repeated in a message.
    """
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123  a str may be any path
            text = file.read(_MOST_BYTES + 1)
    except UnicodeDecodeError:
        raise UsageError(f"--params {path}: it is not text in UTF-8") from None
    except OSError as error:
        raise UsageError(f"--params {path}: {error.strerror}") from None
    if len(text) > _MOST_BYTES:
        raise UsageError(f"--params {path}: it has more than {_MOST_BYTES >> 20} MiB")
    kind = os.path.splitext(path)[1]  # noqa: PTH122  a str may be any path
    found = _read_toml(path, text) if kind == ".toml" else _read_json(path, text) if kind == ".json" else None
    return _read_lines(path, text) if found is None else found


def _read_toml(path: str, text: str) -> dict[str, Any]:
    from runner.config.toml import UnreadableFile, parse_toml

    try:
        return parse_toml(text)
    except UnreadableFile as error:  # its message, or the line, may show a secret
        raise UsageError(f"--params {path}:{error.line or 1}: it is not valid TOML") from None


def _read_json(path: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 0)
        raise UsageError(f"--params {path}{f':{line}' if line else ''}: it is not JSON") from None
    if not isinstance(found, dict):
        raise UsageError(f"--params {path}: an object with the params' names is needed")
    return found


def _read_lines(path: str, text: str) -> dict[str, Any]:
    r"""Read `NAME=VALUE`, `export NAME="VALUE"`, comments and empty lines.

    >>> _read_lines("p.env", "# a\nexport a = 'x y'  # one\nb=1 # one\n\nc=\"d\\n\"")
    {'a': 'x y', 'b': '1', 'c': 'd\n'}
    """
    found: dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        if (match := _LINE.fullmatch(words)) is None:
            raise UsageError(f"--params {path}:{number}: it is not NAME=VALUE")
        found[match[1]] = _plain_value(match[2])
    return found


def _plain_value(text: str) -> str:
    if text[:1] in {"'", '"'} and (end := text.find(text[0], 1)) > 0:
        inner = text[1:end]
        return inner if text[0] == "'" else re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), inner)
    return re.split(r"\s+#", text, maxsplit=1)[0].rstrip()
