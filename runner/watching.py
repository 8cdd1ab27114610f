"""`--watch`: a command is run again whenever a file that it depends on has changed.

    watchers (threads of watchfiles) ──▶ ┐
    the end of the command (a thread) ─▶ ├ one queue ──▶ the loop: start, drain, start again, end
    signals (handlers) ────────────────▶ ┘

The command is a process of its own in a process group of its own, so that each time everything is read anew, and this
process alone decides who gets which signal. It dies with this process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

import runner
from runner.errors import ResourceError, UsageError
from runner.structs import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from runner.model import Config

Role = Literal["source", "input", "unsure", "state"]

#: Editors save in several steps (write a new file, rename it; or truncate, write): what follows within so many
#: milliseconds is one change. At most the second number pass until it is told.
_STEP, _DEBOUNCE = 100, 1600
#: The last writes of a run are told so many seconds after its end at the latest.
_SETTLE_SECONDS = 0.5
#: A path that has changed during so many runs in a row is what they write: of a path that only sources read, and people
#: edit while a run goes on, more are needed than of one of which the file does not say who uses it how.
_MOST_RUNS: Mapping[Role, int] = {"input": 5, "unsure": 2}
_MOST_NAMES = 4
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGCONT")
#: Runner is found where this process has it; and an interrupt while Python starts is an end without a traceback.
_START = """import os, signal, sys
interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if interruptible:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
place, lifeline = sys.argv.pop(), int(sys.argv.pop())
sys.argv[0] = "runner"
sys.path[0:1] = []
sys.path.append(place)
from runner.engines.lifeline import arm_lifeline
arm_lifeline(lifeline)
from runner.__main__ import main
if interruptible:
    signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


@dataclass(frozen=True, slots=True)
class WatchedPath:
    """A file or a folder that a command depends on.

    `role`: a "source" is the file, a plugin, or what was named on the command line; of a path param, "input" is what
    only tasks without inputs use; else it is "unsure", for it may be what the run writes. The "state" folder is not
    watched. `existed` when the command was started.
    """

    path: str
    role: Role = "source"
    is_folder: bool = False
    existed: bool = True

    @property
    def name(self) -> str:
        """The path as people would write it here."""
        near = os.path.relpath(self.path)
        return self.path if near.startswith("..") else near

    def has(self, path: str) -> bool:
        """Return True if a change of `path` is one of this: of a folder of sources, Python files count."""
        if not self.is_folder:
            return path in {self.path, os.path.realpath(self.path)} or self._is_on_the_way(path)
        if path != self.path and not path.startswith(self.path + os.sep):
            return False
        return self.role != "source" or path.endswith(".py")

    def _is_on_the_way(self, path: str) -> bool:
        """Return True if `path` is a folder in which a file is to be that is not there."""
        return not self.existed and self.path.startswith(path + os.sep)


def find_watched_paths(config: Config, more: Iterable[str] = ()) -> list[WatchedPath]:
    """Return what a run of this file depends on: the file, its local plugins, its path params, and `more` files."""
    found = [_look_at(file) for file in (config.file, *more)]
    folder = Path(os.path.abspath(config.folder))  # noqa: PTH100  a Path would follow links
    named = ("plugins",) if config.plugins is None else config.plugins
    calls = {task.call.partition(":")[0] for task in config.tasks.values() if task.call and ":" in task.call}
    for name in (*named, *sorted(calls)):
        places = (name, f"{name.replace('.', os.sep)}.py", name.partition(".")[0])
        existing = next((place for place in places if (folder / place).exists()), None)
        if existing is not None or name in named:
            found.append(_look_at(str(folder / (existing or name))))
    for name, param in config.declared_params.items():
        value = config.params.get(name)
        if param.type == "path" and value is not None and str(value) != "-":
            role = _role_of_param(config, name)
            seen = _look_at(str(value), role) if role else None
            if seen is not None and (seen.is_folder or not seen.existed or Path(seen.path).is_file()):  # no device
                found.append(seen)
    found.append(_look_at(str(folder / config.run.state), "state"))
    return found


def look_at_files(files: Iterable[str]) -> list[WatchedPath]:
    """Return what can be said of files that are wrong: themselves, and the folders of plugins beside them."""
    return [_look_at(path) for file in files for path in (file, str(Path(file).parent / "plugins"))]


def _look_at(path: str, role: Role = "source") -> WatchedPath:
    absolute = os.path.abspath(path)  # noqa: PTH100  a Path would follow links
    return WatchedPath(absolute, role, Path(absolute).is_dir(), Path(absolute).exists())


def _role_of_param(config: Config, name: str) -> Role | None:
    """Return what a path param is for; None for one that only sinks use: that is what the run writes."""
    paths = [path for path, names in config.param_references.items() if name in names and path[0] == "tasks"]
    users = [config.tasks[path[1]] for path in paths if len(path) > 1 and path[1] in config.tasks]
    if users and all(task.inputs and not task.outputs for task in users):
        return None
    return "input" if users and all(task.outputs and not task.inputs for task in users) else "unsure"


