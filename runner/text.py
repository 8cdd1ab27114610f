"""Foreign text, made harmless: names, titles, errors and records do not steer the terminal on which they are shown."""

from __future__ import annotations


def printable_text(text: str) -> str:
    r"""Text without anything that a terminal would act on; line breaks and tabs stay.

    What is not printable is written as Python writes it: control characters (also those above 127), characters that
    turn the direction of writing or take no room, halves of surrogate pairs.

    >>> printable_text("a\x1b[2Jb"), printable_text("x\u202egnp.exe"), printable_text("\udc80")
    ('a\\x1b[2Jb', 'x\\u202egnp.exe', '\\udc80')
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def printable_line(text: str) -> str:
    r"""The same on one line.

    >>> printable_line("a\n\tb\x1b")
    'a  b\\x1b'
    """
    return printable_text(text).replace("\n", " ").replace("\t", " ")


def _shown(char: str) -> str:
    if char.isprintable() or char in "\n\t":
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
