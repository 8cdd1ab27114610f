"""The problems of a file: a `Problem` has a code, a place and a way out; `render` shows them to people."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from runner.structs import dataclass, field
from runner.text import clean_text, count_with_noun, display_width

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Severity = Literal["error", "warning"]

#: A line of a file is shown up to here; longer ones are cut around the caret.
MAX_LINE_WIDTH = 110
#: Nobody reads more problems than this, and finding them must not cost time.
MAX_SHOWN_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Location:
    """The location of a value in a file; lines and columns count from 1, `length` is in characters."""

    file: str
    line: int = 0
    column: int = 0
    length: int = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a file. `source` is its line of the file, empty if it has none."""

    code: str
    message: str
    place: Location
    severity: Severity = "error"
    hint: str = ""
    source: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{format_location(self.place)}: {self.code} {self.message}"


def format_location(place: Location) -> str:
    """Return `file:line:column`, or just the file (or option, or variable) when there is no line.

    >>> format_location(Location("tasks.toml", 14, 1)), format_location(Location("--set run.grace"))
    ('tasks.toml:14:1', '--set run.grace')
    """
    return f"{clean_text(place.file)}:{place.line}:{place.column}" if place.line else clean_text(place.file)


def nearest_location(locations: Mapping[tuple[str, ...], Location], path: tuple[str, ...], file: str) -> Location:
    """Return the location of the key `path`, or of its nearest parent; in the end, of the file."""
    found = (locations.get(path[:end]) for end in range(len(path), 0, -1))
    return next(filter(None, found), Location(file))


def sorted_problems(problems: Iterable[Problem]) -> list[Problem]:
    """Return each problem once, sorted by place."""
    return sorted(dict.fromkeys(problems), key=lambda one: (one.place.file, one.place.line, one.place.column, one.code))


def render_problems(problems: Sequence[Problem]) -> str:
    """Return all problems as text, with the lines they stand in, and a count at the end."""
    shown, told = [], set()
    for problem in problems[:MAX_SHOWN_PROBLEMS]:
        again = problem.hint in told and _is_trace(problem.hint)
        shown.append(_render_problem(replace(problem, hint="its traceback is above") if again else problem))
        told.add(problem.hint)
    if len(problems) > MAX_SHOWN_PROBLEMS:
        shown.append(f"... and {len(problems) - MAX_SHOWN_PROBLEMS} more")
    errors = [problem for problem in problems if problem.severity == "error"]
    count = f"{count_with_noun(len(errors), 'error')}, {count_with_noun(len(problems) - len(errors), 'warning')}."
    last = (errors or problems)[-1:]
    shown.append(count + (f" `runner explain {last[0].code}` says more." if last else ""))
    return "\n".join(shown)


def _is_trace(hint: str) -> bool:
    """Return True if a hint is the traceback of an import."""
    return hint.startswith(("Traceback ", "  File ", "  + Exception Group"))


def _render_problem(problem: Problem) -> str:
    lines = [str(problem)]
    place = problem.place
    if problem.source and place.line:
        text, start, length = _cut_line(problem.source, place.column - 1, place.length)
        gutter = " " * len(str(place.line))
        caret = " " * display_width(text[:start]) + "^" * max(1, display_width(text[start : start + length]))
        near, *more = problem.hint.split("\n")
        if _is_trace(near):  # below the caret, as it is
            near, more = "", [near, *more]
        lines += [f"{gutter} |", f"{place.line} | {text}", f"{gutter} | {caret} {near}".rstrip()]
        lines += [f"{gutter} | {line}" for line in more]
    elif problem.hint:
        lines += [f"   {line}" for line in problem.hint.split("\n")]
    return "\n".join(lines)


def _cut_line(text: str, start: int, length: int) -> tuple[str, int, int]:
    """Return a window of a long line around its caret, harmless; no more of the line is looked at."""
    length = max(1, min(length, MAX_LINE_WIDTH // 2, len(text) - start))
    if len(text) <= MAX_LINE_WIDTH:
        return clean_text(text).rstrip(), start, length
    left = max(0, min(start - MAX_LINE_WIDTH // 4, len(text) - MAX_LINE_WIDTH))
    head, tail = ("..." if left else ""), ("..." if left + MAX_LINE_WIDTH < len(text) else "")
    return head + clean_text(text[left : left + MAX_LINE_WIDTH]).rstrip() + tail, start - left + len(head), length


def quote_name(text: object) -> str:
    """Return a name for a message: quoted, short, harmless.

    >>> quote_name("braed")
    '`braed`'
    """
    return f"`{clean_text(str(text), 60)}`"
