"""What a function has given: one item, many, or something that would do nothing if it were taken for an item."""

from __future__ import annotations

import contextlib
import io
import sys
from types import GeneratorType
from typing import Any

from runner.tasks import To
from runner.transport import item_codec

#: What `@contextmanager` and `@asynccontextmanager` make of a call; the private base has kept its name since 3.7.
_MANAGER: type = getattr(contextlib, "_GeneratorContextManagerBase", GeneratorType)


def yields_items(kind: type) -> bool:
    """Whether a returned value of this type stands for its items: a generator, `map`, `zip`, any iterator but a file.

    >>> yields_items(map), yields_items(list), yields_items(io.StringIO)
    (True, False, False)
    """
    return hasattr(kind, "__next__") and hasattr(kind, "__iter__") and not issubclass(kind, io.IOBase)


def needs_inspection(kind: type) -> bool:
    """Whether results of this type must be looked at one by one."""
    return kind is To or yields_items(kind) or _idle(kind)


def _idle(kind: type) -> bool:
    """Whether nothing happens with such an object unless it is awaited, iterated over asynchronously, or entered."""
    return hasattr(kind, "__await__") or hasattr(kind, "__anext__") or issubclass(kind, _MANAGER)


def check_item(item: Any) -> None:
    """TypeError for what is no item: what it stands for would never be executed."""
    kind = type(item)
    if not _idle(kind):
        return
    name = getattr(item, "__qualname__", None)
    what = f"of type {kind.__name__}" + (f" (`{name}`)" if isinstance(name, str) else "")
    if hasattr(kind, "close") and hasattr(kind, "cr_frame"):
        item.close()  # else Python warns that nobody has awaited it
    if issubclass(kind, _MANAGER):
        raise TypeError(
            f"the function gave a context manager {what} instead of an item: take `@contextmanager` off a generator"
            " that yields items, or write a class with `__enter__` and `__exit__` for set-up and tear-down"
        )
    raise TypeError(f"the function gave an object {what}, which nothing would await: make the function `async def`")


def check_result(result: Any) -> None:
    """The same for what a function without outputs has returned, which nobody takes."""
    check_item(result)
    futures = sys.modules.get("concurrent.futures")
    if futures is not None and isinstance(result, futures.Future):
        raise TypeError(
            "the function returned a `concurrent.futures.Future`, which nothing would wait for: return its `result()`"
        )


def exhaust_result(result: Any) -> None:
    """A sink's result: an iterator still has to run, and nothing may be left undone."""
    kind = type(result)
    if result is None or kind in item_codec.SMALL_TYPES:
        return
    if yields_items(kind):
        for item in result:
            if type(item) not in item_codec.SMALL_TYPES:
                check_result(item)
    else:
        check_result(result)
