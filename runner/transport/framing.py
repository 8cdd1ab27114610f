"""Messages to bytes and back: a fixed prefix, a header, and the payloads behind it, untouched.

    | magic 2 | - 2 | header length 4 | payload length 8 |  header  |  payloads ...  |

The header is the message in MessagePack. A few short payloads stand in it; if one is long, or there are many, each
stands as its length, and all of them follow. Reading a header executes nothing in the supervisor and cannot crash it,
whatever a confused worker writes into its socket: bytes that are not a message are a `FrameError`, and their worker is
given up. Of bytes in arenas only the place is told, and an `ArenaNotice`'s descriptor travels beside its message
(`socket_link`).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from runner.errors import RunnerError
from runner.transport.messages import FromWorker, Grant, Produced, Reply, SharedPayload, ToWorker

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runner.transport.messages import GrantedRange, Output

PREFIX_STRUCT = struct.Struct("<2s2xIQ")
MAGIC_BYTES = b"rn"
MAX_HEADER_BYTES = 1 << 28
MAX_PAYLOAD_BYTES = 1 << 40
#: A longer payload is not copied into the header. bench scale, wire: 1,000 numbers without it 16.2 us, with it 12.8
MAX_INLINE_BYTES = 1 << 14
#: Nor are more payloads: one call may yield a million items for a reader of single ones, and a header has a bound.
MAX_INLINE_PAYLOADS = 64

WireBuffer = bytes | bytearray | memoryview

_encode_header = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(ToWorker | FromWorker).decode


class FrameError(RunnerError):
    """Bytes that are not a message."""


def pack_message(message: ToWorker | FromWorker) -> list[WireBuffer]:
    """Return the buffers to write, in order; payloads are not copied."""
    payloads: list[WireBuffer] = []
    told: Any = message
    pieces: Sequence[GrantedRange | Output] = ()
    detached = False
    if type(message) is Grant:
        pieces, detached = message.parts, bool(message.other_grants)
    elif type(message) is Reply or type(message) is Produced:
        pieces = message.outputs
    for piece in pieces:  # no header shows bytes in arenas
        if len(piece.payload) > MAX_INLINE_BYTES or type(piece.payload) is SharedPayload:
            detached = True
    if detached or len(pieces) > MAX_INLINE_PAYLOADS:
        told = _detach_payloads(message, payloads)
    try:
        header = _encode_header(told)
    except (UnicodeEncodeError, TypeError):
        header = _encode_header(_with_plain_text(told))
    return [PREFIX_STRUCT.pack(MAGIC_BYTES, len(header), sum(map(len, payloads))) + header, *payloads]


def read_prefix(data: WireBuffer, at: int = 0) -> tuple[int, int]:
    """Return the lengths of the header and of the payloads; raise `FrameError` if there is no prefix here."""
    magic, header, payload = PREFIX_STRUCT.unpack_from(data, at)
    if magic != MAGIC_BYTES or header > MAX_HEADER_BYTES or payload > MAX_PAYLOAD_BYTES:
        raise FrameError("not a message: wrong prefix")
    return header, payload


def unpack_single(data: memoryview) -> Any:
    """Return the message if these bytes are exactly one, with nothing behind its header; else None: see `read_prefix`.

    # bench latency, wake-up to grant: without it and the sending of one buffer 136 and 81 us, with them 114 and 72.
    # A grant of one number from end to end: without it in the worker 8.8 us, with it 7.8.
    """
    if len(data) < PREFIX_STRUCT.size:
        return None
    magic, header, payload = PREFIX_STRUCT.unpack_from(data)
    if payload or header != len(data) - PREFIX_STRUCT.size or magic != MAGIC_BYTES:
        return None
    return unpack_message(data[PREFIX_STRUCT.size :], data[:0])


def unpack_whole(data: memoryview) -> Any:
    """Return the message that these bytes are, neither more nor less; else `FrameError`."""
    if (single := unpack_single(data)) is not None:
        return single
    size = PREFIX_STRUCT.size
    if len(data) < size:
        raise FrameError("not a message: too short")
    header, payload = read_prefix(data)
    if size + header + payload != len(data):
        raise FrameError(f"not a message: {len(data):,} bytes of {size + header + payload:,}")
    return unpack_message(data[size : size + header], data[size + header :])


def unpack_message(header: memoryview, payload: memoryview) -> Any:
    """Return the message of a header and the payloads behind it; raise `FrameError` if they are not one."""
    try:
        message = _decode_header(header)
        pieces: Iterable[GrantedRange | Output] = ()
        is_whole = True
        if type(message) is Reply or type(message) is Produced:
            pieces = message.outputs
        elif type(message) is Grant:
            pieces, is_whole = message.parts, not message.other_grants
        for piece in pieces:
            if type(piece.payload) is not bytes:
                is_whole = False
        if is_whole:
            if payload:
                raise FrameError(f"{len(payload)} bytes of payload more than the header says")
            return message
        return _attach_payloads(message, _PayloadReader(payload))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FrameError(f"not a message: {error}") from None


def _detach_payloads(message: Any, payloads: list[WireBuffer]) -> Any:
    """Return the message with lengths for payloads, which are added to `payloads`."""
    if type(message) is Grant:
        return _detach_grant(message, payloads)
    payloads += [output.payload for output in message.outputs]
    return replace(message, outputs=[replace(output, payload=len(output.payload)) for output in message.outputs])


def _detach_grant(grant: Grant, payloads: list[WireBuffer]) -> Grant:
    """Return the grant with lengths for payloads; None says that the range before it has the same one."""
    parts = []
    for part in grant.parts:
        data = part.payload.data if type(part.payload) is SharedPayload else part.payload
        length = None
        if not payloads or payloads[-1] is not data:
            payloads.append(data)
            length = len(data)
        parts.append(replace(part, payload=length))
    return replace(grant, parts=parts, other_grants=[_detach_grant(other, payloads) for other in grant.other_grants])


def _attach_payloads(message: Any, payloads: _PayloadReader) -> Any:
    if isinstance(message, Grant):
        message = _attach_grant(message, payloads)
    else:
        outputs = [replace(each, payload=bytes(payloads.read(each.payload))) for each in message.outputs]
        message = replace(message, outputs=tuple(outputs))
    if payloads.unread:
        raise FrameError(f"{len(payloads.unread)} bytes of payload more than the header says")
    return message


def _attach_grant(grant: Grant, payloads: _PayloadReader) -> Grant:
    parts = tuple([replace(part, payload=payloads.read(part.payload)) for part in grant.parts])
    others = tuple([_attach_grant(other, payloads) for other in grant.other_grants])
    return replace(grant, parts=parts, other_grants=others)


class _PayloadReader:
    """Payloads that lie one behind the other."""

    __slots__ = ("_last", "unread")

    def __init__(self, payload: memoryview) -> None:
        self.unread, self._last = payload, payload[:0]

    def read(self, length: Any) -> memoryview:
        """Return the next payload, or for None the last one once more."""
        if length is not None:
            if type(length) is not int or not 0 <= length <= len(self.unread):
                raise FrameError(f"a payload of length {length!r} where there are {len(self.unread)} bytes")
            self._last, self.unread = self.unread[:length], self.unread[length:]
        return self._last


def _with_plain_text(value: Any) -> Any:
    """Return a message whose texts can be encoded: halves of surrogate pairs escaped, subclasses of `str` as `str`.

    Names of files that are not UTF-8 have such halves, and the text of an error may be whatever a `__str__` returns.
    """
    if isinstance(value, msgspec.Struct):
        return type(value)(*map(_with_plain_text, msgspec.structs.astuple(value)))
    if isinstance(value, (tuple, list)):
        return [_with_plain_text(each) for each in value]
    return str.encode(value, "utf-8", "backslashreplace").decode() if isinstance(value, str) else value
