"""The folder of a project's runs: who may write it, and where each run's own files are.

Another user who may write beside it, or a folder that came with an archive, must not decide where runner writes. So
nothing here goes by a path twice: each part is opened below the one before it, never through a link, and looked at
once it is open. It must be of the user who executes this (or of root), and no other user may write it; where others may
add what they like but change nothing, as in /tmp, what they have added is of another user.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, BinaryIO

from runner.errors import UnsafeFolder, UsageError
from runner.posix_only import O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, effective_user

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_RUNS = "runs"
#: The ledger of a durable run, in the run's folder.
LEDGER_FILE = "ledger.db"
_DIRECTORY = os.O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC
#: A pipe that stands where a file should be is opened without waiting for its other end, and then refused.
_READ = os.O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC
_APPEND = os.O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | O_NOFOLLOW | O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_WAY_OUT = "name another folder with `state` in [run], or keep no record with --no-record"


def check_state_folder(state: Path) -> None:
    """Raise UnsafeFolder when a run must not keep anything there; what is missing can still be made."""
    with contextlib.suppress(OSError), open_state_folder(state, _RUNS):
        pass


@contextlib.contextmanager
def open_run_folder(state: Path, run: str, *, make: bool = False) -> Iterator[int]:
    """Yield a descriptor of one run's folder. `make`: it is made where it is missing, for its owner alone."""
    if make:
        state.parent.mkdir(parents=True, exist_ok=True)
        # Kept out of version control. The file may be there; and without it a run is kept as well.
        with open_state_folder(state, make=True) as at, contextlib.suppress(OSError):
            _write_new(at, ".gitignore", b"*\n")
    with open_state_folder(state, _RUNS, run, make=make) as at:
        yield at


@contextlib.contextmanager
def open_state_folder(state: Path, *parts: str, make: bool = False) -> Iterator[int]:
    """Yield a descriptor of the state folder, or of a folder in it. OSError, or UnsafeFolder: it must not be used."""
    with contextlib.ExitStack() as stack:
        path = state
        at = stack.enter_context(_enter_folder(None, str(state), path, make=make))
        for part in parts:
            path /= part
            at = stack.enter_context(_enter_folder(at, part, path, make=make))
        yield at


@contextlib.contextmanager
def _enter_folder(above: int | None, name: str, path: Path, *, make: bool = False) -> Iterator[int]:
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=above)
    at = _open_own(above, name, path, _DIRECTORY)
    try:
        yield at
    finally:
        os.close(at)


