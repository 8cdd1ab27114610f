"""Text for people: made safe, cut, measured, aligned; times, sizes and counts in words. It imports nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence, Sized

#: Known words that one word is compared with: a hostile file must not cost time.
MAX_COMPARED_WORDS = 500


def printable_text(text: str) -> str:
    r"""Return text without anything that a terminal would act on; line breaks and tabs stay.

    What is not printable is written as Python writes it: control characters (also those above 127), characters that
    turn the direction of writing or take no room, halves of surrogate pairs.

    >>> printable_text("a\x1b[2Jb"), printable_text("x\u202egnp.exe"), printable_text("\udc80")
    ('a\\x1b[2Jb', 'x\\u202egnp.exe', '\\udc80')
    """
    return text if text.isprintable() else "".join(map(_escape_character, text))


def printable_line(text: str) -> str:
    r"""Return the same on one line.

    >>> printable_line("a\n\tb\x1b")
    'a  b\\x1b'
    """
    return printable_text(text).replace("\n", " ").replace("\t", " ")


def _escape_character(char: str) -> str:
    if char.isprintable() or char in "\n\t":
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def clean_text(text: str, limit: int | None = None) -> str:
    r"""Return text that is safe and has as many characters as before, so that a caret below it stays in its place.

    Control and bidi characters become `?`, tabs become spaces; `limit` cuts what is longer.

    >>> clean_text("a\tb\x1b[31m"), clean_text("x" * 9, 5)
    ('a b?[31m', 'xx...')
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 3] + "..."
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " if char == "\t" else "?" for char in text)


def cut_text(text: str, columns: int) -> str:
    """Return text that takes at most so many columns.

    >>> cut_text("resize", 6), cut_text("resize-images", 6), cut_text("面包师", 5)
    ('resize', 'resiz…', '面包…')
    """
    if len(text) <= columns and display_width(text) <= columns:
        return text
    text = text[: columns - 1]
    while display_width(text) > columns - 1:
        text = text[:-1]
    return f"{text}…"


def cut_middle(text: str, most: int, head: int | None = None) -> str:
    r"""Return at most about `most` characters, cut after `head` of them, by default in the middle.

    >>> cut_middle("a" * 50 + "b" * 50, 20)
    'aaaaaaaaaa\n... 80 characters ...\nbbbbbbbbbb'
    """
    if len(text) <= most:
        return text
    head = most // 2 if head is None else head
    tail = most - head
    return f"{text[:head]}\n... {len(text) - most:,} characters ...\n{text[-tail:]}"


def display_width(text: str) -> int:
    """Return how many columns of a terminal a text takes: characters of East Asian scripts take two.

    >>> display_width("baker"), display_width("面包师")
    (5, 6)
    """
    if text.isascii():
        return len(text)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)


def format_table(rows: Sequence[Sequence[str]], number_side: str = "<") -> list[str]:
    """Return a line for each row, safe to show: the first column stands to the left, the others to `number_side`.

    >>> format_table([("", "done"), ("面包师", "7")], ">")
    ['        done', '面包师     7']
    """
    rows = [[printable_line(cell) for cell in row] for row in rows]
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
    sides = ["<", *[number_side] * len(widths)][: len(widths)]
    return ["  ".join(map(_align_cell, row, widths, sides)).rstrip() for row in rows]


def _align_cell(text: str, columns: int, side: str) -> str:
    return f"{text:{side}{columns - display_width(text) + len(text)}}"