class _StopFlag:
    """What watchfiles asks in each of its rounds: so it says as well that the first one has begun."""

    def __init__(self) -> None:
        self.is_stopping = False
        self.armed = threading.Event()

    def is_set(self) -> bool:
        self.armed.set()
        return self.is_stopping


class _Watchers:
    """Threads that tell of changes below some paths: folders with all that is in them, and single files.

    A file is watched by its folder: after a rename onto it, it is another file, and a watch of the former one is blind.
    """

    def __init__(self, paths: Iterable[WatchedPath], events: SimpleQueue[Any], ignored: tuple[str, ...]) -> None:
        self._events, self._ignored = events, ignored
        places = [path for each in paths for path in {each.path, os.path.realpath(each.path)}]
        self._named = {*places}
        folders = {each.path for each in paths if each.is_folder}
        self._flags: list[_StopFlag] = []
        self._threads: list[threading.Thread] = []
        for some, is_deep in ((folders, True), ({*map(_nearest_folder, places)}, False)):
            if some:
                self._start_thread(sorted(some), is_deep=is_deep)

    def _start_thread(self, folders: list[str], *, is_deep: bool) -> None:
        flag = _StopFlag()
        args = (folders, flag, is_deep)
        thread = threading.Thread(target=self._watch, args=args, name="runner-watch", daemon=True)
        self._flags.append(flag)
        self._threads.append(thread)
        thread.start()
        flag.armed.wait()

    def _watch(self, folders: list[str], flag: _StopFlag, is_deep: bool) -> None:
        import watchfiles

        usual = watchfiles.DefaultFilter()
        try:
            for changes in watchfiles.watch(
                *folders,
                watch_filter=lambda change, path: path in self._named or usual(change, path),
                step=_STEP,
                debounce=_DEBOUNCE,
                recursive=is_deep,
                stop_event=flag,
                raise_interrupt=False,
                ignore_permission_denied=True,
            ):
                paths = {path for _, path in changes if not path.startswith(self._ignored)}
                if paths:
                    self._events.put(("changed", paths))
        except Exception as error:  # noqa: BLE001  watchfiles raises what the system says in several ways
            self._events.put(("failed", f"{', '.join(folders)}: {error}"))
        finally:
            flag.armed.set()

    def close(self) -> None:
        """End the threads."""
        for flag in self._flags:
            flag.is_stopping = True
        for thread in self._threads:
            thread.join()


def _nearest_folder(path: str) -> str:
    """Return the folder of a path, or the nearest one above that exists."""
    folder = os.path.dirname(path)  # noqa: PTH120  a str, as watchfiles gives them
    while folder and not os.path.isdir(folder):  # noqa: PTH112  the same
        folder = os.path.dirname(folder)  # noqa: PTH120  the same
    return folder or os.sep


