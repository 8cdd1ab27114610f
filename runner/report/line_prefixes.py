"""Bytes to whole lines, and the name in front of them."""

from __future__ import annotations

import re
import zlib

from runner.text import printable_line, printable_text

_MOST_LINE = 1 << 16
#: Everything that a terminal would act on, apart from colours (`ESC [ ... m`) and tabs.
_CONTROL = re.compile(
    rb"\x1b\[[0-9;]*m|(\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.?|[\x00-\x08\x0b-\x1f\x7f])"
)
#: Beyond ASCII: control characters, line separators, overrides of the direction of writing, and what takes no room
#: outside of scripts that are written with it.
_STEERS = re.compile("[\x80-\x9f\u200b\u2028-\u202e\u2060-\u2069\ufeff]")
_RESET = b"\x1b[0m"
_COLORS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class LineSplitter:
    r"""Cuts a stream into lines; what is not finished yet waits. Memory is bounded: a line over 64 KiB comes in parts.

    >>> splitter = LineSplitter(); splitter.feed(b"one\ntw"), splitter.feed(b"o"), splitter.finish()
    ([b'one\n'], [], [b'two\n'])
    """

    def __init__(self, *, raw: bool = False, terminal: bool = False) -> None:
        self._raw = raw
        self._clean = terminal_safe if terminal else strip_controls
        #: An unfinished last line.
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that are whole now."""
        if self._raw:
            return [data]
        *lines, self.rest = (self.rest + data).split(b"\n")
        whole = [self._clean(line) + b"\n" for line in lines]
        while len(self.rest) > _MOST_LINE:
            cut = _between_characters(self.rest, _MOST_LINE)
            whole.append(self._clean(self.rest[:cut]) + b"\n")
            self.rest = self.rest[cut:]
        return whole

    def finish(self) -> list[bytes]:
        """Return the unfinished last line, finished."""
        rest, self.rest = self.rest, b""
        return [self._clean(rest) + b"\n"] if rest else []


def _between_characters(text: bytes, at: int) -> int:
    """Return `at`, or up to three bytes before, where no UTF-8 character is torn."""
    return next((cut for cut in range(at, at - 4, -1) if text[cut] & 0xC0 != 0x80), at)


def strip_controls(line: bytes) -> bytes:
    r"""Return a line without control sequences other than colours; of a progress bar only its last state.

    >>> strip_controls(b"10%\r20%\r\x1b[2K30%"), strip_controls(b"\x1b[31mred\x1b[0m")
    (b'30%', b'\x1b[31mred\x1b[0m')
    """
    if line.isascii() and line.isalnum():
        return line
    states = line.rstrip(b"\r").rsplit(b"\r", 1)
    return _CONTROL.sub(lambda found: b"" if found.group(1) else found.group(0), states[-1])


def terminal_safe(line: bytes) -> bytes:
    r"""Return a line for a terminal: also without what steers it beyond ASCII, and with its colours ended.

    >>> terminal_safe(b"\xc2\x9b2Ja\x9b"), terminal_safe("\u202egnp".encode()), terminal_safe(b"\x1b[31mred")
    (b'\\x9b2Ja\\x9b', b'\\u202egnp', b'\x1b[31mred\x1b[0m')
    """
    line = strip_controls(line)
    if not line.isascii():
        line = _STEERS.sub(lambda found: printable_text(found[0]), line.decode("utf-8", "backslashreplace")).encode()
    return line if b"\x1b" not in line or line.endswith(_RESET) else line + _RESET


def worker_prefix(name: str, *, color: bool = False) -> bytes:
    """Return what stands before each line of a worker; its colour depends on its name alone.

    >>> worker_prefix("pa")
    b'pa | '
    """
    name = printable_line(name)
    mark = f"{name} | ".encode()
    if not color:
        return mark
    code = _COLORS[zlib.crc32(name.encode()) % len(_COLORS)]
    return b"\x1b[%dm%s\x1b[0m" % (code, mark)
