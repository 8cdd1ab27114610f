"""A reader: a worker that executes nothing, and shows items over which other workers have died.

    supervisor ── Grant (the suspects) ──▶ reader
               ◀── SuspectPreview, one for each: what is known of it without unpickling it ──
               ◀── SuspectPreview, one for each: its `repr` ──  or the reader dies of it, or takes too long
               ◀── Reply ──

The supervisor must never unpickle an item, and the worker that had it is dead. What unpickling does to a reader costs
the run nothing: what had been shown before it is what is said of the item.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from runner.local_modules import LOCAL_PREFIX
from runner.transport.messages import Ack, Grant, Ready, Reply, SuspectPreview
from runner.worker.failure import preview_item
from runner.worker.runtime import decode_item, each_encoded_item

if TYPE_CHECKING:
    from runner.transport.messages import GrantedRange
    from runner.worker.spec import WorkerPort, WorkerSpec

#: Operations of a pickle that are looked at for its type.
_MAX_OPERATIONS = 50


def serve_previews(spec: WorkerSpec, port: WorkerPort) -> None:
    """Show items until the supervisor is gone."""
    with contextlib.suppress(Exception):  # what the items are of may be defined beside the function
        spec.reference.load_callable()
    port.send(Ready(os.getpid()))
    while True:
        message = port.receive()
        if isinstance(message, Grant):
            items = [(part, encoded) for part, _, encoded in each_encoded_item(message)]
            for _, encoded in items:
                port.send(SuspectPreview(message.lease, f"<{describe_encoded(encoded)}, which cannot be unpickled>"))
            for part, encoded in items:
                port.send(SuspectPreview(message.lease, preview_encoded(part, encoded)))
            port.send(Reply((Ack(message.lease, 0),), (), 0.0))


def preview_encoded(part: GrantedRange, encoded: Any) -> str:
    """Return a preview of an item, whatever unpickling it raises."""
    try:
        item = decode_item(part, encoded)
    except BaseException as error:  # noqa: BLE001  the user's __setstate__ may raise anything
        return f"<{describe_encoded(encoded)}, which cannot be unpickled: {type(error).__name__}>"
    return preview_item(item)


def describe_encoded(encoded: Any) -> str:
    r"""Describe an item as it travelled, without unpickling it: its type and its size.

    >>> import fractions, pickle
    >>> describe_encoded((pickle.dumps(fractions.Fraction(1, 3), 5),))
    'fractions.Fraction of 45 bytes'
    >>> describe_encoded((b"\x80\x05\x8c!runner.local_modules./home/m.work\x8c\x04Loaf\x93.",))
    'work.Loaf of 45 bytes'
    >>> describe_encoded("text")
    'str'
    """
    if type(encoded) is not tuple:
        return type(encoded).__name__
    pickled = encoded[0] if isinstance(encoded[0], (bytes, memoryview)) else b""
    return f"{_pickled_type(bytes(pickled))} of {len(pickled):,} bytes" if pickled else "large item"


def _pickled_type(pickled: bytes) -> str:
    """Return the first class that a pickle names; operations are read, and none is executed."""
    import pickletools
    from itertools import islice

    texts: list[str] = []
    with contextlib.suppress(ValueError, IndexError):
        for operation, argument, _ in islice(pickletools.genops(pickled), _MAX_OPERATIONS):
            if operation.name == "STACK_GLOBAL":
                name = ".".join(texts[-2:])
                return name.split(".", 3)[3] if name.startswith(LOCAL_PREFIX) else name  # without the plugin's folder
            if operation.name in {"EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET"} and not texts:
                return operation.name.removeprefix("EMPTY_").lower()
            if isinstance(argument, str):
                texts.append(argument)
    return "object"