def format_duration(seconds: float) -> str:
    """Return a time that has passed, short and with its unit.

    >>> format_duration(0.0042), format_duration(3.25), format_duration(252), format_duration(7384)
    ('4ms', '3.2s', '4m12s', '2h03m')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds != int(seconds) else f"{seconds:.0f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def format_seconds(seconds: float) -> str:
    """Return a time as the file would write it.

    >>> format_seconds(30), format_seconds(0.25), format_seconds(120)
    ('30s', '250ms', '2m')
    """
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    return f"{seconds / 60:g}m" if seconds >= 60 and seconds % 60 == 0 else f"{seconds:g}s"


def format_count(items: int) -> str:
    """Return a count; from a million on to three figures.

    >>> format_count(999_999), format_count(1_234_567), format_count(10_000_000)
    ('999,999', '1.23M', '10.0M')
    """
    if items < 1_000_000:
        return f"{items:,}"
    value, unit = (items / 1e6, "M") if items < 999_500_000 else (items / 1e9, "G")
    return f"{value:.{max(0, 2 - (value >= 10) - (value >= 100))}f}{unit}"


def time_or_empty(seconds: float | None) -> str:
    """Return a time per item to two figures; nothing when it was not measured.

    >>> [time_or_empty(seconds) for seconds in (1.48e-7, 0.0000123, 0.0042, 0.25, 3.1, 252, None)]
    ['0.15us', '12us', '4.2ms', '250ms', '3.1s', '4m12s', '']
    """
    if seconds is None:
        return ""
    for unit, size in (("us", 1e-6), ("ms", 1e-3)):
        value = seconds / size
        if value < 999.5:
            digits = 2 if value < 0.995 else 1 if value < 9.95 else 0
            return f"{value:.{digits}f}{unit}"
    return format_duration(seconds)


def size_or_empty(count: int | None) -> str:
    """Return a number of bytes in the unit that suits; nothing when they are not known.

    >>> size_or_empty(512), size_or_empty(21_520_384), size_or_empty(3_400_000_000), size_or_empty(None)
    ('512B', '22MB', '3.4GB', '')
    """
    if not count:
        return ""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f}{unit}" if value >= 9.95 or unit == "B" else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f}TB"


def format_percentage(part: float, whole: float) -> str:
    """Return a part in per cent; nothing for none.

    >>> format_percentage(1, 3), format_percentage(0, 3), format_percentage(0.0001, 1), format_percentage(1, 0)
    ('33 %', '', '<1 %', '')
    """
    if part <= 0 or whole <= 0:
        return ""
    return f"{100 * part / whole:.0f} %" if part / whole >= 0.005 else "<1 %"


def format_rate(per_second: float) -> str:
    """Return a rate as items a second.

    >>> format_rate(0.25), format_rate(12.34), format_rate(123456.7)
    ('0.25/s', '12.3/s', '123,457/s')
    """
    return f"{per_second:,.0f}/s" if per_second >= 100 else f"{per_second:.3g}/s"


def count_or_empty(items: int) -> str:
    """Return a count for a table, where a 0 says nothing.

    >>> count_or_empty(7), count_or_empty(0)
    ('7', '')
    """
    return format_count(items) if items else ""


def count_workers(names: Sized, least: int, noun: str) -> str:
    """Return the number of a task's workers, or its range, for people.

    >>> count_workers(("a", "b"), 0, "thread"), count_workers(("a", "b", "c"), 1, "process")
    ('2 threads', '1..3 processes')
    """
    counted = count_with_noun(len(names), noun)
    return f"{least}..{counted}" if least else counted


def count_with_noun(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> count_with_noun(1, "item"), count_with_noun(1200, "item"), count_with_noun(2, "process")
    ('1 item', '1,200 items', '2 processes')
    """
    plural = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{plural}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question with the known word that is nearest to a wrong one, or nothing.

    >>> did_you_mean("wrokers", ["workers", "queues"]), did_you_mean("x", ["workers"])
    ('did you mean `workers`?', '')
    """
    import difflib
    import itertools

    words = {one.casefold(): one for one in itertools.islice(known, MAX_COMPARED_WORDS)}
    found = difflib.get_close_matches(word[:60].casefold(), words, 1, 0.6)
    return f"did you mean `{clean_text(words[found[0]])}`?" if found else ""
