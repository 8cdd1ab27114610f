"""Text that is safe and rightly aligned on a terminal."""

from __future__ import annotations


def display_width(text: str) -> int:
    """Return the columns on a terminal: characters of East Asian scripts take two."""
    if text.isascii():
        return len(text)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)


def clean_text(text: str, limit: int | None = None) -> str:
    r"""Return text that cannot steer a terminal: control and bidi characters become `?`, tabs become spaces.

    >>> clean_text("a\tb\x1b[31m"), clean_text("x" * 9, 5)
    ('a b?[31m', 'xx...')
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 3] + "..."
    return text if text.isprintable() else "".join(_safe_char(char) for char in text)


def _safe_char(char: str) -> str:
    return char if char.isprintable() else (" " if char == "\t" else "?")
