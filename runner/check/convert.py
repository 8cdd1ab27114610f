"""Conversion of a value of the file to the type that a function's hint asks for.

pydantic is imported only when there is something to convert: most files hold numbers and strings for functions that
ask for numbers and strings, and importing it takes longer than all the rest of a start.
"""

from __future__ import annotations

import datetime as dt
import types
import typing
from pathlib import Path, PurePath
from typing import Any

from runner.config import units
from runner.config.reader import describe_value
from runner.text import clean_text

#: The `args` and the `with` of a task, converted.
Arguments = tuple[tuple[Any, ...], dict[str, Any]]

_SCALARS = (str, int, float, bool)
#: The types that TOML has itself. Tuples, as a hint need not be hashable.
_OWN_TYPES = (*_SCALARS, list, dict, dt.datetime, dt.date, dt.time)
_ANYTHING = (None, Any, object)


class UnfitValue(Exception):
    """The value does not fit; the text says what would."""


def convert_argument(value: Any, hint: Any) -> Any:
    """Return the value as `hint` asks for it; the value itself when it is right already. Raises `UnfitValue`.

    >>> convert_argument("a.txt", Path), convert_argument(3, float), convert_argument(3, int | None)
    (PosixPath('a.txt'), 3.0, 3)
    """
    if fits_hint(value, hint):
        return value
    if isinstance(value, PurePath) and hint not in {Path, PurePath}:
        value = str(value)  # a param of type path; the file itself can only write it as a string
        if fits_hint(value, hint):
            return value
    if hint is float and type(value) is int:
        return float(value)
    if hint is Path and type(value) is str:
        if not value or "\x00" in value:
            raise UnfitValue("must be a path")
        return Path(value)
    if hint is dt.timedelta and isinstance(value, str):
        try:
            return dt.timedelta(seconds=units.parse_duration(value))
        except ValueError:
            pass
    return _convert_by_pydantic(value, hint)


def fits_hint(value: Any, hint: Any) -> bool:  # noqa: PLR0911  one line for each kind of hint
    """Return True if the value is right as it is, as far as that can be said without pydantic."""
    if hint in _ANYTHING or isinstance(hint, (str, typing.TypeVar)):  # a hint that did not resolve says nothing
        return True
    if hint in _OWN_TYPES:
        return type(value) is hint
    if hint is Path:
        return isinstance(value, Path)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return any(each is not type(None) and fits_hint(value, each) for each in arguments)
    if origin is typing.Literal:
        return any(type(value) is type(each) and value == each for each in arguments)
    if origin is list:
        return type(value) is list and all(fits_hint(each, arguments[0]) for each in value)
    if origin is dict:
        return type(value) is dict and all(
            fits_hint(key, arguments[0]) and fits_hint(each, arguments[1]) for key, each in value.items()
        )
    return False


def _convert_by_pydantic(value: Any, hint: Any) -> Any:
    import pydantic

    try:
        adapter = pydantic.TypeAdapter(hint)
    except Exception:  # noqa: BLE001  pydantic knows no such type, or a hint of the user's raises
        if isinstance(hint, type) and not isinstance(value, hint):
            raise UnfitValue(f"must be {_hint_name(hint)}, which a file cannot write") from None
        return value
    try:
        return adapter.validate_python(value)
    except pydantic.ValidationError as error:
        raise UnfitValue(_explain_error(error, hint, value)) from None
    except Exception as error:  # noqa: BLE001  a validator of the user's
        raise UnfitValue(f"is refused: {type(error).__name__}: {clean_text(str(error), 200)}") from None


def _explain_error(error: Any, hint: Any, value: Any) -> str:
    """Return what pydantic says, in one line: the first complaints, each with its path inside the value."""
    if hint in _SCALARS:
        return f"must be {_hint_name(hint)}, not {describe_value(value)}"
    told = []
    for each in error.errors(include_url=False, include_context=False)[:3]:
        path = ".".join(str(part) for part in each["loc"])
        said = each["msg"].replace("Input should be", "must be").replace("Value error, ", "")
        told.append(f"`{path}` {said}" if path else said)
    return f"must be {_hint_name(hint)}, not {describe_value(value)} ({clean_text('; '.join(told), 300)})"


def _hint_name(hint: Any) -> str:
    return clean_text(hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint), 100)
