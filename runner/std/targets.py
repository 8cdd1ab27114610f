"""Targets of a sink's bytes: standard output, a pipe or a device, or a file that is written whole or not at all.

    whole file:  .NAME.part, locked, beside the file ──▶ all there: synced, renamed ──▶ NAME
                                                     └─▶ cut short, or a write has failed: removed

The lock dies with its process. So a part that is not locked was left by a run that was killed, and is removed by the
next writer; one that is held means another writer, in whatever container, and whatever its process number is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import stat
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from runner import linux_only
from runner.forked_copies import close_descriptors
from runner.posix_only import O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK, fcntl

if TYPE_CHECKING:
    from collections.abc import Mapping

_FD = re.compile(r"/(?:dev|proc/(?P<pid>[0-9]+)(?:/task/[0-9]+)?)/fd/(?P<number>[0-9]{1,9})")
#: The longest name that every file system takes (eCryptfs; most take 255 bytes).
_NAME_MAX = 143
_LINKS = 40
_TRIES = 100
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | O_CLOEXEC
#: Whatever is there by now: no link is followed, and no reader of a pipe waited for.
_LOOK_AT = os.O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC
#: What a file system answers that cannot sync such a thing at all.
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP}
#: File → the run that has begun it last in this process.
_BEGUN: dict[str, str] = {}


class SinkTarget:
    """Takes bytes; `commit` when all have come, `close` in any case. `is_atomic`: nothing is there before `commit`."""

    is_atomic = False
    #: It begins with what was there before, which can be read there.
    has_content = False
    content_path = ""

    def write(self, data: bytes) -> None:
        """Write all of it, or raise OSError."""
        raise NotImplementedError

    def place(self) -> dict[str, Any] | None:
        """Return what another process needs in order to go on here; None where nothing can be taken back."""
        return None

    def commit(self) -> None:
        """Keep what has come, which is all; where it is not `is_atomic` that is there already."""

    def close(self) -> None:
        """Let go of everything; never raises."""


def open_target(
    path: str,
    run: str,
    *,
    append: bool = False,
    place: Mapping[str, Any] | None = None,
    only_files: bool = False,
    durable: bool = False,
) -> SinkTarget:
    """Return the target that a path means, `-` being standard output; OSError says why there is none.

    `run` is the run's id, or empty: within one run a file is begun once. `append`: a file begins with what is there.
    `place` is where an earlier worker has ended; this one goes on there. `only_files`: ValueError for everything else,
    of which a killed process's last items, which are given again, cannot be taken back. `durable`: the run is.
    """
    number = 1 if path == "-" else fd_of_path(path)
    if only_files and number is not None:
        raise _only_threads(path)
    if number in {1, 2}:
        return StreamTarget("stdout" if number == 1 else "stderr")
    if number is not None:
        return DescriptorTarget(path, _inherited_fd(path, number))
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(path).st_mode  # noqa: PTH116  a str may be any path, Path("") is "."
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{printable_path(path)}: this is a folder")
        if stat.S_ISSOCK(mode):
            raise OSError(f"{printable_path(path)}: this is a socket, which cannot be opened like a file")
        if not stat.S_ISREG(mode):
            if only_files:
                raise _only_threads(path)
            return DescriptorTarget(path, os.open(path, os.O_WRONLY | O_CLOEXEC | os.O_NOCTTY))
    kind = DurableFileTarget if durable else AtomicFileTarget
    return kind(path, run, append=append, place=place)


def _only_threads(path: str) -> ValueError:
    text = 'written by threads only (it is no file): say `mode = "thread"`, or nothing'
    return ValueError(f"{printable_path(path)}: {text}")


def printable_path(path: str) -> str:
    r"""Return a path in a message, on one line.

    >>> printable_path("out.txt"), printable_path("a\nb")
    ('out.txt', "'a\\nb'")
    """
    return path if path.isprintable() else repr(path)


def fd_of_path(path: str) -> int | None:
    """Return the descriptor of this process that a path leads to (`/dev/stdout`, `/dev/fd/63`), or None.

    >>> fd_of_path("/dev/fd/63"), fd_of_path("out.txt")
    (63, None)
    """
    at = os.path.abspath(path)  # noqa: PTH100
    for _ in range(_LINKS):
        folder, name = os.path.split(at)
        at = os.path.join(os.path.realpath(folder), name)  # noqa: PTH118
        found = _FD.fullmatch(at)
        if found is not None:
            return int(found["number"]) if found["pid"] in {None, str(os.getpid())} else None
        if not os.path.islink(at):  # noqa: PTH114
            return None
        at = os.path.normpath(os.path.join(os.path.dirname(at), os.readlink(at)))  # noqa: PTH115, PTH118, PTH120
    return None


def _inherited_fd(path: str, number: int) -> int:
    """Copy a descriptor that runner was started with; those that it has opened itself are not for others."""
    try:
        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise PermissionError(f"{path}: this descriptor is open for reading only")
        if os.get_inheritable(number):
            return os.dup(number)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
    raise FileNotFoundError(f"{path}: runner was started without this descriptor")


class StreamTarget(SinkTarget):
    """Standard output or error: the lines of data that go there bear no name of a worker."""

    def __init__(self, name: str) -> None:
        self._name = name

    def write(self, data: bytes) -> None:
        """Write after what was printed before."""
        stream = getattr(sys, self._name)
        if hasattr(stream, "write_data"):  # the capture of thread workers
            stream.write_data(data)
        elif hasattr(stream, "buffer"):
            stream.flush()
            stream.buffer.write(data)
            stream.buffer.flush()
        else:
            stream.write(data.decode("utf-8", "replace"))


class DescriptorTarget(SinkTarget):
    """A pipe, a device, or a descriptor that runner was started with: what is written is there at once."""

    def __init__(self, path: str, fd: int) -> None:
        self._path, self._fd = path, fd
        self._torn: OSError | None = None

    def write(self, data: bytes) -> None:
        """Wait for a slow reader. After half an item nothing more can be written."""
        if self._torn is not None:
            raise OSError(self._torn.errno, f"{printable_path(self._path)}: {self._torn.strerror}")
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    select.select([], [self._fd], [])
        except OSError as error:
            self._torn = error if len(view) < len(data) else None
            _raise_with_context(error, printable_path(self._path))

    def close(self) -> None:
        """Close it; the reader sees the end, unless another process writes."""
        close_descriptors(self._fd)


class AtomicFileTarget(SinkTarget):
    """A file that has, under its own name, what was there before until `commit` has put all in its place."""

    is_atomic = True
    #: What is written aside stays there, under a name with the run's id, until the run has ended well.
    keeps_part = False

    def __init__(self, path: str, run: str, *, append: bool = False, place: Mapping[str, Any] | None = None) -> None:
        self._path = printable_path(path)
        self._target = os.path.realpath(path)
        self._folder, name = os.path.split(self._target)
        self._aside, self._fd, self._torn = "", -1, False
        if os.path.islink(self._target):  # noqa: PTH114
            raise OSError(errno.ELOOP, f"{self._path}: this link leads in a circle")
        if not os.path.isdir(self._folder):  # noqa: PTH112
            raise FileNotFoundError(f"{self._path}: there is no folder {printable_path(self._folder)}; make it first")
        if os.path.exists(self._target) and not os.access(self._target, os.W_OK):  # noqa: PTH110
            raise PermissionError(f"{self._path}: this file may not be written; see its permissions")
        if run and not self.keeps_part and _BEGUN.get(self._target) == run:
            text = "an earlier worker of this run has written a part of this file, which would be lost"
            raise FileExistsError(f"{self._path}: {text}")
        try:
            if place is not None:
                self._reopen_part(place)
            else:
                part = f"{name}.{run}" if self.keeps_part else name
                self._fd, self._aside = _open_part(self._folder, part, self._path)
                _copy_mode(self._fd, self._target)
                self.has_content = append and self._copy_content()
            self.content_path = self._aside
        except OSError as error:
            self.close()
            if error.errno is None:
                raise
            _raise_with_context(error, f"{self._path}: no file can be made in {printable_path(self._folder)}")
        if run:
            _BEGUN[self._target] = run

    def _copy_content(self) -> bool:
        """Begin with what is there; return True if that is anything."""
        last = b""
        with contextlib.suppress(FileNotFoundError), open(self._target, "rb") as there:  # noqa: PTH123  as above
            while piece := there.read(1 << 20):
                self.write(piece)
                last = piece
        if last and not last.endswith(b"\n"):
            self.write(b"\n")
        return bool(last)

    def place(self) -> dict[str, Any] | None:
        """Return the part's name, its number in the file system, and its length."""
        length = os.lseek(self._fd, 0, os.SEEK_CUR)
        return {"part": os.path.basename(self._aside), "inode": os.fstat(self._fd).st_ino, "length": length}  # noqa: PTH119

    def _reopen_part(self, place: Mapping[str, Any]) -> None:
        """Go on with an earlier worker's part, which may be in its place already; cut off what came after `place`."""
        aside = os.path.join(self._folder, place["part"])  # noqa: PTH118
        for there in (aside, self._target):
            with contextlib.suppress(FileNotFoundError):
                self._fd = os.open(there, _LOOK_AT)
                found = os.fstat(self._fd)
                # In its place it may have got its head at the end; anything more is another's.
                is_ours = place["length"] in ((0, found.st_size) if there == self._target else range(found.st_size + 1))
                if found.st_ino == place["inode"] and is_ours:
                    try:
                        _lock_file(self._fd)
                    except BlockingIOError:
                        raise FileExistsError(errno.EEXIST, "another worker is writing this file") from None
                    except OSError:  # a file system without locks
                        pass
                    os.set_blocking(self._fd, True)
                    os.ftruncate(self._fd, place["length"])
                    os.lseek(self._fd, place["length"], os.SEEK_SET)
                    os.replace(there, aside)  # noqa: PTH105
                    self._aside, self.has_content = aside, place["length"] > 0
                    return
                close_descriptors(self._fd)
                self._fd = -1
        raise FileNotFoundError(errno.ENOENT, "what an earlier worker of this run has written is gone")

    def write(self, data: bytes) -> None:
        """Append; an error leaves no half of it."""
        before = os.lseek(self._fd, 0, os.SEEK_CUR)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self._torn = True
            os.ftruncate(self._fd, before)
            os.lseek(self._fd, before, os.SEEK_SET)
            self._torn = False
            _raise_with_context(error, self._path)

    def commit(self) -> None:
        """Put it in its place, safe from a power failure; OSError says why what was there before stays."""
        try:
            if self._torn:
                raise OSError(errno.EIO, "half an item could not be taken back")  # noqa: TRY301  as the others
            _sync_file(self._fd)
            os.replace(self._aside, self._target)  # noqa: PTH105
        except OSError as error:
            _raise_with_context(error, f"{self._path} is not written, what was there before stays")
        self._aside = ""
        try:
            _sync_folder(self._folder)
        except OSError as error:
            _raise_with_context(error, f"{self._path} is written, but a power failure might still undo that")

    def close(self) -> None:
        """Remove what is not in its place; what is there has been synced, so closing cannot fail it any more."""
        if self._aside and not self.keeps_part:
            with contextlib.suppress(OSError):
                os.unlink(self._aside)  # noqa: PTH108
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # by name: forked children may have it still
                fcntl.flock(self._fd, fcntl.LOCK_UN)
            close_descriptors(self._fd)
        self._aside, self._fd = "", -1


