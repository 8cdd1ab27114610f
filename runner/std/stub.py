"""The function that stands in for a task's own in a test of a file: it gives, fails and waits as the test says.

No file calls it: `[[tests]]` name stubs by their tasks, and `runner.file_tests` puts them there.
"""

from __future__ import annotations

import builtins
import importlib
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from runner import errors
from runner.tasks import Context, To

_REFERENCE = re.compile(r"\$\$\{|\$\{item((?:\.\w+)*)\}")
_ALWAYS = 1 << 62


def make_error(text: str) -> Exception:
    """Return the exception that a text names: `"OSError: disk full"`, `"package.module.Name"`.

    >>> make_error("OSError: disk full"), make_error("Reject: no")
    (OSError('disk full'), Reject('no'))
    >>> make_error("Unheard: of")
    RuntimeError('Unheard: of')
    """
    name, _, message = text.partition(":")
    module, _, word = name.strip().rpartition(".")
    try:
        found = getattr(importlib.import_module(module), word) if module else None
    except (ImportError, AttributeError):
        found = None
    if not module:
        found = getattr(builtins, word, None) or getattr(errors, word, None)
    if isinstance(found, type) and issubclass(found, Exception):
        return found(message.strip() or "a stub fails")
    return RuntimeError(text.strip() or "a stub fails")


def fill_item(value: Any, item: Any) -> Any:
    """Return a value with `${item}` and `${item.key}` filled in; a string that is nothing else becomes the item.

    >>> fill_item("${item}", 3), fill_item(["n ${item}"], 3), fill_item({"a": "${item.x.0}"}, {"x": [7]})
    (3, ['n 3'], {'a': 7})
    >>> fill_item("$${item}", 3)
    '${item}'
    """
    if isinstance(value, dict):
        return {key: fill_item(inner, item) for key, inner in value.items()}
    if isinstance(value, list):
        return [fill_item(inner, item) for inner in value]
    if not isinstance(value, str):
        return value
    whole = _REFERENCE.fullmatch(value)
    if whole is not None and whole[0] != "$${":
        return _part_of(item, whole[1])
    return _REFERENCE.sub(lambda found: "${" if found[0] == "$${" else str(_part_of(item, found[1])), value)


def _part_of(item: Any, path: str) -> Any:
    for word in path.split(".")[1:]:
        if isinstance(item, Mapping):
            item = item[word]
        elif isinstance(item, (list, tuple)):
            item = item[int(word)]
        else:
            item = getattr(item, word)
    return item


class StubFunction:
    """A task function with inputs: each item takes `slow` seconds, its first `fails` tries fail, then it gives.

    `gives` is what it gives, or None: the item itself. `ports`: `gives` is a table, port → value. `batch`: it is called
    with lists of items, and gives for each of them.
    """

    def __init__(self, *, gives: Any, fails: int | None, error: str, slow: float, ports: bool, batch: bool) -> None:
        self._gives, self._slow, self._ports, self._batch = gives, slow, ports, batch
        self._fails = fails if fails is not None else _ALWAYS if error else 0
        self._error = error

    def __call__(self, item: Any, context: Context) -> Iterator[Any]:
        """Give what the test says for one item, or for each of a batch."""
        if self._slow:
            time.sleep(self._slow)
        if context.attempt <= self._fails:
            raise make_error(self._error)
        for each in item if self._batch else [item]:
            yield from self._outputs_of(each)

    def _outputs_of(self, item: Any) -> Iterator[Any]:
        if self._gives is None:
            yield item
        elif self._ports:
            for port, value in self._gives.items():
                yield To(port, fill_item(value, item))
        else:
            yield fill_item(self._gives, item)


def stub_sink(item: Any, context: Context, *, gives: Any, fails: int | None, error: str, slow: float) -> None:  # noqa: ARG001  one signature for all stubs
    """Take an item, and give nothing: the task has no outputs."""
    if slow:
        time.sleep(slow)
    if context.attempt <= (fails if fails is not None else _ALWAYS if error else 0):
        raise make_error(error)


def stub_source(*, gives: Any, error: str, slow: float) -> Iterator[Any]:
    """Give the items of a list, one after the other; fail after the last one if an error is named."""
    for item in gives or ():
        if slow:
            time.sleep(slow)
        yield item
    if error:
        raise make_error(error)


def stub_call(*, gives: Any, error: str, slow: float) -> Any:
    """Return what the test says: the task has neither inputs nor outputs."""
    if slow:
        time.sleep(slow)
    if error:
        raise make_error(error)
    return gives
