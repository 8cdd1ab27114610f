"""Transforms: a command for each item, and a pause."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import re
import time
from typing import TYPE_CHECKING, Any, Literal

from runner.error_text import signal_name
from runner.std.commands import Command, ProcessGroup
from runner.tasks import task
from runner.text import cut_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Bytes of standard output that a command may write.
MAX_OUTPUT_BYTES = 16 << 20
_SHOWN_LINES, _SHOWN_COMMAND = 10, 300
_NO_LIMIT = dt.timedelta(0)
#: Exit codes that shells give a command which cannot be started.
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
_HOLE = re.compile(r"\{\{|\}\}|\{(?P<field>[A-Za-z_]\w*|\d+)?(?P<part>//|/\.|/|\.)?\}")


class CommandFailed(Exception):
    """A command has ended with a code that `ok` does not name, was killed, or has written too much."""


class CommandTimedOut(CommandFailed, TimeoutError):
    """A command has exceeded its `limit`, and was killed with all that it had started."""


@task(name="shell")
class Shell:
    """Run a command for each item, and give what became of it.

    `command` is a list of arguments, in which `{}` is the item, `{name}` a key or field of it, `{0}` an element; with
    a part of a path, as GNU Parallel has them: `{.}` without its extension, `{/}` its last name, `{//}` its folder,
    `{/.}` its last name without extension (`{name/.}` for a field). `{{` and `}}` are braces; other braces stay as
    they are. No shell looks at the arguments. With `shell = true`, `command` is one text for `/bin/sh`, and what is
    put in is quoted.

    `stdin` is the text that the command reads, such as `"{}"`; without it there is nothing to read. `env` is added
    to the environment. `ok` are the exit codes that are no error; any other one is an error with the last lines of
    standard error. A command that writes more than `most` bytes, or takes longer than `limit`, is killed with all
    that it has started.

    `gives`: `"all"` is a dict of `item`, `code`, `out`, `err` and `seconds`; `"out"` its standard output, `"item"` the
    item itself. `text = false` leaves `out` and `err` bytes; as text they lose the line ends at their end, as `$(…)`.
    `"report"` is a dict for `write_output`, of all that the command has written, as bytes; a command that fails gives
    one as well, once it is not tried again.

    >>> with Shell(["echo", "{/.}", "of {}"], gives="out") as shell:
    ...     shell("photos/a b.png")
    'a b of photos/a b.png'
    """

    def __init__(
        self,
        command: list[str] | str,
        *,
        shell: bool = False,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        stdin: str | None = None,
        ok: list[int] | None = None,
        gives: Literal["all", "out", "item", "report"] = "all",
        limit: dt.timedelta = _NO_LIMIT,
        most: int = MAX_OUTPUT_BYTES,
        text: bool = True,
        encoding: str = "utf-8",
        errors: str = "strict",
    ) -> None:
        if shell != isinstance(command, str) or not command:
            raise ValueError("command must be a list of arguments, or one text with `shell = true`")
        self._templates = [command] if isinstance(command, str) else list(command)
        self._shell, self._cwd, self._stdin = shell, cwd, stdin or ""
        # Once: `os.environ` encodes each variable again for each command, which takes 0.1 ms.
        self._env = dict(os.environb)
        for name, value in (env or {}).items():
            self._env[os.fsencode(name)] = os.fsencode(value)
        self._ok = frozenset([0] if ok is None else ok)
        self._gives = gives
        self._limit = limit.total_seconds()
        self._most = most
        self._text, self._encoding, self._errors = text, encoding, errors
        self._group = ProcessGroup()

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self._group.kill()

    def __call__(self, item: Any) -> Any:
        """Run the command for one item."""
        arguments = self.command_for(item)
        if self._gives == "report":
            return self._report(item, arguments)
        began = time.monotonic()
        done = self._execute(Command(self._group, self._most, self._limit), arguments, item)
        seconds = time.monotonic() - began
        self._raise_if_failed(arguments, done)
        if self._gives == "item":
            return item
        out = self._decode_output(done.out, self._errors)
        if self._gives == "out":
            return out
        err = self._decode_output(bytes(done.err), "replace")
        return {"item": item, "code": done.exit_code, "out": out, "err": err, "seconds": seconds}

    def command_for(self, item: Any) -> list[str]:
        """Return the arguments of the command for one item, the program first."""
        if self._shell:
            import shlex

            return ["/bin/sh", "-c", fill_template(self._templates[0], item, shlex.quote)]
        return [fill_template(each, item) for each in self._templates]

    def _execute(self, command: Command, arguments: list[str], item: Any) -> Command:
        data = fill_template(self._stdin, item).encode(self._encoding, "surrogateescape") if self._stdin else b""
        return command.run(arguments, data, self._cwd, self._env)

    def _report(self, item: Any, arguments: list[str]) -> Iterator[dict[str, Any]]:
        """Yield what a command has written, then fail if it has: what was yielded counts if that is final."""
        command = Command(self._group, self._most, self._limit)
        command.kept_err = None
        report = {"item": item, "command": arguments, "start": time.time(), "code": 0, "out": b"", "err": b""}
        began = time.monotonic()
        failure: Exception | None = None
        try:
            self._execute(command, arguments, item)
            report.update(code=command.exit_code, out=bytes(command.out), err=bytes(command.err))
            self._raise_if_failed(arguments, command)
        except CommandFailed as error:
            failure = error
        except OSError as error:
            failure = error
            report["code"] = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
        yield {**report, "seconds": time.monotonic() - began}
        if failure is not None:
            raise failure

    def _decode_output(self, data: bytes | bytearray, errors: str) -> str | bytes:
        if not self._text:
            return bytes(data)
        return data.decode(self._encoding, errors).rstrip("\r\n")

    def _raise_if_failed(self, arguments: list[str], done: Command) -> None:
        if done.kill_reason is None and done.exit_code in self._ok:
            return
        import shlex

        # Of a shell's command, what it was given.
        shown = arguments[2] if self._shell else shlex.join(arguments)
        shown = cut_text(shown, _SHOWN_COMMAND)
        last_lines = _last_lines(done.err)
        if done.kill_reason == "time":
            raise CommandTimedOut(f"took longer than {self._limit:g} s and was killed: {shown}{last_lines}")
        if done.kill_reason == "size":
            raise CommandFailed(f"wrote more than {self._most:,} bytes (`most`) and was killed: {shown}")
        how = f"exit code {done.exit_code}" if done.exit_code >= 0 else f"killed by {signal_name(-done.exit_code)}"
        raise CommandFailed(f"{how}: {shown}{last_lines}")


def _last_lines(err: bytearray) -> str:
    lines = err.decode("utf-8", "replace").rstrip().splitlines()[-_SHOWN_LINES:]
    return "".join(f"\n  {line}" for line in lines)


def fill_template(template: str, item: Any, quote: Callable[[str], str] = str) -> str:
    """Put the item, or what the braces name of it, into a text.

    >>> fill_template("{a} {b/.}.gz", {"a": 1, "b": "x/y.txt"})
    '1 y.gz'
    >>> fill_template("{.}.jpg {/} {//} {0", "d/a.b.png")
    'd/a.b.jpg a.b.png d {0'
    """

    def put(match: re.Match[str]) -> str:
        whole = match.group()
        if whole in {"{{", "}}"}:
            return whole[0]
        value = item if match["field"] is None else _field_of(item, match["field"])
        text = _text_of(value, whole)
        return quote(_path_part(text, match["part"]))

    return _HOLE.sub(put, template)


def _field_of(item: Any, name: str) -> Any:
    if isinstance(item, (tuple, list)) and name.isdecimal():
        if int(name) < len(item):
            return item[int(name)]
    elif isinstance(item, dict):
        for key in (name, int(name)) if name.isdecimal() else (name,):
            if key in item:
                return item[key]
    elif (dataclasses.is_dataclass(item) or hasattr(item, "_fields")) and name[0] != "_" and hasattr(item, name):
        return getattr(item, name)
    known = ""
    if isinstance(item, dict):
        known = "; it has " + ", ".join(map(repr, list(item)[:20]))
    elif isinstance(item, (tuple, list)):
        known = f"; it has {len(item)} elements"
    raise LookupError(f"`{{{name}}}` of the command: the item ({type(item).__name__}) has no {name!r}{known}")


def _text_of(value: Any, hole: str) -> str:
    if isinstance(value, (str, int, float)):
        text = str(value)
    elif isinstance(value, (bytes, os.PathLike)):
        text = os.fsdecode(value)
    else:
        text = f"`{hole}` of the command would be of type {type(value).__name__}; name a field of it, as {{name}}"
        raise TypeError(text)
    if "\0" in text:
        raise ValueError(f"`{hole}` of the command has a NUL in it, which no argument can have")
    return text


def _path_part(text: str, part: str | None) -> str:
    if part is None:
        return text
    folder, name = os.path.split(text)
    if part == "//":
        return folder or "."
    stem = os.path.splitext(name)[0]  # noqa: PTH122  of a text that need not be a path
    if part == ".":
        return os.path.join(folder, stem) if folder else stem  # noqa: PTH118
    return name if part == "/" else stem


@task(mode="thread")
def sleep(item: Any, seconds: float = 1.0) -> Any:
    """Return each item after `seconds` seconds.

    >>> sleep("late", 0.01)
    'late'
    """
    time.sleep(seconds)
    return item