class CommandWatcher:
    """Runs a command, again and again, until a signal ends it.

    `arguments` are those of the `runner` command, without `--watch`. `find_paths` is asked before each run what it
    depends on. `tell` says what is going on.
    """

    def __init__(
        self,
        arguments: list[str],
        find_paths: Callable[[], list[WatchedPath]],
        tell: Callable[[str], None],
    ) -> None:
        try:
            import watchfiles  # noqa: F401  so that it is known before anything is started
        except ImportError:
            raise UsageError(
                "--watch needs watchfiles, which is not installed: pip install 'toml-runner[watch]'"
            ) from None
        self._arguments, self._find_paths, self._tell = arguments, find_paths, tell
        self._events: SimpleQueue[Any] = SimpleQueue()
        self._paths: list[WatchedPath] = []
        self._watchers: _Watchers | None = None
        self._command: subprocess.Popen[bytes] | None = None
        #: The first signal that ends this; and the paths that are what the runs write, with how often each changed.
        self._signal = 0
        self._written: set[str] = set()
        self._times: dict[str, int] = {}

    def run(self) -> int:
        """Return the exit code, once a signal has ended it."""
        with self._caught_signals():
            try:
                while True:
                    self._arm()
                    changed = self._run_once()
                    if not changed and not self._signal:
                        self._tell(f"watching {_list_names(each.name for each in self._paths)}; Ctrl-C ends")
                        changed = self._await_change()
                    if self._signal:
                        return 128 + self._signal
                    self._tell(f"{_list_names(changed)} changed: running again")
            finally:
                if self._watchers is not None:
                    self._watchers.close()

    def _arm(self) -> None:
        """Watch what the next run depends on, from before it starts."""
        every = {each.path: each for each in reversed(self._find_paths())}
        found = [each for each in reversed(every.values()) if each.role != "state"]
        if self._watchers is None or found != self._paths:
            if self._watchers is not None:
                self._watchers.close()
            ignored = tuple(each.path + os.sep for each in every.values() if each.role == "state")
            self._watchers = _Watchers(found, self._events, ignored)
        self._paths = found

    def _run_once(self) -> set[str]:
        """Run the command; return the names of what has changed meanwhile, and is not what it writes itself."""
        with self._started_command() as command:
            touched = self._attend_command(command)
        touched |= {each.path: each for each in self._take_until_quiet()}
        changed = {each.name for each in touched.values() if not self._is_written(each)}
        self._times = {path: times for path, times in self._times.items() if path in touched}
        return changed

    def _attend_command(self, command: subprocess.Popen[bytes]) -> dict[str, WatchedPath]:
        """Wait for the end of the command, and drain it if what it depends on changes; return all that changed."""
        touched: dict[str, WatchedPath] = {}
        is_draining = False
        while True:
            kind, what = self._events.get()
            if kind == "ended":
                return touched
            if kind == "signal":
                self._forward_signal(command, what)
            for each in self._meant_by(kind, what):
                touched[each.path] = each
                if is_draining or each.role == "unsure" or each.path in self._written:
                    continue
                is_draining = True
                self._tell(f"{each.name} changed: draining the run that goes on")
                _send_signal(command, signal.SIGINT)

    def _is_written(self, each: WatchedPath) -> bool:
        """Return True if a path that changed during a run is what the run writes itself."""
        if each.role == "source" or each.path in self._written:
            return each.path in self._written
        times = self._times[each.path] = self._times.get(each.path, 0) + 1
        is_made = each.role == "unsure" and not each.existed
        if not is_made and times < _MOST_RUNS[each.role]:
            return False
        self._written.add(each.path)
        why = "was made by the run" if is_made else f"has changed during {times} runs in a row"
        self._tell(f"{each.name} {why}, so it is taken for its output; it counts again when it changes between runs")
        return True

    def _take_until_quiet(self) -> Iterator[WatchedPath]:
        """Yield what has changed, until nothing comes for a moment: it belongs to the run that has ended."""
        while not self._signal:
            try:
                kind, what = self._events.get(timeout=_SETTLE_SECONDS)
            except Empty:
                return
            if kind == "signal":
                self._end_by(what)
            yield from self._meant_by(kind, what)

    def _await_change(self) -> set[str]:
        """Wait until something has changed; return its names, none when a signal came."""
        while not self._signal:
            kind, what = self._events.get()
            if kind == "signal":
                self._end_by(what)
            found = list(self._meant_by(kind, what))
            for each in found:
                self._written.discard(each.path)
                self._times.pop(each.path, None)
            if found:
                return {each.name for each in found}
        return set()

    def _meant_by(self, kind: str, what: Any) -> Iterator[WatchedPath]:
        """Yield the paths that an event is about."""
        if kind == "failed":
            raise ResourceError(f"cannot watch {what}; WATCHFILES_FORCE_POLLING=1 looks at the files instead")
        if kind == "changed":
            for each in self._paths:
                if any(map(each.has, what)):
                    yield each

    @contextlib.contextmanager
    def _started_command(self) -> Iterator[subprocess.Popen[bytes]]:
        lifeline, end = os.pipe()  # closes when this process has gone, and the command goes with it
        place = str(Path(runner.__file__).resolve().parent.parent)
        command = subprocess.Popen(  # noqa: S603  this interpreter, and no shell
            [sys.executable, "-c", _START, *self._arguments, str(lifeline), place],
            stdin=subprocess.DEVNULL,  # it could be read once only
            process_group=0,
            pass_fds=[lifeline],
        )
        os.close(lifeline)
        reaper = threading.Thread(target=self._await_end, args=(command,), name="runner-watch-end", daemon=True)
        reaper.start()
        try:
            yield command
        finally:
            if command.poll() is None:  # something of this process's own has gone wrong
                os.killpg(command.pid, signal.SIGKILL)
            reaper.join()
            os.close(end)

    def _await_end(self, command: subprocess.Popen[bytes]) -> None:
        self._events.put(("ended", command.wait()))

    def _forward_signal(self, command: subprocess.Popen[bytes], number: int) -> None:
        """Hand a signal on; the command says by its end what it has done of it."""
        _send_signal(command, number)
        if number == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)
        elif number not in {signal.SIGCONT, signal.SIGQUIT}:
            self._signal = self._signal or _ending_number(number)

    def _end_by(self, number: int) -> None:
        """Obey a signal while no command runs."""
        if number == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)
        elif number not in {signal.SIGCONT, signal.SIGQUIT}:
            self._signal = self._signal or _ending_number(number)

    @contextlib.contextmanager
    def _caught_signals(self) -> Iterator[None]:
        before: dict[int, Any] = {}
        for name in _SIGNALS:
            number = getattr(signal, name)
            if signal.getsignal(number) not in {signal.SIG_IGN, None}:
                before[number] = signal.signal(number, lambda got, _: self._events.put(("signal", got)))
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def _ending_number(number: int) -> int:
    return int(signal.SIGTERM if number == signal.SIGHUP else number)


def _send_signal(command: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        command.send_signal(number)


def _list_names(names: Iterable[str]) -> str:
    """Return some names in a sentence.

    >>> _list_names(["b", "a", "a"]), _list_names("fedcba")
    ('a and b', 'a, b, c and 3 more')
    """
    some = sorted(set(names))
    if len(some) > _MOST_NAMES:
        some = [*some[: _MOST_NAMES - 1], f"{len(some) - _MOST_NAMES + 1} more"]
    return " and ".join(filter(None, [", ".join(some[:-1]), some[-1] if some else "nothing"]))
