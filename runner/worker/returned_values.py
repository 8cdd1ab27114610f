"""The values that a function returns: one item, many, or something that would do nothing as an item."""

from __future__ import annotations

import contextlib
import io
import sys
from types import GeneratorType
from typing import Any

from runner.tasks import To
from runner.transport import item_codec

#: What `@contextmanager` and `@asynccontextmanager` make of a call; the private base has kept its name since 3.7.
_CONTEXT_MANAGER: type = getattr(contextlib, "_GeneratorContextManagerBase", GeneratorType)


def yields_items(item_type: type) -> bool:
    """Return True if a value of this type stands for its items: a generator, `map`, `zip`, any iterator but a file.

    >>> yields_items(map), yields_items(list), yields_items(io.StringIO)
    (True, False, False)
    """
    return hasattr(item_type, "__next__") and hasattr(item_type, "__iter__") and not issubclass(item_type, io.IOBase)


def needs_inspection(item_type: type) -> bool:
    """Return True if results of this type must be looked at one by one."""
    return item_type is To or yields_items(item_type) or _needs_running(item_type)


def _needs_running(item_type: type) -> bool:
    """Return True if such an object does nothing unless it is awaited, iterated over asynchronously, or entered."""
    return hasattr(item_type, "__await__") or hasattr(item_type, "__anext__") or issubclass(item_type, _CONTEXT_MANAGER)


def check_item(item: Any) -> None:
    """Raise TypeError for a value that is not an item: what it stands for would never be executed."""
    item_type = type(item)
    if not _needs_running(item_type):
        return
    name = getattr(item, "__qualname__", None)
    what = f"of type {item_type.__name__}" + (f" (`{name}`)" if isinstance(name, str) else "")
    if hasattr(item_type, "close") and hasattr(item_type, "cr_frame"):
        item.close()  # else Python warns that it was never awaited
    if issubclass(item_type, _CONTEXT_MANAGER):
        raise TypeError(
            f"the function gave a context manager {what} instead of an item: take `@contextmanager` off a generator"
            " that yields items, or write a class with `__enter__` and `__exit__` for set-up and tear-down"
        )
    raise TypeError(f"the function gave an object {what}, which nothing would await: make the function `async def`")


def check_result(result: Any) -> None:
    """Raise TypeError for a result, of a function without outputs, that would never be executed."""
    check_item(result)
    futures = sys.modules.get("concurrent.futures")
    if futures is not None and isinstance(result, futures.Future):
        raise TypeError(
            "the function returned a `concurrent.futures.Future`, which nothing would wait for: return its `result()`"
        )


def exhaust_result(result: Any) -> None:
    """Run a sink's result if it is an iterator, and refuse what would never be executed."""
    item_type = type(result)
    if result is None or item_type in item_codec.SMALL_TYPES:
        return
    if yields_items(item_type):
        for item in result:
            if type(item) not in item_codec.SMALL_TYPES:
                check_result(item)
            del item  # else it lives while the next one is made
    else:
        check_result(result)
