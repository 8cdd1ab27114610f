"""Messages to bytes and back: a fixed prefix, a JSON header, and the payloads behind it, untouched.

    | magic 2 | kind 1 | - 1 | header length 4 | payload length 8 |  header  |  payloads ...  |

The header is JSON, or, for the usual grant and answer, a row of numbers (a fifth of the time). Neither can execute
anything in the supervisor, nor crash it, whatever a confused worker writes into its socket: what cannot be read is a
`FrameError`, and its worker is given up. The header holds each payload's length.
Of what lies in arenas only its place is told, and an `ArenaNotice`'s descriptor travels beside its message (`link`).
"""

from __future__ import annotations

import json
import struct
from typing import Any

from runner.error_text import ErrorText
from runner.errors import RunnerError
from runner.transport.messages import (
    PICKLED,
    Ack,
    ArenaNotice,
    Credit,
    Failed,
    Failure,
    FailureText,
    Finished,
    FromWorker,
    Grant,
    GrantedRange,
    MeasuredTimes,
    Output,
    Produced,
    ProgressReport,
    Ready,
    Reply,
    SharedPayload,
    Stop,
    SuspectPreview,
    ToWorker,
)

PREFIX_STRUCT = struct.Struct("<2sBxIQ")
MAGIC_BYTES = b"rn"
MAX_HEADER_BYTES = 1 << 28
MAX_PAYLOAD_BYTES = 1 << 40

WireBuffer = bytes | bytearray | memoryview


class FrameError(RunnerError):
    """Bytes that are no message."""


_dumps = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode
_loads = json.JSONDecoder().decode


def pack_message(message: ToWorker | FromWorker) -> list[WireBuffer]:
    """The buffers to write, in order; payloads are not copied."""
    payloads: list[WireBuffer] = []
    if (rows := _ROWS.get(type(message))) is not None and (header := rows(message, payloads)) is not None:
        kind = _ROWS_KIND[type(message)]
        return [PREFIX_STRUCT.pack(MAGIC_BYTES, kind, len(header), sum(map(len, payloads))) + header, *payloads]
    kind, body = _PACK[type(message)](message, payloads)
    lengths = [len(payload) for payload in payloads]
    header = _dumps([body, lengths]).encode("ascii")
    return [PREFIX_STRUCT.pack(MAGIC_BYTES, kind, len(header), sum(lengths)) + header, *payloads]


def unpack_message(kind: int, header: memoryview, payload: memoryview) -> Any:
    """The message of a header and the bytes behind it; `FrameError` when they are none."""
    try:
        if (rows := _FROM_ROWS.get(kind)) is not None:
            return rows(header, payload)
        body, lengths = _loads(str(header, "ascii"))
        parts: list[memoryview] = []
        at = 0
        for length in lengths:
            parts.append(payload[at : at + length])
            at += length
        if at != len(payload):
            raise FrameError(f"{len(payload)} bytes of payload where the header says {at}")
        return _UNPACK[kind](body, parts)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError, struct.error) as error:
        raise FrameError(f"not a message: {error}") from None


def read_prefix(prefix: WireBuffer) -> tuple[int, int, int]:
    """Kind, header length and payload length."""
    magic, kind, header, payload = PREFIX_STRUCT.unpack(prefix)
    if (
        magic != MAGIC_BYTES
        or not (kind in _UNPACK or kind in _FROM_ROWS)
        or header > MAX_HEADER_BYTES
        or payload > MAX_PAYLOAD_BYTES
    ):
        raise FrameError("not a message: wrong prefix")
    return kind, header, payload


# -- one pair of functions for each message ---------------------------------------------------


def _error(error: ErrorText) -> list[Any]:
    return [error.type, error.message, error.traceback, error.names]


def _to_error(body: list[Any]) -> ErrorText:
    return ErrorText(body[0], body[1], body[2], tuple(body[3]))


def _letter(letter: FailureText | None) -> list[Any] | None:
    return None if letter is None else [letter.error, letter.traceback, letter.task, letter.worker, letter.attempts]