class DurableFileTarget(AtomicFileTarget):
    """The file of a durable run, in whose next life it is cut to what was saved: each item is there once."""

    keeps_part = True
    _is_named = False

    def place(self) -> dict[str, Any] | None:
        """Return the same, once what was written is safe, and the part's name with it."""
        linux_only.sync_data(self._fd)
        if not self._is_named:
            with contextlib.suppress(PermissionError):  # of a folder that may be written, and not read
                _sync_folder(self._folder)
            self._is_named = True
        return super().place()


def _raise_with_context(error: OSError, what: str) -> NoReturn:
    raise OSError(error.errno, f"{what}: {error.strerror or error}") from None


def _sync_file(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _sync_folder(path: str) -> None:
    folder = os.open(path, os.O_RDONLY | O_CLOEXEC)
    try:
        _sync_file(folder)
    finally:
        os.close(folder)


def _copy_mode(fd: int, target: str) -> None:
    """Give the new file the mode and, where that is allowed, the owner of the one whose place it will take."""
    try:
        there = os.stat(target)  # noqa: PTH116
    except FileNotFoundError:
        return
    made = os.fstat(fd)
    if (there.st_uid, there.st_gid) != (made.st_uid, made.st_gid):
        try:
            os.fchown(fd, there.st_uid, there.st_gid)
        except OSError:
            with contextlib.suppress(OSError):
                os.fchown(fd, -1, there.st_gid)
    with contextlib.suppress(PermissionError):  # some file systems know no modes
        os.fchmod(fd, stat.S_IMODE(there.st_mode) & 0o777)


class _CannotLock(Exception):
    """The file with the part's name cannot be examined, or this file system has no locks."""


def part_name(name: str) -> str:
    """Return the name of the part, which must not be longer than a name may be.

    >>> part_name("out.txt"), len(part_name("ö" * 127))
    ('.out.txt.part', 38)
    """
    raw = os.fsencode(name)
    if len(raw) + len("..part") > _NAME_MAX:
        import hashlib

        name = hashlib.sha256(raw).hexdigest()[:32]
    return f".{name}.part"


def _open_part(folder: str, name: str, path: str) -> tuple[int, str]:
    """Create a locked file beside the target; return it and its path. Parts that killed runs have left are removed."""
    aside = os.path.join(folder, part_name(name))  # noqa: PTH118
    try:
        for _ in range(_TRIES):
            if (fd := _claim_part(aside, path)) is not None:
                return fd, aside
    except _CannotLock:
        # Every writer has a part of its own then, and the last one that is whole stays.
        aside = os.path.join(folder, part_name(os.urandom(16).hex()))  # noqa: PTH118
        return os.open(aside, _CREATE, 0o666), aside
    raise FileExistsError(f"{path}: other workers want to write this file all the time ({printable_path(aside)})")


def _claim_part(aside: str, path: str) -> int | None:
    """Return the part, new and locked; None: it was a killed run's, or another writer was quicker, so try again."""
    fd, is_new = -1, True
    try:
        try:
            fd = os.open(aside, _CREATE, 0o666)
        except FileExistsError:
            fd, is_new = os.open(aside, _LOOK_AT), False
        _lock_file(fd)
        if os.path.samestat(os.fstat(fd), os.lstat(aside)):
            if is_new:
                kept, fd = fd, -1
                return kept
            os.unlink(aside)  # noqa: PTH108
    except FileNotFoundError:
        pass
    except BlockingIOError:
        if not is_new:
            text = f"another worker is writing this file; it can have one only (it writes {printable_path(aside)})"
            raise FileExistsError(f"{path}: {text}") from None
    except OSError:
        if fd >= 0 and is_new:
            with contextlib.suppress(OSError):
                os.unlink(aside)  # noqa: PTH108
        raise _CannotLock from None
    finally:
        if fd >= 0:
            os.close(fd)
    return None


def _lock_file(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
