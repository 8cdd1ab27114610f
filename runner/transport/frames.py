"""Messages to bytes and back: a fixed prefix, a JSON header, and the payloads behind it, untouched.

    | magic 2 | kind 1 | - 1 | header length 4 | payload length 8 |  header (JSON)  |  payloads ...  |

JSON, because what a confused worker writes into its socket must never execute anything in the supervisor, nor crash
it: whatever cannot be read is a `FrameError`, and its worker is given up. The header holds each payload's length.
Of what lies in arenas only its place is told, and an `Arena`'s descriptor travels beside its message (`link`).
"""

from __future__ import annotations

import json
import struct
from typing import Any

from runner.errors import RunnerError
from runner.errortext import ErrorText
from runner.transport.messages import (
    PICKLED,
    Ack,
    Answer,
    Arena,
    Credit,
    Failed,
    Failure,
    Finished,
    FromWorker,
    Grant,
    LetterText,
    Lodged,
    Made,
    Output,
    Part,
    Progress,
    Ready,
    Shown,
    Stop,
    ToWorker,
)

PREFIX = struct.Struct("<2sBxIQ")
MAGIC = b"rn"
MOST_HEADER = 1 << 28
MOST_PAYLOAD = 1 << 40

Buffer = bytes | bytearray | memoryview


class FrameError(RunnerError):
    """Bytes that are no message."""


_dumps = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode
_loads = json.JSONDecoder().decode


def pack(message: ToWorker | FromWorker) -> list[Buffer]:
    """The buffers to write, in order; payloads are not copied."""
    payloads: list[Buffer] = []
    kind, body = _PACK[type(message)](message, payloads)
    lengths = [len(payload) for payload in payloads]
    header = _dumps([body, lengths]).encode("ascii")
    return [PREFIX.pack(MAGIC, kind, len(header), sum(lengths)) + header, *payloads]


def unpack(kind: int, header: bytes, payload: memoryview) -> Any:
    """The message of a header and the bytes behind it; `FrameError` when they are none."""
    try:
        body, lengths = _loads(header.decode("ascii"))
        parts: list[memoryview] = []
        at = 0
        for length in lengths:
            parts.append(payload[at : at + length])
            at += length
        if at != len(payload):
            raise FrameError(f"{len(payload)} bytes of payload where the header says {at}")
        return _UNPACK[kind](body, parts)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise FrameError(f"not a message: {error}") from None


def read_prefix(prefix: Buffer) -> tuple[int, int, int]:
    """Kind, header length and payload length."""
    magic, kind, header, payload = PREFIX.unpack(prefix)
    if magic != MAGIC or kind not in _UNPACK or header > MOST_HEADER or payload > MOST_PAYLOAD:
        raise FrameError("not a message: wrong prefix")
    return kind, header, payload


# -- one pair of functions for each message ---------------------------------------------------


def _error(error: ErrorText) -> list[Any]:
    return [error.type, error.message, error.traceback, error.names]


def _to_error(body: list[Any]) -> ErrorText:
    return ErrorText(body[0], body[1], body[2], tuple(body[3]))


def _letter(letter: LetterText | None) -> list[Any] | None:
    return None if letter is None else [letter.error, letter.traceback, letter.task, letter.worker, letter.attempts]


def _pack_grant(message: Grant, payloads: list[Buffer]) -> tuple[int, list[Any]]:
    parts = []
    last: Any = None
    for part in message.parts:
        if part.payload is not last:  # neighbouring parts of one chunk share its bytes
            last = part.payload
            payloads.append(last.data if type(last) is Lodged else last)
        tries = (part.attempt, part.crashes)
        parts.append([part.number, part.start, part.count, *tries, len(payloads) - 1, _letter(part.letter)])
    return 1, [message.lease, message.slice, parts, message.freed]


def _unpack_grant(body: list[Any], payloads: list[memoryview]) -> Grant:
    lease, slice_, parts, freed = body
    return Grant(
        lease,
        slice_,
        tuple(
            Part(number, start, count, attempt, crashes, PICKLED, payloads[at], LetterText(*letter) if letter else None)
            for number, start, count, attempt, crashes, at, letter in parts
        ),
        tuple(freed),
    )


def _outputs(outputs: tuple[Output, ...], payloads: list[Buffer]) -> list[list[Any]]:
    payloads.extend(output.payload for output in outputs)
    return [[output.group, output.count, output.size, output.priorities, output.slots] for output in outputs]


def _to_outputs(body: list[list[Any]], payloads: list[memoryview]) -> tuple[Output, ...]:
    return tuple(
        Output(group, count, size, bytes(payload), tuple(priorities), _triples(slots) if slots else ())
        for (group, count, size, priorities, slots), payload in zip(body, payloads, strict=True)
    )


def _triples(slots: list[list[int]]) -> tuple[tuple[int, int, int], ...]:
    return tuple((int(arena), int(offset), int(length)) for arena, offset, length in slots)


def _pairs(keys: list[list[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((int(arena), int(offset)) for arena, offset in keys)


def _pack_answer(message: Answer, payloads: list[Buffer]) -> tuple[int, list[Any]]:
    acks = [
        [
            ack.lease,
            ack.done,
            [[f.index, f.count, _error(f.error), f.preview, f.verdict, f.retry_after] for f in ack.failures],
            ack.more,
        ]
        for ack in message.acks
    ]
    told = [message.kept, message.gone]
    return 5, [acks, _outputs(message.outputs, payloads), message.busy, message.coding, *told]


def _unpack_answer(body: list[Any], payloads: list[memoryview]) -> Answer:
    acks, outputs, busy, coding, kept, gone = body
    return Answer(
        tuple(
            Ack(
                lease,
                done,
                tuple(
                    Failure(index, count, _to_error(error), preview, verdict, after)
                    for index, count, error, preview, verdict, after in failures
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
    Credit: lambda m, _: (2, [m.total, m.slice, m.freed]),
    Stop: lambda m, _: (3, [m.ended]),
    Ready: lambda m, _: (4, [m.pid]),
    Answer: _pack_answer,
    Made: lambda m, payloads: (6, [m.items, _outputs(m.outputs, payloads), m.busy]),
    Progress: lambda m, _: (7, [m.done, m.total]),
    Finished: lambda m, _: (8, [m.result, m.early]),
    Shown: lambda m, _: (10, [m.lease, m.preview]),
    Arena: lambda m, _: (11, [m.number, m.freed]),
    Failed: lambda m, _: (9, [m.where, _error(m.error), m.verdict, m.after]),
}
_UNPACK: dict[int, Any] = {
    1: _unpack_grant,
    2: lambda body, _: Credit(body[0], body[1], tuple(body[2])),
    3: lambda body, _: Stop(*body),
    4: lambda body, _: Ready(*body),
    5: _unpack_answer,
    6: lambda body, payloads: Made(body[0], _to_outputs(body[1], payloads), body[2]),
    7: lambda body, _: Progress(*body),
    8: lambda body, _: Finished(*body),
    10: lambda body, _: Shown(*body),
    11: lambda body, _: Arena(int(body[0]), freed=tuple(body[1])),
    9: lambda body, _: Failed(body[0], _to_error(body[1]), body[2], body[3]),
}