def _pack_grant(message: Grant, payloads: list[WireBuffer]) -> tuple[int, list[Any]]:
    parts = []
    last: Any = None
    for part in message.parts:
        if part.payload is not last:  # neighbouring parts of one chunk share its bytes
            last = part.payload
            payloads.append(last.data if type(last) is SharedPayload else last)
        tries = (part.attempt, part.crashes)
        parts.append([part.chunk_number, part.start, part.count, *tries, len(payloads) - 1, _letter(part.dead_letter)])
    others = [_pack_grant(other, payloads)[1] for other in message.other_grants]
    return 1, [message.lease, message.time_slice, parts, others, message.freed_offsets]


def _unpack_grant(body: list[Any], payloads: list[memoryview]) -> Grant:
    lease, slice_, parts, others, freed = body
    return Grant(
        lease,
        slice_,
        tuple(
            GrantedRange(
                number, start, count, attempt, crashes, PICKLED, payloads[at], FailureText(*letter) if letter else None
            )
            for number, start, count, attempt, crashes, at, letter in parts
        ),
        tuple(_unpack_grant(other, payloads) for other in others),
        tuple(freed),
    )


def _outputs(outputs: tuple[Output, ...], payloads: list[WireBuffer]) -> list[list[Any]]:
    payloads.extend(output.payload for output in outputs)
    return [[output.group_index, output.count, output.size, output.priorities, output.block_refs] for output in outputs]


def _to_outputs(body: list[list[Any]], payloads: list[memoryview]) -> tuple[Output, ...]:
    return tuple(
        Output(group, count, size, bytes(payload), tuple(priorities), _triples(slots) if slots else ())
        for (group, count, size, priorities, slots), payload in zip(body, payloads, strict=True)
    )


def _triples(slots: list[list[int]]) -> tuple[tuple[int, int, int], ...]:
    return tuple((int(arena), int(offset), int(length)) for arena, offset, length in slots)