def _open_own(above: int | None, name: str, path: Path, flags: int) -> int:
    """Open what is there, unless it is odd or others may write it."""
    try:
        fd = os.open(name, flags, dir_fd=above)
    except OSError as error:
        if error.errno in {errno.ENOTDIR, errno.ELOOP, errno.ENXIO}:
            _refuse_odd(os.stat(name, dir_fd=above, follow_symlinks=False), path)
        raise
    try:
        found = os.fstat(fd)
        _refuse_odd(found, path)
        _refuse_foreign(found, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _refuse_odd(found: os.stat_result, path: Path) -> None:
    """Raise UnsafeFolder for what is neither a folder nor a plain file."""
    kind = stat.S_IFMT(found.st_mode)
    word = {stat.S_IFLNK: "a link", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}.get(kind, "a device")
    if kind not in {stat.S_IFREG, stat.S_IFDIR}:
        raise UnsafeFolder(f"{path} is {word}, which runner does not follow: remove it, or {_WAY_OUT}")


def _refuse_foreign(found: os.stat_result, path: Path) -> None:
    me = effective_user()
    if found.st_uid not in {me, 0}:
        text = f"{path} belongs to user {found.st_uid}, and this is user {me}: it is neither read nor written"
        raise UnsafeFolder(f"{text}; {_WAY_OUT}")
    if found.st_mode & _OTHERS_WRITE and not found.st_mode & stat.S_ISVTX:
        mode = stat.S_IMODE(found.st_mode)
        text = f"other users may write {path} (mode {mode:04o}): it is neither read nor written; `chmod go-w` it"
        raise UnsafeFolder(f"{text}, {_WAY_OUT}")


def create_file(at: int, name: str) -> int:
    """Return a new file in a folder, for its owner alone; what has that name already is an OSError."""
    return os.open(name, _CREATE, 0o600, dir_fd=at)


def append_to_file(at: int, name: str, path: Path) -> int:
    """Return a file of a folder, at its end. OSError, or UnsafeFolder: it must not be used."""
    fd = _open_own(at, name, path, _APPEND)
    os.lseek(fd, 0, os.SEEK_END)
    return fd


def write_all(fd: int, data: bytes) -> None:
    """Write all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def append_whole(fd: int, data: bytes, size: int) -> int:
    """Write all of it behind the `size` bytes of a file, or nothing; return the new size. OSError: nothing."""
    try:
        write_all(fd, data)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, size)
            os.lseek(fd, size, os.SEEK_SET)
        raise
    return size + len(data)


def _write_new(at: int, name: str, data: bytes) -> None:
    fd = create_file(at, name)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)


def replace_path(path: Path, data: bytes) -> None:
    """Replace a file of a user's whole, as `replace_file` does one of a run."""
    at = os.open(path.parent, os.O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    try:
        replace_file(at, path.name, data, f".{path.name}.{os.getpid()}.new")
    finally:
        os.close(at)


def replace_file(at: int, name: str, data: bytes, new: str = "") -> None:
    """Replace a file whole, or leave it as it was; `new` is the name of the new one until it is whole."""
    new = new or f"{name}.new"
    with contextlib.suppress(FileNotFoundError):  # of a run that was killed
        os.unlink(new, dir_fd=at)
    try:
        _write_new(at, new, data)
        os.rename(new, name, src_dir_fd=at, dst_dir_fd=at)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=at)
        raise


def open_run_file(path: Path) -> BinaryIO:
    """Open a run's file for reading. OSError, or UnsafeFolder: it must not be used."""
    with open_state_folder(path.parents[2], _RUNS, path.parent.name) as at:
        fd = _open_own(at, path.name, path, _READ)
    os.set_blocking(fd, True)
    return os.fdopen(fd, "rb")


def remove_run_files(state: Path, run: str, names: Sequence[str]) -> None:
    """Remove files of a run, and its folder when nothing is left in it."""
    with open_state_folder(state, _RUNS) as above:
        with _enter_folder(above, run, state / _RUNS / run) as at:
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=at)
        os.rmdir(run, dir_fd=above)


def runs_with_files(state: Path, *files: str) -> list[str]:
    """Return the runs that have left one of these files, the oldest first; also those that must not be looked into."""
    found = []
    try:
        with open_state_folder(state, _RUNS) as at:
            for name in os.listdir(at):  # noqa: PTH208  of a descriptor
                with contextlib.suppress(OSError):
                    found.append((_changed_at(at, name, state / _RUNS / name, files), name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{state} cannot be read: {error.strerror or error}") from None
    return [name for _, name in sorted(found)]


def _changed_at(above: int, name: str, path: Path, files: Sequence[str]) -> float:
    """When the last of these files of a run was changed; OSError: it has none of them."""
    when = []
    try:
        with _enter_folder(above, name, path) as at:
            for file in files:
                with contextlib.suppress(FileNotFoundError):
                    when.append(os.stat(file, dir_fd=at, follow_symlinks=False).st_mtime)
    except UnsafeFolder:  # who reads it is told why it must not be read
        when.append(os.stat(name, dir_fd=above, follow_symlinks=False).st_mtime)
    if not when:
        raise FileNotFoundError(errno.ENOENT, "none of its files", str(path))
    return max(when)


def select_run(state: Path, known: Sequence[str], run: str, what: str) -> Path:
    """Return the folder of a run among those `known`: `last`, `last~1`, an id, or its beginning; else UsageError."""
    if not known:
        raise UsageError(f"no run in {state} has {what}")
    last, _, back = run.partition("~")
    if last == "last" and (back or "0").isdecimal() and len(back) < 10:
        if int(back or 0) >= len(known):
            raise UsageError(f"`{run}`: only {len(known)} in {state} {'has' if len(known) == 1 else 'have'} {what}")
        return state / _RUNS / known[-1 - int(back or 0)]
    matching = [name for name in known if name == run] or [name for name in known if name.startswith(run)]
    if len(matching) != 1:
        listed = ", ".join(known[-10:])
        why = "matches several" if matching else "matches none of them"
        raise UsageError(f"runs with {what}: {listed}; `{run}` {why}")
    return state / _RUNS / matching[0]
