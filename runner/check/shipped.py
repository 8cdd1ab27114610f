"""What the functions that ship with runner need of their task, known before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.config import parse
from runner.config.declared import said
from runner.config.problems import Problem, name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.check.functions import Arguments
    from runner.config.model import Config, TaskConfig
    from runner.plugins import TaskFunction

_READS = {"lines", "csv", "jsonl"}
_WRITES = {"write_lines", "write_csv", "write_jsonl"}


def findings(config: Config, task: TaskConfig, function: TaskFunction, arguments: Arguments) -> Iterator[Problem]:
    """Problems of a task that calls one of them; `arguments` are its own, converted."""
    if function.reference.module != "runner.std" or function.name not in _READS | _WRITES:
        return
    args, kwargs = arguments
    given = args[0] if args else kwargs.get("path", "-")
    stdin = given == "-" and function.name in _READS
    at = config.place("tasks", task.name, "call")
    if stdin and config.file == parse.STDIN:
        text = f"task {name(task.name)} would read standard input, from which this file itself was read"
        yield Problem("E304", text, at, hint="name the file: runner run FILE")
    if task.mode == "process" and (stdin or (function.name in _WRITES and given != "-")):
        does = "reads standard input" if stdin else "writes a file whole or not at all"
        place = config.place("tasks", task.name, "mode") if said(config, task.name, "mode") else at
        text = f"task {name(task.name)} {does}, which only a thread can"
        yield Problem("E304", text, place, hint='say `mode = "thread"`, or nothing: its function declares it')
    if len(task.workers.names) > 1 and (stdin or (function.name in _WRITES and given != "-")):
        does = "reads standard input" if stdin else "writes one file"
        place = config.place("tasks", task.name, "workers")
        yield Problem("E304", f"task {name(task.name)} {does}: it can have one worker only", place)
    if task.lifespan is not None and function.name in _WRITES:
        text = f"task {name(task.name)} writes one file: its worker cannot be replaced on the way"
        yield Problem("E304", text, config.place("tasks", task.name, "lifespan"))
