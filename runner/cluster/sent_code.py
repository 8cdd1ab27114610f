"""The local plugins of a file, on machines that do not have them: packed by the supervisor, unpacked by each agent.

    supervisor                               agent, in a private folder that is gone with it
      /home/me/plugins/work.py  ── tar ──▶     /tmp/runner-agent-x/sent-code/home/me/plugins/work.py
      module `runner.local_modules./home/me/plugins.work`: the same name on both sides

The name stays, because items are pickled with it, whichever machine makes them and whichever reads them. The agent's
folder is an entry of `sys.path`, from which `local_modules` knows where to look, in workers and in their children too.
Where the project lies on the nodes already, there is a link in place of what was unpacked.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from runner.errors import ResourceError
from runner.local_modules import FOLDER_PREFIX, SENT_CODE, located
from runner.posix_only import fcntl
from runner.text import printable_line, size_or_empty

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterable, Iterator

    from runner.tasks import Reference

#: Each agent is sent all of it. Code is small; what is larger is data, and belongs to where the nodes can read it.
MAX_CODE_BYTES = 10 * 10**6
#: A tar of empty files would be small.
_MAX_FILES = 20_000
_WAY_OUT = "share the project's folder with the nodes, and name it in `folder` of [agents]"


class CodeRefused(ResourceError):
    """What was sent as code is not such, or leads out of its folder; nothing was executed."""


def plugin_paths(folder: Path, named: Iterable[str] | None, references: Iterable[Reference]) -> list[Path]:
    """Return the local plugins of a file in `folder`: those that it names, else plugins/, and those referred to."""
    found = [folder / name for name in (["plugins"] if named is None else named)]
    there = [path for path in found if path.exists()]  # any other is the name of an installed module
    for reference in references:
        path = Path(reference.path) if reference.path else None
        if path is not None and not any(path.is_relative_to(each) for each in there):
            there.append(path.parent if path.name == "__init__.py" else path)
    return [Path(os.path.abspath(path)) for path in there]  # noqa: PTH100  `resolve` would follow links


def imported_paths(folder: Path, modules: Iterable[Any]) -> list[Path]:
    """Return modules beside a file, and packages there, as far as they have been imported: plugins import them by name.

    What is installed in an environment below `folder` is not meant.
    """
    found: dict[Path, None] = {}
    for module in list(modules):
        file, name = getattr(module, "__file__", None), getattr(module, "__name__", "")
        if not isinstance(file, str) or "." in name or not Path(file).is_relative_to(folder):
            continue
        path = Path(file).parent if Path(file).name == "__init__.py" else Path(file)
        if path.parent == folder and path.suffix in {"", ".py"}:
            found[path] = None
    return list(found)


def pack_code(paths: Iterable[Path]) -> bytes:
    """Return files and folders as a compressed tar, under their whole paths. ResourceError above `MAX_CODE_BYTES`."""
    import tarfile  # few runs need it

    sizes: dict[str, int] = {}
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz", compresslevel=3) as tar:
        for file in dict.fromkeys(each for path in paths for each in _files_in(path, set())):
            try:
                content = Path(file).read_bytes()
                mode = os.stat(file).st_mode & 0o100  # noqa: PTH116  beside names from `os.scandir`
            except OSError as error:
                raise ResourceError(
                    f"{printable_line(file)} cannot be sent to other machines: {error.strerror}"
                ) from None
            sizes[file] = len(content)
            if sum(sizes.values()) > MAX_CODE_BYTES or len(sizes) > _MAX_FILES:
                raise _too_large(sizes)
            member = tarfile.TarInfo(file.lstrip("/"))
            member.size, member.mode = len(content), 0o600 | mode
            tar.addfile(member, io.BytesIO(content))
    return data.getvalue()


def _files_in(path: Path | str, above: set[tuple[int, int]]) -> Iterator[str]:
    """Yield the regular files at or below a path, sorted, through links too; none that Python or an editor makes."""
    path = str(path)
    if os.path.isfile(path):  # noqa: PTH113  a Path for each file costs more than the rest
        yield path
        return
    with contextlib.suppress(NotADirectoryError, FileNotFoundError):
        found = os.stat(path)  # noqa: PTH116
        if (identity := (found.st_dev, found.st_ino)) in above:
            return  # a link that leads up
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if not entry.name.startswith(".") and entry.name != "__pycache__":
                yield from _files_in(entry.path, above | {identity})


def _too_large(sizes: dict[str, int]) -> ResourceError:
    largest = sorted(sizes, key=lambda file: -sizes[file])[:3]
    told = ", ".join(f"{printable_line(file)} ({size_or_empty(sizes[file]) or '0B'})" for file in largest)
    what = f"{size_or_empty(MAX_CODE_BYTES)} or {_MAX_FILES:,} files"
    return ResourceError(
        f"the local plugins are larger than what is sent to other machines, {what}; the largest: {told};"
        f" keep data elsewhere, or {_WAY_OUT}"
    )


class CodeFolder:
    """A private folder of this agent, for code that was sent along or is shared; nobody else may look into it.

    It is gone after `close`. One whose agent was killed is removed by the next agent of the same user.
    """

    def __init__(self, parent: str | None = None) -> None:
        parent = parent or tempfile.gettempdir()
        _remove_abandoned(parent)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent))  # for its owner alone
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.path.exists():
                break
            os.close(self._lock)  # another agent has found it before it was locked, and removed it
        self._code = self.path / SENT_CODE
        self._code.mkdir(0o700)

    @property
    def import_entry(self) -> str:
        """The entry of `sys.path` by which the names of local plugins lead here."""
        return str(self.path)

    def unpack(self, data: bytes) -> None:
        """Write what `pack_code` has packed. CodeRefused for anything else, such as a name that leads elsewhere."""
        import tarfile

        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
                total = 0
                for number, member in enumerate(tar):
                    total += member.size
                    if total > MAX_CODE_BYTES or number >= _MAX_FILES:
                        raise CodeRefused(f"code that was sent is more than {size_or_empty(MAX_CODE_BYTES)}")
                    self._write_member(tar, member)
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}:
                raise CodeRefused(f"code that was sent cannot be written to {self.path}: {error.strerror}") from None
            raise CodeRefused("what was sent as code is not a tar of files, each once") from None

    def _write_member(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = PurePosixPath(member.name)
        if not member.isreg() or name.is_absolute() or ".." in name.parts or not name.parts or "\0" in member.name:
            raise CodeRefused(f"code that was sent has {printable_line(member.name)!r}, which no plugin has")
        target = self._code / name
        _make_folders(target.parent)
        content = tar.extractfile(member)
        assert content is not None
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(target, flags, 0o700 if member.mode & 0o100 else 0o600), "wb") as file:
            shutil.copyfileobj(content, file)

    def share(self, theirs: str, here: str) -> None:
        """Have the supervisor's folder `theirs` lead to `here`, where the nodes have it. CodeRefused: it is not."""
        if not os.path.isdir(here):  # noqa: PTH112
            raise CodeRefused(f"{printable_line(here)}, `folder` of [agents], is not a folder on this machine")
        link = self._code / theirs.lstrip("/")
        try:
            _make_folders(link.parent)
            link.symlink_to(os.path.abspath(here))  # noqa: PTH100  the link has to lead there from elsewhere
        except OSError:
            raise CodeRefused(f"{printable_line(theirs)} was sent, and is to be shared as well") from None

    def locate(self, path: str) -> str:
        """Return where a file or folder of the supervisor's is here; the same path if it was not sent."""
        return located(path, [self.import_entry])

    def locate_reference(self, reference: Reference) -> Reference:
        """Return a reference of the supervisor's as it is here: the same module, from the file that is here."""
        return replace(reference, path=reference.path and self.locate(reference.path))

    def close(self) -> None:
        """Remove it, whatever the code has written there."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def open_code(data: bytes, shared: str, here: str) -> CodeFolder | None:
    """Return a folder with the code that was sent, and with `shared` at `here`; None if all of it is here as it is.

    So on the supervisor's machine, and where the nodes have the project under the same path, files keep their names,
    in tracebacks too.
    """
    if (not shared or shared == here) and (not data or _is_here(data)):
        return None
    folder = CodeFolder()
    try:
        if data:
            folder.unpack(data)
        if shared:
            folder.share(shared, here)
    except BaseException:
        folder.close()
        raise
    return folder


def _is_here(data: bytes) -> bool:
    """Return True if this machine has the same files under the same paths; what is not a tar is left to `unpack`."""
    import tarfile

    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() and member.size <= MAX_CODE_BYTES else None
                if content is None or Path(f"/{member.name}").read_bytes() != content.read():
                    return False
    except (tarfile.TarError, EOFError, OSError, ValueError):
        return False
    return True


def _make_folders(path: Path) -> None:
    """Make a folder and those above it, each for its owner alone: `mkdir` gives the mode to the last one only."""
    if not path.is_dir():
        _make_folders(path.parent)
        path.mkdir(0o700)


def _remove_abandoned(parent: str) -> None:
    """Remove the folders of agents of this user that were killed: no process holds their locks."""
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):  # noqa: PTH208
            if name.startswith(FOLDER_PREFIX):
                with contextlib.suppress(OSError):
                    _remove_unlocked(os.path.join(parent, name))  # noqa: PTH118


def _remove_unlocked(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_uid == os.geteuid():
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(fd)
