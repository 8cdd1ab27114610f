"""Checks of the functions that ship with runner: what they need of their task is known before it starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from runner.config import toml
from runner.config.overrides import is_set_in_file
from runner.config.source_map import VALUE_PART
from runner.problems import Problem, quote_name

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping

    from runner.check.convert import Arguments
    from runner.model import Config, TaskConfig
    from runner.plugins import TaskFunction

_READS = {"lines", "csv", "jsonl"}
_WRITES = {"write_lines", "write_csv", "write_jsonl"}
#: The descriptors that every worker has itself.
_OWN = range(3)


def find_std_problems(
    config: Config, task: TaskConfig, function: TaskFunction, arguments: Arguments
) -> Iterator[Problem]:
    """Yield the problems of a task that calls one of them; `arguments` are its own, converted."""
    if task.mode == "process" or (task.mode is None and function.options.get("mode") != "thread"):
        yield from _check_descriptors(config, task, arguments)
    if not _is_std(function, _READS | _WRITES):
        return
    given = _path_argument(arguments)
    writes = function.name in _WRITES
    stdin = not writes and (given == "-" or _parse_descriptor(given) == 0)
    at = config.place("tasks", task.name, "call")
    if stdin and config.file == toml.STDIN:
        text = f"task {quote_name(task.name)} would read standard input, from which this file itself was read"
        yield Problem("E304", text, at, hint="name the file: runner run FILE")
    if task.mode == "process" and (stdin or writes):
        output = "writes data to standard output" if given == "-" else "writes a file whole or not at all"
        does = "reads standard input" if stdin else output
        place = config.place("tasks", task.name, "mode") if is_set_in_file(config, task.name, "mode") else at
        text = f"task {quote_name(task.name)} {does}, which only a thread can"
        yield Problem("E304", text, place, hint='say `mode = "thread"`, or nothing: its function declares it')
    if len(task.workers) > 1 and (stdin or (writes and given != "-")):
        does = "reads standard input" if stdin else "writes one file"
        place = config.place("tasks", task.name, "workers")
        yield Problem("E304", f"task {quote_name(task.name)} {does}: it can have one worker only", place)
    if task.lifespan is not None and writes:
        text = f"task {quote_name(task.name)} writes one file: its worker cannot be replaced during the run"
        yield Problem("E304", text, config.place("tasks", task.name, "lifespan"))
    fields = arguments[1].get("fields")
    if isinstance(fields, list):
        text, place = f"the columns of task {quote_name(task.name)}", config.place("tasks", task.name, "with", "fields")
        for double in dict.fromkeys(each for each in fields if fields.count(each) > 1):
            yield Problem("E304", f"{text} have {quote_name(double)} twice", place)
        if not fields:
            yield Problem("E304", f"{text} are none", place)


def _is_std(function: TaskFunction, names: set[str]) -> bool:
    return function.reference.module == "runner.std" and function.name in names


def _path_argument(arguments: Arguments) -> str:
    args, kwargs = arguments
    return str(args[0] if args else kwargs.get("path", "-"))


def _parse_descriptor(path: str) -> int | None:
    from runner.std.targets import fd_of_path  # most files need none of `std`

    return fd_of_path(path)


def _check_descriptors(config: Config, task: TaskConfig, arguments: Arguments) -> Iterator[Problem]:
    """`<(command)` gives runner a pipe, and a path that means another thing, or nothing, in every other process."""
    args, kwargs = arguments
    given = {("args", str(at)): value for at, value in enumerate(args)}
    given |= {("with", word): value for word, value in kwargs.items()}
    for path, value in given.items():
        if isinstance(value, (str, Path)) and str(value).startswith(("/dev/fd/", "/proc/self/fd/")):
            number = _parse_descriptor(str(value))
            if number is not None and number not in _OWN:
                named = quote_name(task.name)
                text = f"{quote_name(str(value))} is a descriptor of runner itself, and task {named} runs in others"
                hint = 'say `mode = "thread"`, or give it a file or a named pipe'
                yield Problem("E304", text, config.place("tasks", task.name, *path, VALUE_PART), hint=hint)


# -- one file, one writer ---------------------------------------------------------------------


def find_file_clashes(
    config: Config, functions: Mapping[str, TaskFunction], arguments: Mapping[str, Arguments]
) -> Iterator[Problem]:
    """Yield files that two tasks write, by whatever names: each would replace what the other has written."""
    writers: dict[Hashable, str] = {}
    for word, given in arguments.items():
        unknown = any(config.is_unknown("tasks", word, key) for key in ("args", "with"))
        if unknown or not _is_std(functions[word], _WRITES):
            continue
        path = _path_argument(given)
        file = _identify_file(path)
        if file is not None and (other := writers.setdefault(file, word)) != word:
            text = f"tasks {quote_name(other)} and {quote_name(word)} both write the file {quote_name(path)}"
            spot = ("args", "0", VALUE_PART) if given[0] else ("with", "path", VALUE_PART)
            hint = "give each its own file, or let both write to one queue, and one task to the file"
            yield Problem("E317", text, config.place("tasks", word, *spot), hint=hint)


def _identify_file(path: str) -> Hashable | None:
    """Return the same for all names of one file; None for standard output, a pipe or a device."""
    if path == "-" or _parse_descriptor(path) is not None:
        return None
    try:
        if Path(path).exists() and not Path(path).is_file():
            return None
        target = Path(os.path.realpath(path))
        word, folder = target.name, target.parent
        swapped = folder.with_name(folder.name.swapcase())
        if word != word.swapcase() and swapped != folder and swapped.exists() and swapped.samefile(folder):
            import unicodedata  # the file system ignores the case of letters

            word = unicodedata.normalize("NFC", word.casefold())
        there = folder.stat()
    except (OSError, ValueError):  # it cannot be written either, and the task will say so
        return path
    return there.st_dev, there.st_ino, word
