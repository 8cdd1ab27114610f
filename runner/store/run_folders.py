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
from typing import TYPE_CHECKING

from runner.errors import UnsafeFolder, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_RUNS = "runs"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: A pipe that stands where a file should be is opened without waiting for its other end, and then refused.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_WAY_OUT = "name another folder with `state` in [run], or keep no record with --no-record"


# -- folders ----------------------------------------------------------------------------------


def check_state_folder(state: Path) -> None:
    """Raise UnsafeFolder when a run must not keep anything there; what is missing can still be made."""
    with contextlib.suppress(OSError), open_state_folder(state, _RUNS):
        pass


@contextlib.contextmanager
def open_run_folder(state: Path, run: str, *, make: bool = False) -> Iterator[int]:
    """Yield a descriptor of one run's folder. `make`: it is made where it is missing, for its owner alone."""
    if make:
        state.parent.mkdir(parents=True, exist_ok=True)
        with open_state_folder(state, make=True) as at:
            _keep_out_of_version_control(at)
    with open_state_folder(state, _RUNS, run, make=make) as at:
        yield at


@contextlib.contextmanager
def open_state_folder(state: Path, *parts: str, make: bool = False) -> Iterator[int]:
    """Yield a descriptor of the state folder, or of a folder in it. OSError, or UnsafeFolder: it must not be used."""
    at = _enter_folder(None, str(state), state, make=make)
    path = state
    try:
        for part in parts:
            path /= part
            at, above = _enter_folder(at, part, path, make=make), at
            os.close(above)
        yield at
    finally:
        os.close(at)


def _enter_folder(above: int | None, name: str, path: Path, *, make: bool = False) -> int:
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=above)
    try:
        at = os.open(name, _DIRECTORY, dir_fd=above)
    except OSError as error:
        if error.errno in {errno.ENOTDIR, errno.ELOOP}:
            _refuse_odd(os.stat(name, dir_fd=above, follow_symlinks=False), path)
        raise
    try:
        _refuse_foreign(os.fstat(at), path)
    except BaseException:
        os.close(at)
        raise
    return at


def _refuse_odd(found: os.stat_result, path: Path) -> None:
    """Raise UnsafeFolder for what is neither a folder nor a plain file."""
    kind = stat.S_IFMT(found.st_mode)
    word = {stat.S_IFLNK: "a link", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}.get(kind, "a device")
    if kind not in {stat.S_IFREG, stat.S_IFDIR}:
        raise UnsafeFolder(f"{path} is {word}, which runner does not follow: remove it, or {_WAY_OUT}")


def _refuse_foreign(found: os.stat_result, path: Path) -> None:
    me = os.geteuid()
    if found.st_uid not in {me, 0}:
        text = f"{path} belongs to user {found.st_uid}, and this is user {me}: it is neither read nor written"
        raise UnsafeFolder(f"{text}; {_WAY_OUT}")
    if found.st_mode & _OTHERS_WRITE and not found.st_mode & stat.S_ISVTX:
        mode = stat.S_IMODE(found.st_mode)
        text = f"other users may write {path} (mode {mode:04o}): it is neither read nor written; `chmod go-w` it"
        raise UnsafeFolder(f"{text}, {_WAY_OUT}")


def _keep_out_of_version_control(at: int) -> None:
    with contextlib.suppress(OSError):  # it may be there; and without it a run is kept as well
        fd = create_file(at, ".gitignore")
        try:
            write_all(fd, b"*\n")
        finally:
            os.close(fd)


# -- files in them ----------------------------------------------------------------------------


def create_file(at: int, name: str) -> int:
    """Return a new file in a folder, for its owner alone; what has that name already is an OSError."""
    return os.open(name, _CREATE, 0o600, dir_fd=at)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def replace_path(path: Path, data: bytes) -> None:
    """Replace a file of a user's whole, as `replace_file` does one of a run."""
    at = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        replace_file(at, path.name, data, f".{path.name}.{os.getpid()}.new")
    finally:
        os.close(at)


def replace_file(at: int, name: str, data: bytes, new: str = "") -> None:
    """Replace a file whole: a reader sees the old one or the new one. When that fails, nothing half is left.

    `new` is its name until it is whole.
    """
    new = new or f"{name}.new"
    with contextlib.suppress(FileNotFoundError):  # of a run that was killed
        os.unlink(new, dir_fd=at)
    fd = create_file(at, new)
    try:
        try:
            write_all(fd, data)
        finally:
            os.close(fd)
        os.rename(new, name, src_dir_fd=at, dst_dir_fd=at)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=at)
        raise


def open_run_file(path: Path) -> int:
    """Return a descriptor of a run's file, for reading. OSError, or UnsafeFolder: it must not be used."""
    with open_state_folder(path.parents[2], _RUNS, path.parent.name) as at:
        try:
            fd = os.open(path.name, _READ, dir_fd=at)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENXIO}:
                _refuse_odd(os.stat(path.name, dir_fd=at, follow_symlinks=False), path)
            raise
    found = os.fstat(fd)
    try:
        _refuse_odd(found, path)
        _refuse_foreign(found, path)
    except UnsafeFolder:
        os.close(fd)
        raise
    os.set_blocking(fd, True)
    return fd


def remove_run_files(state: Path, run: str, names: Sequence[str]) -> None:
    """Remove files of a run, and its folder when nothing is left in it."""
    with open_state_folder(state, _RUNS) as above:
        at = _enter_folder(above, run, state / _RUNS / run)
        try:
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=at)
        finally:
            os.close(at)
        os.rmdir(run, dir_fd=above)


# -- which runs there are ---------------------------------------------------------------------


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
    try:
        at = _enter_folder(above, name, path)
    except UnsafeFolder:  # who reads it is told why it must not be read
        return os.stat(name, dir_fd=above, follow_symlinks=False).st_mtime
    try:
        when = []
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                when.append(os.stat(file, dir_fd=at, follow_symlinks=False).st_mtime)
        if not when:
            raise FileNotFoundError(errno.ENOENT, "none of its files", str(path))
        return max(when)
    finally:
        os.close(at)


def select_run(state: Path, known: Sequence[str], run: str, what: str) -> Path:
    """Return the folder of a run among those `known`: `last`, `last~1` (the one before it), an id, or how one begins.

    UsageError says what there is.
    """
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
