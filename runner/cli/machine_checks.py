"""What `runner doctor` looks at. Each check returns findings, and none of them changes anything that it finds."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import locale
import os
import platform
import re
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from runner import cgroups
from runner.errors import LedgerRefused, UnsafeFolder
from runner.text import format_duration, size_or_empty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Fewer open files than this end a run of some hundred workers; each process takes about ten.
_FEW_FILES, _FEW_PROCESSES = 4096, 512
_LITTLE_SPACE = 512 * 1024 * 1024
#: From this time for one sync on, a durable run commits seldom.
_SLOW_SYNC = 0.02
_SYNCS = 5
#: An extra, what it is imported by, and what needs it.
_EXTRAS = (
    ("cluster", "cryptography", 'several machines, `engine = "agents"`'),
    ("ray", "ray", '`engine = "ray"`'),
    ("metrics", "prometheus_client", "the plugin of examples/metrics"),
    ("watch", "watchfiles", "`runner run --watch` and `runner test --watch`"),
)


@dataclass(frozen=True)
class Finding:
    """What one check has found: `level` is ok, note, slow or wrong; `advice` is the way out."""

    name: str
    level: str
    text: str
    advice: str = ""


def check_machine(state: Path) -> list[Finding]:
    """Return all findings; a check that fails itself is a finding as well."""
    found: list[Finding] = []
    checks: list[Callable[[], Iterator[Finding]]] = [
        check_python,
        check_dependencies,
        check_extras,
        check_plugins,
        check_processors,
        check_memory,
        check_limits,
        check_kernel,
        check_signals,
        lambda: check_temporary_folder(Path(tempfile.gettempdir())),
        lambda: check_state_folder(state),
        check_terminal,
    ]
    for check in checks:
        try:
            found += check()
        except Exception as error:  # noqa: BLE001  whatever this machine does, the other checks count
            found.append(Finding("a check", "note", f"failed itself: {type(error).__name__}: {error}"))
    return found


def check_python() -> Iterator[Finding]:
    """Look at the interpreter."""
    version, name = platform.python_version(), platform.python_implementation()
    text = f"{name} {version} in {_without_home(sys.prefix)}"
    if name != "CPython":
        yield Finding("Python", "wrong", text, "runner is made for CPython, 3.11 and newer")
    elif not getattr(sys, "_is_gil_enabled", lambda: True)():
        yield Finding(
            "Python",
            "note",
            f"{text}, free-threaded",
            'extension modules may bring the lock back: mode = "process" does not care',
        )
    else:
        yield Finding("Python", "ok", text)


def check_dependencies() -> Iterator[Finding]:
    """Look whether what runner requires is installed in the versions that it requires."""
    try:
        required = importlib.metadata.requires("toml-runner") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "dependencies", "note", "runner is not installed, but found on the path", "pip install toml-runner"
        )
        return
    told, wrong = [], []
    for name, least in required_versions(required).items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        told.append(f"{name} {version}")
        if _version_key(version) < _version_key(least):
            wrong.append(f"{name} is {version}, and runner needs {least} or newer")
    if wrong:
        yield Finding("dependencies", "wrong", "; ".join(wrong), "pip install --upgrade toml-runner")
    yield Finding("dependencies", "ok", ", ".join(told))


def required_versions(required: list[str]) -> dict[str, str]:
    """Return the least version of each distribution that is required without an extra.

    >>> required_versions(["rich>=13.9", 'ray>=2.40; extra == "ray"'])
    {'rich': '13.9'}
    """
    found = [re.fullmatch(r"([\w.-]+)>=([\d.]+)", text) for text in required]
    return {each[1]: each[2] for each in found if each is not None}


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def check_extras() -> Iterator[Finding]:
    """Look which optional parts are there."""
    for extra, module, use in _EXTRAS:
        if importlib.util.find_spec(module) is None:
            yield Finding("extra", "note", f"{extra} is not installed: {use}", f"pip install 'toml-runner[{extra}]'")
        else:
            yield Finding("extra", "ok", f"{extra}: {use}")


def check_plugins() -> Iterator[Finding]:
    """Look at the plugins that are installed, without importing them."""
    from runner.plugins import PluginPolicy, discovery

    policy = PluginPolicy.read()
    for plugin in discovery.installed_plugins():
        distribution = plugin.distribution
        why = policy.reason_to_block(plugin.name, distribution.name if distribution else "")
        label = f"{plugin.name} ({distribution})"
        if why:
            yield Finding("plugin", "note", f"{label} is blocked: {why}")
        elif plugin.error:
            yield Finding("plugin", "wrong", f"{label}: {plugin.error_line}", "runner list plugins --load")
        else:
            yield Finding("plugin", "ok", label)


def check_processors() -> Iterator[Finding]:
    """Look at the processors and the quota of a container."""
    there, usable, quota = os.cpu_count() or 1, cgroups.usable_cpus(), cgroups.cpu_quota()
    text = f'{usable} of {there} may be used; `workers = "auto"` starts {usable}'
    if quota is not None:
        text += f"; the quota of the container is {quota:g}"
    if quota is not None and quota < 1:
        yield Finding("processors", "slow", text, "give the container one processor at least")
    else:
        yield Finding("processors", "ok", text)


def check_memory() -> Iterator[Finding]:
    """Look at the memory, and the limit of a container."""
    import psutil

    memory, limit = psutil.virtual_memory(), cgroups.memory_limit()
    text = f"{size_or_empty(memory.available)} of {size_or_empty(memory.total)} available"
    if limit is not None and limit < memory.total:
        text += f"; the limit of the container is {size_or_empty(limit)}"
    if memory.available < _LITTLE_SPACE:
        yield Finding("memory", "slow", text, "fewer workers, smaller queues: `size` and `bytes` in [queues]")
    else:
        yield Finding("memory", "ok", text)


def check_limits() -> Iterator[Finding]:
    """Look at the limits of this user."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{_limit(soft)}, which runner may raise to {_limit(hard)}"
    if hard != resource.RLIM_INFINITY and hard < _FEW_FILES:
        advice = (
            f"each worker takes about ten: raise the hard limit (`ulimit -Hn`, LimitNOFILE of systemd) to {_FEW_FILES}"
        )
        yield Finding("open files", "slow", text, advice)
    else:
        yield Finding("open files", "ok", text)
    most = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if most != resource.RLIM_INFINITY and most < _FEW_PROCESSES:
        yield Finding("processes", "slow", f"at most {most}", "threads count as well: raise it (`ulimit -u`, TasksMax)")
    else:
        yield Finding("processes", "ok", f"at most {_limit(most)}")


