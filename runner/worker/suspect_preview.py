"""A reader: a worker that executes nothing, and says what items look like over which other workers have died.

    supervisor ── Grant (the suspects) ──▶ reader
               ◀── Shown, one for each: what is known of it without unpickling it ──
               ◀── Shown, one for each: its `repr` ──  or the reader dies of it, or takes too long
               ◀── Answer ──

The supervisor must never unpickle an item, and the worker that had it is dead. What unpickling does to a reader costs
the run nothing: what had been shown before it is what is said of the item.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any

from runner.transport.messages import Ack, Grant, Ready, Reply, SuspectPreview
from runner.worker.failure import preview_item
from runner.worker.runtime import decode_item, each_encoded_item

if TYPE_CHECKING:
    from runner.transport.messages import GrantedRange
    from runner.worker.spec import WorkerPort, WorkerSpec

#: The private package of a project's own plugins.
_LOCAL = re.compile(r"^_runner_plugins_\w+\.")
#: Operations of a pickle that are looked at for its type.
_MOST_OPERATIONS = 50


def serve_previews(spec: WorkerSpec, port: WorkerPort) -> None:
    """Show items until nobody asks any more."""
    with contextlib.suppress(Exception):  # what the items are of may be defined beside the function
        spec.reference.load_callable()
    port.send(Ready(os.getpid()))
    while True:
        message = port.receive()
        if isinstance(message, Grant):
            _show(port, message)


def _show(port: WorkerPort, grant: Grant) -> None:
    items = [(part, frozen) for part, _, frozen in each_encoded_item(grant)]
    for _, frozen in items:
        port.send(SuspectPreview(grant.lease, f"<{describe_encoded(frozen)}, which cannot be unpickled>"))
    for part, frozen in items:
        port.send(SuspectPreview(grant.lease, preview_encoded(part, frozen)))
    port.send(Reply((Ack(grant.lease, 0),), (), 0.0))


def preview_encoded(part: GrantedRange, frozen: Any) -> str:
    """What an item looks like, whatever unpickling it raises."""
    try:
        item = decode_item(part, frozen)
    except BaseException as error:  # noqa: BLE001  the user's __setstate__ may raise anything
        return f"<{describe_encoded(frozen)}, which cannot be unpickled: {type(error).__name__}>"
    return preview_item(item)


def describe_encoded(frozen: Any) -> str:
    """What can be said of an item as it travelled, without unpickling it: its type and its size.

    >>> import fractions, pickle
    >>> describe_encoded((pickle.dumps(fractions.Fraction(1, 3), 5),))
    'fractions.Fraction of 45 bytes'
    >>> describe_encoded("text")
    'str'
    """
    if type(frozen) is not tuple:
        return type(frozen).__name__
    pickled = frozen[0] if isinstance(frozen[0], (bytes, memoryview)) else b""
    return f"{_type(bytes(pickled))} of {len(pickled):,} bytes" if pickled else "large item"


def _type(pickled: bytes) -> str:
    """The first class that a pickle names; operations are read, and none is executed."""
    import pickletools
    from itertools import islice

    texts: list[str] = []
    with contextlib.suppress(ValueError, IndexError):
        for operation, argument, _ in islice(pickletools.genops(pickled), _MOST_OPERATIONS):
            if operation.name == "STACK_GLOBAL":
                return _LOCAL.sub("", ".".join(texts[-2:]))
            if operation.name in {"EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET"} and not texts:
                return operation.name.removeprefix("EMPTY_").lower()
            if isinstance(argument, str):
                texts.append(argument)
    return "object"
