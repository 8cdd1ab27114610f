"""Transforms: a command for each item, and a pause.

    worker ── pipe, never written ──▶ holder (`cat`), leads a process group
                                      command, its children: in the same group

The kernel kills the group when the worker's end of the pipe closes, so when the worker ends, however it ends
(fcntl(2), F_SETOWN and F_SETSIG, as runner does for its own workers). The holder is there before the command is, so
no moment is left in which a command would be on its own; and a time limit kills the group, not the worker.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import os
import re
import signal
import time
from typing import TYPE_CHECKING, Any, Literal

from runner.tasks import task

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping
    from types import TracebackType

#: Bytes of standard output that a command may write.
MOST = 16 << 20
_MOST_ERR = 64 << 10
_SHOWN_LINES, _SHOWN_COMMAND = 10, 300
_PIECE = 1 << 16
_NO_LIMIT = dt.timedelta(0)

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
        gives: Literal["all", "out", "item"] = "all",
        limit: dt.timedelta = _NO_LIMIT,
        most: int = MOST,
        text: bool = True,
        encoding: str = "utf-8",
        errors: str = "strict",
    ) -> None:
        if shell != isinstance(command, str) or not command:
            raise ValueError("command must be a list of arguments, or one text with `shell = true`")
        self._templates = [command] if isinstance(command, str) else list(command)
        self._shell, self._cwd, self._stdin = shell, cwd, stdin
        self._env = {**os.environ, **env} if env else None
        self._ok = frozenset([0] if ok is None else ok)
        self._gives = gives
        self._limit = limit.total_seconds()
        self._most = most
        self._text, self._encoding, self._errors = text, encoding, errors
        self._group = _Group()

    def __enter__(self) -> Shell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._group.end()

    def __call__(self, item: Any) -> Any:
        """Run the command for one item."""
        arguments = self.arguments(item)
        data = b"" if self._stdin is None else fill(self._stdin, item).encode(self._encoding, "surrogateescape")
        began = time.monotonic()
        done = _Run(self._group, self._most, self._limit).run(arguments, data, self._cwd, self._env)
        seconds = time.monotonic() - began
        self._judge(arguments, done)
        if self._gives == "item":
            return item
        out = self._read(done.out, self._errors)
        if self._gives == "out":
            return out
        err = self._read(bytes(done.err), "replace")
        return {"item": item, "code": done.code, "out": out, "err": err, "seconds": seconds}

    def arguments(self, item: Any) -> list[str]:
        """The command for one item."""
        if self._shell:
            import shlex

            return ["/bin/sh", "-c", fill(self._templates[0], item, shlex.quote)]
        return [fill(each, item) for each in self._templates]

    def _read(self, data: bytes | bytearray, errors: str) -> str | bytes:
        if not self._text:
            return bytes(data)
        return data.decode(self._encoding, errors).rstrip("\r\n")

    def _judge(self, arguments: list[str], done: _Run) -> None:
        if done.trouble is None and done.code in self._ok:
            return
        import shlex

        # Of a shell's command, what it was given.
        shown = arguments[2] if self._shell else shlex.join(arguments)
        shown = shown if len(shown) <= _SHOWN_COMMAND else shown[:_SHOWN_COMMAND] + "…"
        if done.trouble == "time":
            raise CommandTimedOut(f"took longer than {self._limit:g} s and was killed: {shown}{_last(done.err)}")
        if done.trouble == "size":
            raise CommandFailed(f"wrote more than {self._most:,} bytes (`most`) and was killed: {shown}")
        how = f"exit code {done.code}" if done.code >= 0 else f"killed by {_signal_name(-done.code)}"
        raise CommandFailed(f"{how}: {shown}{_last(done.err)}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last(err: bytearray) -> str:
    """The last lines of standard error, below the message."""
    lines = err.decode("utf-8", "replace").rstrip().splitlines()[-_SHOWN_LINES:]
    return "".join(f"\n  {line}" for line in lines)


# -- what the item gives ----------------------------------------------------------------------


def fill(template: str, item: Any, quote: Callable[[str], str] = str) -> str:
    """Put the item, or what the braces name of it, into a text.

    >>> fill("{a} {b/.}.gz", {"a": 1, "b": "x/y.txt"})
    '1 y.gz'
    >>> fill("{.}.jpg {/} {//} {0", "d/a.b.png")
    'd/a.b.jpg a.b.png d {0'
    """

    def put(match: re.Match[str]) -> str:
        whole = match.group()
        if whole in {"{{", "}}"}:
            return whole[0]
        text = _text_of(_field(item, match["field"]), whole)
        return quote(_part(text, match["part"]))

    return _HOLE.sub(put, template)


def _field(item: Any, name: str | None) -> Any:
    if name is None:
        return item
    if isinstance(item, (tuple, list)) and name.isdecimal():
        if int(name) < len(item):
            return item[int(name)]
    elif isinstance(item, dict):
        for key in (name, int(name)) if name.isdecimal() else (name,):
            if key in item:
                return item[key]
    elif _has_fields(item) and not name.startswith("_") and hasattr(item, name):
        return getattr(item, name)
    raise LookupError(f"`{{{name}}}` of the command: the item ({type(item).__name__}) has no {name!r}{_there(item)}")


def _has_fields(item: Any) -> bool:
    return dataclasses.is_dataclass(item) or hasattr(item, "_fields")


def _there(item: Any) -> str:
    if isinstance(item, dict):
        return "; it has " + ", ".join(map(repr, list(item)[:20]))
    return f"; it has {len(item)} elements" if isinstance(item, (tuple, list)) else ""


def _text_of(value: Any, hole: str) -> str:
    if isinstance(value, bytes):
        text = os.fsdecode(value)
    elif isinstance(value, (str, int, float)):
        text = str(value)
    elif isinstance(value, os.PathLike):
        text = os.fsdecode(value)
    else:
        raise TypeError(
            f"`{hole}` of the command would be of type {type(value).__name__}; name a field of it, as {{name}}"
        )
    if "\0" in text:
        raise ValueError(f"`{hole}` of the command has a NUL in it, which no argument can have")
    return text


def _part(text: str, part: str | None) -> str:
    if part is None:
        return text
    folder, name = os.path.split(text)
    if part == "//":
        return folder or "."
    stem = os.path.splitext(name)[0]  # noqa: PTH122  of a text that need not be a path
    if part == ".":
        return os.path.join(folder, stem) if folder else stem  # noqa: PTH118
    return name if part == "/" else stem


# -- one command ------------------------------------------------------------------------------


class _Group:
    """A process group that dies with this worker; see the picture at the top."""

    def __init__(self) -> None:
        self._holder: subprocess.Popen[bytes] | None = None
        self._line = -1

    def id(self) -> int:
        """Its number; made anew when it was killed."""
        if self._holder is not None and self._holder.poll() is None:
            return self._holder.pid
        self.end()
        import fcntl
        import subprocess

        read_end, self._line = os.pipe()
        try:
            null = subprocess.DEVNULL
            cat = ["/bin/cat"]
            self._holder = subprocess.Popen(  # noqa: S603  a fixed one
                cat, stdin=read_end, stdout=null, stderr=null, process_group=0
            )
            if hasattr(fcntl, "F_SETSIG"):
                fcntl.fcntl(read_end, fcntl.F_SETOWN, -self._holder.pid)
                fcntl.fcntl(read_end, fcntl.F_SETSIG, signal.SIGKILL)
                fcntl.fcntl(read_end, fcntl.F_SETFL, fcntl.fcntl(read_end, fcntl.F_GETFL) | os.O_ASYNC)
        finally:
            os.close(read_end)
        return self._holder.pid

    def kill(self) -> None:
        """SIGKILL to everything in it."""
        if self._holder is not None:
            if self._holder.poll() is None:  # else its number may be somebody else's
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._holder.pid, signal.SIGKILL)
            self._holder.wait()

    def end(self) -> None:
        """Kill it, and give back what it held."""
        self.kill()
        self._holder = None
        if self._line >= 0:
            os.close(self._line)
            self._line = -1


class _Run:
    """One command from its start to its end: fed, read and timed at once."""

    def __init__(self, group: _Group, most: int, limit: float) -> None:
        self._group, self._most = group, most
        self._until = time.monotonic() + limit if limit > 0 else None
        self.out, self.err = bytearray(), bytearray()
        self.trouble: Literal["time", "size"] | None = None
        self.code = 0

    def run(self, arguments: list[str], data: bytes, cwd: str | None, env: Mapping[str, str] | None) -> _Run:
        """Run it; afterwards `code`, `out`, `err` and `trouble` say how it went."""
        import subprocess

        pipe = subprocess.PIPE
        stdin = pipe if data else subprocess.DEVNULL
        command = subprocess.Popen(  # noqa: S603  running what the file says is what it is for
            arguments, stdin=stdin, stdout=pipe, stderr=pipe, cwd=cwd, env=env, process_group=self._group.id()
        )
        try:
            with command:
                try:
                    self._attend(command, data)
                finally:
                    # Nothing that it has started may hold its pipes, or run on after an error.
                    if self.trouble is not None or command.poll() is None:
                        self._group.kill()
        finally:
            self.code = command.returncode
        return self

    def _attend(self, command: subprocess.Popen[bytes], data: bytes) -> None:
        import selectors

        ended = _exit_fd(command.pid)
        with selectors.DefaultSelector() as selector:
            try:
                if ended is not None:
                    selector.register(ended, selectors.EVENT_READ, None)
                for stream, kind in ((command.stdout, self.out), (command.stderr, self.err)):
                    assert stream is not None
                    os.set_blocking(stream.fileno(), False)
                    selector.register(stream, selectors.EVENT_READ, kind)
                if command.stdin is not None:
                    os.set_blocking(command.stdin.fileno(), False)
                    selector.register(command.stdin, selectors.EVENT_WRITE, "in")
                self._listen(selector, command, memoryview(data))
            finally:
                if ended is not None:
                    os.close(ended)

    def _listen(self, selector: Any, command: subprocess.Popen[bytes], view: memoryview) -> None:
        """Until it has ended, or is in trouble."""
        while self.trouble is None and len(selector.get_map()) > 0:
            events = selector.select(self._left())
            if self._until is not None and time.monotonic() >= self._until:
                self.trouble = "time"
                return
            over = False
            for key, _ in events:
                if key.data is None:
                    over = True
                elif key.data == "in":
                    view = self._feed(selector, command, view)
                else:
                    self._take(selector, key.fileobj, key.data)
            if over:
                self._last_words(selector, command)
                return

    def _left(self) -> float | None:
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    @staticmethod
    def _feed(selector: Any, command: subprocess.Popen[bytes], view: memoryview) -> memoryview:
        assert command.stdin is not None
        try:
            view = view[os.write(command.stdin.fileno(), view[:_PIECE]) :]
        except BlockingIOError:
            return view
        except BrokenPipeError:  # it does not want the rest
            view = view[:0]
        if not view:
            selector.unregister(command.stdin)
            command.stdin.close()
        return view

    def _take(self, selector: Any, stream: Any, into: bytearray) -> bool:
        """Read what is there; False when there is nothing now, or at the end."""
        try:
            data = os.read(stream.fileno(), _PIECE)
        except BlockingIOError:
            return False
        if not data:
            selector.unregister(stream)
            return False
        into += data
        if into is self.err:
            del into[:-_MOST_ERR]
        elif len(into) > self._most:
            self.trouble = "size"
        return self.trouble is None

    def _last_words(self, selector: Any, command: subprocess.Popen[bytes]) -> None:
        """It has ended: what still stands in its pipes is its own; who holds them open is a child left behind."""
        held = False
        for stream, into in ((command.stdout, self.out), (command.stderr, self.err)):
            if stream in selector.get_map():
                while self._take(selector, stream, into):
                    pass
                held = held or stream in selector.get_map()
        if held and self.trouble is None:
            command.wait()
            self._group.kill()


def _exit_fd(pid: int) -> int | None:
    """A descriptor that is readable once the process has ended, where there is such a thing."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


# -- a pause ----------------------------------------------------------------------------------


@task(mode="thread")
def sleep(item: Any, seconds: float = 1.0) -> Any:
    """Hand each item on after so many seconds.

    >>> sleep("late", 0.01)
    'late'
    """
    time.sleep(seconds)
    return item
