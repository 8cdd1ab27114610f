"""Numbers, durations and foreign text, as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Short, with the unit.

    >>> duration(0.0042), duration(3.25), duration(252), duration(7384)
    ('4ms', '3.2s', '4m12s', '2h03m')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds != int(seconds) else f"{seconds:.0f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def number(count: int, word: str) -> str:
    """A count with its word.

    >>> number(1, "item"), number(1200, "item")
    ('1 item', '1,200 items')
    """
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def plain(text: str) -> str:
    r"""Foreign text without anything that a terminal would act on.

    >>> plain("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)
