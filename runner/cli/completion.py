"""Completion in bash, zsh and fish: the words of a command line, what may come next, and how each shell is told.

The scripts in `completions/` execute `runner` with the line in `_RUNNER_LINE` and read one answer from each line of its
output. Typer has scripts as well; but that for zsh evaluates the answer, so that a file's texts could be executed, and
that for bash joins words that bash has split at `=`. Typer still finds out what may come next, and installs a script.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.structs import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Names the shell that asks; typer's own protocol has other values in it.
SHELL_VARIABLE = "_RUNNER_COMPLETE"
_LINE, _WORDBREAKS = "_RUNNER_LINE", "_RUNNER_WORDBREAKS"
_FOLDER = Path(__file__).with_name("completions")
#: What bash takes as it is outside quotes.
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-")
#: What a backslash escapes inside double quotes.
_ESCAPED_IN_QUOTES = frozenset('\\"$`')


#: White space; what is quoted, perhaps to the end of the line; a character behind a backslash; any other character.
_PART = re.compile(
    r"""(?P<space>\s+)|'(?P<single>[^']*)(?P<single_end>'?)|"(?P<double>(?:\\.|[^"\\])*\\?)(?P<double_end>"?)"""
    r"""|\\(?P<escaped>.?)|(?P<plain>[^\s'"\\])""",
    re.DOTALL,
)
_ESCAPE_IN_QUOTES = re.compile(r'\\([\\"$`])')


@dataclass(frozen=True, slots=True)
class ShellLine:
    """A command line up to the cursor: its finished words, and the one that is being typed, without quotes.

    `quote` is the quote that is open at the cursor, or empty. `begin` is where bash has the beginning of what it
    replaces: behind an open quote, or behind the last character at which it breaks words.
    """

    words: tuple[str, ...]
    current: str
    quote: str = ""
    begin: int = 0


def split_line(line: str, breaks: str = "") -> ShellLine:
    """Split a line as shells do; what is not finished is the current word.

    >>> split_line('runner run -k "two pe')
    ShellLine(words=('runner', 'run', '-k'), current='two pe', quote='"', begin=0)
    >>> split_line("runner run -p kind=r", "=:")
    ShellLine(words=('runner', 'run', '-p'), current='kind=r', quote='', begin=5)
    >>> split_line("runner run ")
    ShellLine(words=('runner', 'run'), current='', quote='', begin=0)
    """
    words: list[str] = []
    current, quote, begin, has_begun = "", "", 0, False
    for part in _PART.finditer(line):
        kind = part.lastgroup or ""
        if kind == "space":
            words += [current] if has_begun else []
            current, begin, has_begun = "", 0, False
            continue
        has_begun = True
        if kind.endswith("_end"):
            if not part[kind]:  # nothing can follow
                quote, begin = part[0][0], len(current)
            current += part["single"] or _ESCAPE_IN_QUOTES.sub(r"\1", part["double"] or "")
        else:
            current += part[kind]
            if kind == "plain" and part[kind] in breaks:
                begin = len(current)
    return ShellLine(tuple(words), current, quote, begin)


def find_completions(program: Any, line: ShellLine) -> list[tuple[str, str]]:
    """Return what the current word may become, each with its help; nothing of the project is executed."""
    from typer._completion_classes import BashComplete

    # `--param=x` is one word for shells; typer completes its value.
    option, equals, _ = line.current.partition("=")
    head = option + equals if equals and option.startswith("-") else ""
    asked = BashComplete(program, {}, "runner", SHELL_VARIABLE)
    with contextlib.redirect_stdout(io.StringIO()):  # `--version` is acted upon when it is read
        found = asked.get_completions(list(line.words[1:]), line.current)
    values = [(head + item.value, item.help or "") for item in found if item.type == "plain"]
    return [(value, " ".join(text.split())) for value, text in values if value.isprintable()]


def complete_line(program: Any, environ: Mapping[str, str]) -> str:
    """Return what the script of a shell reads: a line for each word that may come."""
    line = split_line(environ.get(_LINE, ""), environ.get(_WORDBREAKS, ""))
    write = _WRITERS[environ[SHELL_VARIABLE]]
    return "".join(write(value, text, line) + "\n" for value, text in find_completions(program, line))


def _write_bash(value: str, _text: str, line: ShellLine) -> str:
    """Return what bash puts in the place of what it replaces, quoted."""
    rest = value[line.begin :]
    if line.quote == '"':
        return "".join(f"\\{each}" if each in _ESCAPED_IN_QUOTES else each for each in rest)
    if line.quote:
        return rest.replace("'", "'\\''")
    return "".join(each if each in _PLAIN or not each.isascii() else f"\\{each}" for each in rest)


def _write_described(value: str, text: str, _line: ShellLine) -> str:
    """Return a word and its help; zsh and fish quote words themselves."""
    return f"{value}\t{text if text.isprintable() else ''}"


_WRITERS: dict[str, Callable[[str, str, ShellLine], str]] = {
    "bash": _write_bash,
    "zsh": _write_described,
    "fish": _write_described,
}


def is_asked(environ: Mapping[str, str]) -> bool:
    """Return True if a shell's script has started this process."""
    return environ.get(SHELL_VARIABLE, "") in _WRITERS


def answer_shell(program: Any) -> None:
    """Write what the word at the cursor may become; in any trouble nothing, for a person is typing."""
    with contextlib.suppress(Exception, SystemExit):
        sys.stdout.write(complete_line(program, os.environ))
        sys.stdout.flush()


def use_own_scripts() -> None:
    """Have `--install-completion` and `--show-completion` of typer take runner's scripts.

    The table is private to typer, so it is used only where it is as expected.
    """
    try:
        from typer._completion_shared import _completion_scripts as scripts
    except ImportError:
        return
    for shell in _WRITERS:  # typer fills in names by `%`
        scripts[shell] = (_FOLDER / f"runner.{shell}").read_text(encoding="utf-8").replace("%", "%%")