def _pairs(pairs: list[list[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((int(first), int(second)) for first, second in pairs)


def _pack_answer(message: Reply, payloads: list[WireBuffer]) -> tuple[int, list[Any]]:
    acks = [
        [
            ack.lease,
            ack.done,
            [
                [f.index, f.count, _error(f.error), f.preview, f.verdict, f.retry_after, f.previews]
                for f in ack.failures
            ],
            ack.keeps_rest,
        ]
        for ack in message.acks
    ]
    told = [message.still_viewed, message.released]
    return 5, [acks, _outputs(message.outputs, payloads), message.busy_seconds, message.codec_seconds, *told]


def _unpack_answer(body: list[Any], payloads: list[memoryview]) -> Reply:
    acks, outputs, busy, coding, kept, gone = body
    return Reply(
        tuple(
            Ack(
                lease,
                done,
                tuple(
                    Failure(index, count, _to_error(error), preview, verdict, after, tuple(previews))
                    for index, count, error, preview, verdict, after, previews in failures
                ),
                more,
            )
            for lease, done, failures, more in acks
        ),
        _to_outputs(outputs, payloads),
        busy,
        coding,
        _pairs(kept),
        _pairs(gone),
    )


_PACK: dict[type, Any] = {
    Grant: _pack_grant,
    Credit: lambda m, _: (2, [m.total_items, m.time_slice, m.freed_offsets]),
    Stop: lambda m, _: (3, [m.inputs_ended]),
    Ready: lambda m, _: (4, [m.pid]),
    Reply: _pack_answer,
    Produced: lambda m, payloads: (6, [m.item_count, _outputs(m.outputs, payloads), m.busy_seconds]),
    ProgressReport: lambda m, _: (7, [m.done, m.total]),
    MeasuredTimes: lambda m, _: (16, [m.time_histogram, m.cpu_seconds, m.peak_memory]),
    Finished: lambda m, _: (8, [m.result, m.returned_early]),
    SuspectPreview: lambda m, _: (10, [m.lease, m.preview]),
    ArenaNotice: lambda m, _: (15, [m.number, m.freed_offsets]),
    Failed: lambda m, _: (9, [m.failed_phase, _error(m.error), m.verdict, m.retry_after]),
}
_UNPACK: dict[int, Any] = {
    1: _unpack_grant,
    2: lambda body, _: Credit(body[0], body[1], tuple(body[2])),
    3: lambda body, _: Stop(*body),
    4: lambda body, _: Ready(*body),
    5: _unpack_answer,
    6: lambda body, payloads: Produced(body[0], _to_outputs(body[1], payloads), body[2]),
    7: lambda body, _: ProgressReport(*body),
    16: lambda body, _: MeasuredTimes(_pairs(body[0]), float(body[1]), int(body[2])),
    8: lambda body, _: Finished(*body),
    10: lambda body, _: SuspectPreview(*body),
    15: lambda body, _: ArenaNotice(int(body[0]), freed_offsets=tuple(body[1])),
    9: lambda body, _: Failed(body[0], _to_error(body[1]), body[2], body[3]),
}


# -- the usual grant and answer, as rows of numbers ---------------------------------------------

#: lease, slice, number of parts; a grant's others follow its parts, and what is freed comes before all of them
_GRANT = struct.Struct("<QdI")
#: number, start, count, attempt, crashes, length of its payload (0: that of the part before it)
_PART = struct.Struct("<QIIIIQ")
#: acks, outputs, busy, coding, buffers kept, buffers gone
_ANSWER = struct.Struct("<HIddII")
#: lease, done, more
_ACK = struct.Struct("<QI?")
#: items, busy, outputs
_MADE = struct.Struct("<QdI")
_CREDIT = struct.Struct("<Qd")
#: group, count, size, length, slots
_OUTPUT = struct.Struct("<HIQQI")
#: arena, offset, length; arena, offset; offset
_SLOT, _KEY, _OFFSET = struct.Struct("<QQQ"), struct.Struct("<QQ"), struct.Struct("<Q")
_COUNT = struct.Struct("<I")


def _grant_rows(message: Grant, payloads: list[WireBuffer]) -> bytes | None:
    """None: it has a letter."""
    rows = [_COUNT.pack(len(message.freed_offsets))]
    if message.freed_offsets:
        rows += _offsets(message.freed_offsets)
    last: Any = None
    for grant in (message, *message.other_grants):
        rows.append(_GRANT.pack(grant.lease, grant.time_slice, len(grant.parts)))
        for part in grant.parts:
            if part.dead_letter is not None:
                payloads.clear()
                return None
            length = 0
            if part.payload is not last:
                last = part.payload
                payloads.append(last.data if type(last) is SharedPayload else last)
                length = len(last)
            rows.append(_PART.pack(part.chunk_number, part.start, part.count, part.attempt, part.crashes, length))
    return b"".join(rows)


def _grant_from_rows(header: memoryview, payload: memoryview) -> Grant:
    grants: list[Grant] = []
    (freed,) = _COUNT.unpack_from(header)
    row = _COUNT.size + freed * _OFFSET.size
    free = _from_offsets(header[_COUNT.size : row])
    at = 0
    own = payload[:0]
    while row < len(header):
        lease, slice_, most = _GRANT.unpack_from(header, row)
        row += _GRANT.size
        parts = []
        for number, start, count, attempt, crashes, length in _PART.iter_unpack(header[row : row + most * _PART.size]):
            if length:
                own = payload[at : at + length]
                at += length
            parts.append(GrantedRange(number, start, count, attempt, crashes, PICKLED, own))
        row += most * _PART.size
        grants.append(Grant(lease, slice_, tuple(parts)))
    _all_read(at, payload)
    first = grants[0]
    if len(grants) == 1 and not freed:
        return first
    return Grant(first.lease, first.time_slice, first.parts, tuple(grants[1:]), free)


def _offsets(freed: tuple[int, ...]) -> list[bytes]:
    return [_OFFSET.pack(offset) for offset in freed]


def _from_offsets(rows: memoryview) -> tuple[int, ...]:
    return tuple(offset for (offset,) in _OFFSET.iter_unpack(rows))


def _answer_rows(message: Reply, payloads: list[WireBuffer]) -> bytes | None:
    """None: something has failed, or has priorities."""
    kept, gone = message.still_viewed, message.released
    counts = len(message.acks), len(message.outputs)
    rows = [_ANSWER.pack(*counts, message.busy_seconds, message.codec_seconds, len(kept), len(gone))]
    for ack in message.acks:
        if ack.failures:
            return None
        rows.append(_ACK.pack(ack.lease, ack.done, ack.keeps_rest))
    if kept or gone:
        rows += [_KEY.pack(*key) for key in kept + gone]
    return b"".join(rows) if _add_outputs(message.outputs, rows, payloads) else None


def _add_outputs(outputs: tuple[Output, ...], rows: list[bytes], payloads: list[WireBuffer]) -> bool:
    """Add their rows, and those of all their slots after them. False: one has priorities."""
    slots: list[bytes] = []
    for output in outputs:
        if output.priorities:
            payloads.clear()
            return False
        payload = output.payload
        payloads.append(payload)
        rows.append(_OUTPUT.pack(output.group_index, output.count, output.size, len(payload), len(output.block_refs)))
        if output.block_refs:
            slots += [_SLOT.pack(*slot) for slot in output.block_refs]
    rows += slots
    return True


def _outputs_from_rows(outputs: int, rows: memoryview, payload: memoryview) -> tuple[Output, ...]:
    made, at = [], 0
    slot = outputs * _OUTPUT.size
    if len(rows) < slot:
        raise FrameError("a header that ends too early")
    for group, count, size, length, slots in _OUTPUT.iter_unpack(rows[:slot]):
        lying = tuple(_SLOT.iter_unpack(rows[slot : slot + slots * _SLOT.size])) if slots else ()
        made.append(Output(group, count, size, bytes(payload[at : at + length]), (), lying))
        at += length
        slot += slots * _SLOT.size
    if slot != len(rows):
        raise FrameError("a header of the wrong length")
    _all_read(at, payload)
    return tuple(made)


def _answer_from_rows(header: memoryview, payload: memoryview) -> Reply:
    acks, outputs, busy, coding, kept, gone = _ANSWER.unpack_from(header)
    middle = _ANSWER.size + acks * _ACK.size
    end = middle + (kept + gone) * _KEY.size
    keys: Any = tuple(_KEY.iter_unpack(header[middle:end]))
    told = [Ack(lease, done, (), more) for lease, done, more in _ACK.iter_unpack(header[_ANSWER.size : middle])]
    made = _outputs_from_rows(outputs, header[end:], payload)
    return Reply(tuple(told), made, busy, coding, keys[:kept], keys[kept:])


def _made_rows(message: Produced, payloads: list[WireBuffer]) -> bytes | None:
    """None: it has priorities."""
    rows = [_MADE.pack(message.item_count, message.busy_seconds, len(message.outputs))]
    return b"".join(rows) if _add_outputs(message.outputs, rows, payloads) else None


def _made_from_rows(header: memoryview, payload: memoryview) -> Produced:
    items, busy, outputs = _MADE.unpack_from(header)
    return Produced(items, _outputs_from_rows(outputs, header[_MADE.size :], payload), busy)


def _all_read(at: int, payload: memoryview) -> None:
    if at != len(payload):
        raise FrameError(f"{len(payload)} bytes of payload where the header says {at}")


def _credit_row(message: Credit, _: list[WireBuffer]) -> bytes:
    return b"".join([_CREDIT.pack(message.total_items, message.time_slice), *_offsets(message.freed_offsets)])


def _credit_from_row(header: memoryview, payload: memoryview) -> Credit:
    _all_read(0, payload)
    total, slice_ = _CREDIT.unpack_from(header)
    return Credit(total, slice_, _from_offsets(header[_CREDIT.size :]))


_ROWS: dict[type, Any] = {Grant: _grant_rows, Reply: _answer_rows, Produced: _made_rows, Credit: _credit_row}
_ROWS_KIND: dict[type, int] = {Grant: 11, Reply: 12, Produced: 13, Credit: 14}
_FROM_ROWS: dict[int, Any] = {
    11: _grant_from_rows,
    12: _answer_from_rows,
    13: _made_from_rows,
    14: _credit_from_row,
}
