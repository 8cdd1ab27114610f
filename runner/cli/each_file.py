"""The file of tasks that `runner each` stands for: GNU Parallel's command line, written as a topology.

    COMMAND… ::: VALUES…                    arguments ──▶ command (-j workers) ──▶ output
    {} {.} {/} {//} {/.} {1} {#}   ──▶      the replacement strings of `std.shell`

No shell looks at a command of several words, nor at the values of any. A command that is one text with spaces or
other characters of a shell in it is for `/bin/sh`, and has the values as its `$1`, `$2`, …: they are never part of
what the shell reads as a program, whatever is in them and whatever quotes stand around a replacement string.
"""

from __future__ import annotations

import math
import re
import shlex
from typing import TYPE_CHECKING, Any

from runner.cgroups import usable_cpus
from runner.config.resolved import to_toml
from runner.config.units import parse_duration
from runner.config.value_types import MAX_WORKERS
from runner.errors import UsageError
from runner.structs import dataclass
from runner.text import cut_text, printable_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runner.std.shell import Shell

_HOLE = re.compile(r"\{(?:(?P<number>#)|(?P<source>[0-9]{1,4})?(?P<part>//|/\.|/|\.)?)\}")
#: What GNU Parallel replaces and `each` does not: better an error than the text itself.
_NOT_OFFERED = re.compile(r"\{(?:%|=|-[0-9]|\+)[^}]*\}")
#: A single word of other characters is a text for the shell.
_SHELL_TEXT = re.compile(r"[^\w@%+=:,./{}#^-]")
_SEPARATORS = {":::": False, "::::": True, ":::+": False, "::::+": True}
_MOST_TITLE = 60
#: The grace of `now,fail=N`: what runs is killed, and what the failed command has written is still printed.
_AT_ONCE = "100ms"
#: `-j 0`: as many as there can be; GNU Parallel takes about as many with the usual limit of open files.
_MANY_JOBS = 250
#: Values that wait for each job: Ctrl-C lets what is queued be executed, and people expect that not much begins then.
#: `bench.each`, ms for each further command beside xargs, 2 jobs in processes: with 4 1.56, with 6 1.39, with 8 1.37.
_QUEUED_JOBS = 6
#: So many jobs for a core have processes of their own: as threads they start commands one at a time, as Python holds
#: its lock while it starts one (1.75 beside xargs). More jobs than that wait for something else.
_PROCESSES_PER_CORE = 2
#: Reports that wait for a slow reader of standard output.
_REPORTS = 100
#: Bytes that one command may write: they are in memory until it has ended.
DEFAULT_MAX_OUTPUT = "256MB"


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What stands behind the options of `each`: the command, and sources of values: lists, or paths of files."""

    command: tuple[str, ...]
    sources: tuple[list[str] | str, ...]
    pairs: bool = False


@dataclass(frozen=True, slots=True)
class EachOptions:
    """The options of `each` that the file says; None, 0 and False are left out of it."""

    jobs: str = "100%"
    retry: int = 0
    limit: str | None = None
    keep_order: bool = False
    halt: str | None = None
    joblog: str | None = None
    tag: bool = False
    null: bool = False
    skip_empty: bool = False
    columns: str | None = None
    rate: str | None = None
    max_output: str = DEFAULT_MAX_OUTPUT


def split_command_line(words: Sequence[str], files: Sequence[str] = ()) -> CommandLine:
    """Return the command and the sources of its values; without any, they are lines of standard input.

    >>> split_command_line(["gzip", "-k", ":::", "a", "b"])
    CommandLine(command=('gzip', '-k'), sources=(['a', 'b'],), pairs=False)
    """
    command: list[str] = []
    sources: list[list[str] | str] = [*files]
    linked: list[bool] = [False] * len(files)
    into, separator = command, ""
    for word in words:
        if word in _SEPARATORS:
            into, separator = [], word
            linked.append(word.endswith("+"))
            sources.append(into)
        elif _SEPARATORS.get(separator):
            if isinstance(sources[-1], str):  # `:::: a b` are two sources
                linked.append(linked[-1])
                sources.append(word)
            else:
                sources[-1] = word
        else:
            into.append(word)
    if any(_SEPARATORS.get(separator) and source == [] for source in sources[-1:]):
        raise UsageError(f"`{separator}` needs a file of values; `-` is standard input")
    if any(linked) and (linked[0] or not all(linked[1:])):
        raise UsageError("`:::+` goes with the source before it, so all sources but the first must have a `+`, or none")
    return CommandLine(tuple(command), tuple(sources) or ("-",), any(linked))


def render_file(given: CommandLine, options: EachOptions, *, state: str | None = None) -> str:
    """Return the file. UsageError: an option or a replacement string that it cannot express."""
    command = translate_command(given.command, len(given.sources), has_columns=options.columns is not None)
    halt, at_once = translate_halt(options.halt)
    jobs = count_jobs(options.jobs)
    tables: dict[str, dict[str, Any]] = {
        "run": {"halt": halt, "grace": _AT_ONCE if at_once else None, "state": state},
        "queues": {"arguments": {"size": _QUEUED_JOBS * jobs}, "reports": {"size": _REPORTS}},
        "tasks.arguments": {
            "call": "std.arguments",
            "with": {
                "sources": list(given.sources),
                "pairs": given.pairs,
                "null": options.null,
                "skip_empty": options.skip_empty,
                "columns": options.columns,
            },
            "outputs": ["arguments"],
        },
        "tasks.command": {
            "call": "std.shell",
            "with": {
                "command": command,
                "gives": "report",
                "limit": None if options.limit is None else translate_duration(options.limit),
                "most": parse_max_output(options.max_output),
            },
            "mode": "process" if jobs <= _PROCESSES_PER_CORE * usable_cpus() else "thread",
            "workers": jobs,
            "inputs": ["arguments"],
            "outputs": ["reports"],
            "ordered": options.keep_order,
            "attempts": options.retry + 1 if options.retry else None,
            "rate": options.rate,
        },
        "tasks.output": {
            "call": "std.write_output",
            "with": {"joblog": options.joblog, "tag": options.tag},
            "inputs": ["reports"],
        },
    }
    words = given.command[0] if len(given.command) == 1 else shlex.join(given.command) or "/bin/sh"
    lines = [f"title = {_toml(cut_text(printable_line(words), _MOST_TITLE))}"]
    for name, table in tables.items():
        kept = {key: _without_defaults(value) for key, value in table.items()}
        rows = [f"{key} = {_toml(value)}" for key, value in kept.items() if value is not None]
        if rows:
            lines += ["", f"[{name}]", *rows]
    return "\n".join(lines) + "\n"


def _without_defaults(value: Any) -> Any:
    """Return None for what need not be said."""
    if value is False or value == "":
        return None
    if isinstance(value, dict) and value:
        return {key: inner for key, inner in value.items() if _without_defaults(inner) is not None} or None
    return value


def _toml(value: Any) -> str:
    """Return a value as TOML in which nothing is a reference to a param."""

    def escape(inner: Any) -> Any:
        if isinstance(inner, dict):
            return {key: escape(one) for key, one in inner.items()}
        if isinstance(inner, list):
            return [escape(one) for one in inner]
        return inner.replace("${", "$${") if isinstance(inner, str) else inner

    return to_toml(escape(value))


# -- the command -----------------------------------------------------------------------------------


def translate_command(command: Sequence[str], sources: int, *, has_columns: bool = False) -> list[str]:
    """Return the arguments as `std.shell` takes them; the item is a tuple of the job's number and its values.

    >>> translate_command(["convert", "{}", "{.}.jpg"], 1)
    ['convert', '{1}', '{1.}.jpg']
    >>> translate_command(["gzip"], 1)
    ['gzip', '{1}']
    >>> translate_command(["wc -l < {} > {.}.count"], 1)
    ['/bin/sh', '-c', 'wc -l < "$1" > "$2".count', 'sh', '{1}', '{1.}']
    """
    if any(_NOT_OFFERED.search(word) for word in command):
        found = next(filter(None, map(_NOT_OFFERED.search, command)))
        hint = "a command that is one text for the shell can do the same"
        raise UsageError(f"replacement string `{found[0]}` of GNU Parallel is not offered: {hint}")
    holes = [hole for word in command for hole in _HOLE.finditer(word)]
    numbers = [int(hole["source"]) for hole in holes if hole["source"]]
    if any(number < 1 or (number > sources and not has_columns) for number in numbers):
        wrong = next(number for number in numbers if number < 1 or number > sources)
        raise UsageError(f"`{{{wrong}}}`: values have numbers from 1 to {sources} here; `:::` begins a further source")
    all_values = [f"{number}" for number in range(1, sources + 1)]
    if has_columns and (not holes or any(not (hole["source"] or hole["number"]) for hole in holes)):
        raise UsageError("with --colsep the command names its columns: {1}, {2}, {2.}")
    if not command:
        return ["/bin/sh", "-c", " ".join(f"{{{number}}}" for number in all_values)]
    is_text = len(command) == 1 and _SHELL_TEXT.search(command[0]) is not None
    if not holes:
        command = [f"{command[0]} {{}}"] if is_text else [*command, "{}"]
    if is_text:
        return _translate_text(command[0], all_values)
    translated: list[str] = []
    for word in command:
        if word == "{}":
            translated += [f"{{{number}}}" for number in all_values]
        else:
            translated.append(_fill(word, all_values))
    return translated


def _fill(word: str, all_values: list[str]) -> str:
    made, at = [], 0
    for hole in _HOLE.finditer(word):
        made += [_literal(word[at : hole.start()]), _names_of(hole, all_values)]
        at = hole.end()
    return "".join([*made, _literal(word[at:])])


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _names_of(hole: re.Match[str], all_values: list[str]) -> str:
    """Return a replacement string as `std.shell` has it; one without a number is all values, with spaces between."""
    if hole["number"]:
        return "{0}"
    numbers = [str(int(hole["source"]))] if hole["source"] else all_values
    return " ".join(f"{{{number}{hole['part'] or ''}}}" for number in numbers)


def _translate_text(text: str, all_values: list[str]) -> list[str]:
    """Return a shell with its program, in which each replacement string is a parameter, quoted as its place needs."""
    parameters: list[str] = []
    program = []
    for piece, hole, quote in _pieces_of_text(text):
        if hole is None:
            program.append(_literal(piece))
            continue
        names = [_names_of(hole, [number]) for number in (["0"] if hole["source"] or hole["number"] else all_values)]
        words = []
        for name in names:
            if name not in parameters:
                parameters.append(name)
            number = parameters.index(name) + 1
            words.append(f"${number}" if number < 10 else f"${_literal(f'{{{number}}}')}")
        if quote == '"':
            program.append(" ".join(words))
        else:
            made = " ".join(f'"{word}"' for word in words)
            program.append(f"'{made}'" if quote == "'" else made)
    return ["/bin/sh", "-c", "".join(program), "sh", *parameters]


def _pieces_of_text(text: str) -> Iterator[tuple[str, re.Match[str] | None, str]]:
    """Yield characters and replacement strings of a shell's program, with the quotes in which they stand.

    Values are parameters, so a place that is read wrongly here (in a comment, say) costs the words of a value, never
    that it is executed.
    """
    inside: list[str] = []  # quotes, and what ends a command within them
    at = 0
    while at < len(text):
        char, quote = text[at], inside[-1] if inside else ""
        hole = _HOLE.match(text, at) if char == "{" else None
        if hole is not None:
            yield "", hole, quote if quote in {"'", '"'} else ""
            at = hole.end()
            continue
        length = 1
        if quote == "'":
            if char == "'":
                inside.pop()
        elif char == "\\":
            length = 2
        elif char == quote:
            inside.pop()
        elif text.startswith("$(", at):
            inside.append(")")
            length = 2
        elif char == "`" or (char == '"' and quote != '"') or (char == "'" and quote != '"'):
            inside.append(char)
        elif char == "(" and quote != '"':
            inside.append(")")
        yield text[at : at + length], None, ""
        at += length


# -- options of GNU Parallel ------------------------------------------------------------------------


def count_jobs(text: str) -> int:
    """Return the number of jobs at a time: a number, a percentage of the cores, `+N` or `-N` beside them, 0 for many.

    >>> count_jobs("8"), count_jobs("0")
    (8, 250)
    """
    cores = usable_cpus()
    found = re.fullmatch(r"([+-]?)([0-9]{1,6})(%?)", text.strip())
    if found is None:
        raise UsageError(f"-j takes a number, a percentage of the cores, +N or -N, not {text[:40]!r}")
    sign, digits, percent = found.groups()
    number = math.ceil(cores * int(digits) / 100) if percent else int(digits)
    if sign:
        return min(MAX_WORKERS, max(1, cores + number if sign == "+" else cores - number))
    if number > MAX_WORKERS:
        raise UsageError(f"-j: at most {MAX_WORKERS:,} jobs at a time")
    return number or (1 if percent else _MANY_JOBS)


def translate_duration(text: str) -> str:
    """Return a time with its unit; a number alone is seconds, as GNU Parallel has it.

    >>> translate_duration("20"), translate_duration("1.5m")
    ('20s', '1.5m')
    """
    text = f"{text}s" if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else text
    try:
        parse_duration(text)
    except ValueError as wanted:
        raise UsageError(f"--timeout takes {wanted}, not {text[:40]!r}") from None
    return text


def parse_max_output(text: str) -> int:
    """Return bytes."""
    from runner.config.units import parse_size

    try:
        return parse_size(text)
    except ValueError as wanted:
        raise UsageError(f"--max-output takes {wanted}, not {text[:40]!r}") from None


def translate_halt(text: str | None) -> tuple[str | int | None, bool]:
    """Return the run's `halt`, and True if what is running is to be killed then.

    >>> translate_halt("now,fail=1"), translate_halt("soon,fail=10%"), translate_halt("3"), translate_halt(None)
    (('first', True), ('10%', False), (3, False), (None, False))
    """
    if text is None:
        return None, False
    found = re.fullmatch(r"(?:(now|soon),fail=)?(never|first|[0-9]{1,9}|[0-9.]{1,9}%)", text)
    if found is None or found[2] == "0":
        raise UsageError(
            f"--halt takes never, first, N, P%, or GNU Parallel's soon,fail=N and now,fail=N, not {text[:40]!r};"
            " success=N and done=N are not offered"
        )
    amount = found[2]
    if amount.isdecimal():
        return ("first" if int(amount) == 1 else int(amount)), found[1] == "now"
    return amount, found[1] == "now"


def print_commands(given: CommandLine, options: EachOptions, shell: Shell) -> Iterator[str]:
    """Yield each command as it would be run, quoted for a shell."""
    from runner.std.sources import command_arguments

    jobs = command_arguments(
        list(given.sources),
        null=options.null,
        skip_empty=options.skip_empty,
        columns=options.columns or "",
        pairs=given.pairs,
    )
    for item in jobs:
        yield shlex.join(shell.command_for(item))