def _limit(value: int) -> str:
    return "any number" if value < 0 or value > 1 << 40 else f"{value:,}"


def check_kernel() -> Iterator[Finding]:
    """Look for what runner uses of the kernel, where it has another way without it."""
    there = {
        "memfd": (hasattr(os, "memfd_create"), "large payloads are copied through pipes"),
        "pidfd": (_has_pidfd(), "ends of processes are noticed later"),
        "SCM_RIGHTS": (hasattr(socket, "SCM_RIGHTS"), "large payloads are copied through pipes"),
        "epoll": (hasattr(select, "epoll"), "waiting costs more with many workers"),
        "fork": (hasattr(os, "fork"), "workers start as new interpreters, in a second and not in 10 ms"),
        "/proc": (Path("/proc/self/stat").exists(), "no stacks of what is stuck in C, no memory of workers"),
    }
    missing = {name: effect for name, (is_there, effect) in there.items() if not is_there}
    for name, effect in missing.items():
        yield Finding("kernel", "slow", f"no {name}: {effect}")
    if len(missing) < len(there):
        names = ", ".join(name for name in there if name not in missing)
        yield Finding("kernel", "ok", f"{platform.system()} {platform.release()}: {names}")


def _has_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError):
        return False
    return True


def check_signals() -> Iterator[Finding]:
    """Look whether the signals that end a run arrive."""
    ignored = [each.name for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) is signal.SIG_IGN]
    if ignored:
        yield Finding(
            "signals",
            "note",
            f"{' and '.join(ignored)} ignored by what started this: it stops no run",
            "a shell ignores Ctrl-C for what it puts into the background: use `setsid` or a service",
        )


def check_temporary_folder(folder: Path) -> Iterator[Finding]:
    """Look at the folder for temporary files, where code for agents and folders of tests are."""
    if not os.access(folder, os.W_OK):
        yield Finding("temporary files", "wrong", f"{folder} cannot be written", "set TMPDIR to a folder that can")
        return
    yield _space("temporary files", folder)


def check_state_folder(state: Path) -> Iterator[Finding]:
    """Look at the folder in which runs keep their records and ledgers."""
    from runner.store import run_folders, run_lock

    there = next(each for each in (state.absolute(), *state.absolute().parents) if each.exists())
    shown = _without_home(str(state))
    try:
        run_folders.check_state_folder(state)
    except UnsafeFolder as error:
        yield Finding("state folder", "wrong", _without_home(str(error)))
        return
    if not os.access(there, os.W_OK):
        advice = "runs keep no record, and durable runs do not start: name another folder with `state` in [run]"
        yield Finding("state folder", "wrong", f"{shown} cannot be written", advice)
        return
    yield _space("state folder", there)
    try:
        run_lock.refuse_network_disk(there)
    except LedgerRefused as error:
        yield Finding("durable runs", "note", _without_home(str(error)))
        return
    with contextlib.suppress(OSError):
        yield _time_sync(there)


def _space(name: str, folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{_without_home(str(folder))} can be written, {size_or_empty(free)} free"
    if free < _LITTLE_SPACE:
        return Finding(name, "slow", text, "make room: records and ledgers end where the disk is full, and say so")
    return Finding(name, "ok", text)


def _time_sync(folder: Path) -> Finding:
    """Measure how long a small write takes until it is on disk."""
    took = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(_SYNCS):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    typical = median(took)
    text = f"a write is on disk after {format_duration(typical) if typical >= 0.001 else 'less than 1ms'}"
    if typical > _SLOW_SYNC:
        advice = (
            "a durable run commits many items together: only few slow ones feel it; `state` in [run] names another disk"
        )
        return Finding("durable runs", "slow", text, advice)
    return Finding("durable runs", "ok", text)


def check_terminal() -> Iterator[Finding]:
    """Look at the terminal and the locale."""
    encoding = (getattr(sys.stdout, "encoding", None) or "none").lower()
    spelling = f"output is {encoding}, locale {locale.setlocale(locale.LC_CTYPE)}"
    if encoding.replace("-", "") != "utf8":
        yield Finding(
            "characters", "note", spelling, "other characters are shown as escapes; PYTHONUTF8=1, or a UTF-8 locale"
        )
    else:
        yield Finding("characters", "ok", spelling)
    if not sys.stderr.isatty():
        yield Finding("terminal", "note", "standard error is not a terminal: a line of progress every ten seconds")
    elif os.environ.get("TERM", "") in {"", "dumb", "unknown"}:
        yield Finding("terminal", "note", "TERM names no terminal that can draw", "set TERM, or --progress plain")
    else:
        size = shutil.get_terminal_size()
        yield Finding("terminal", "ok", f"{size.columns} x {size.lines}")


def _without_home(text: str) -> str:
    """Return a text without the name of the user's own folder.

    >>> _without_home(f"{Path.home()}/a")
    '~/a'
    """
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text
