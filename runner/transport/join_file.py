"""The join file of a run: all that an agent needs to become part of it. Whoever reads it can, so it is 0600.

`name` is the run. With `identity`, PEM texts, the connection is TLS (`cluster.encryption`); else both ends prove to
have `key`, in hexadecimal (`key_proof`).
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from runner.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

JOIN_FILE = "join"
_MAX_BYTES, _MIN_KEY_BYTES = 1 << 16, 16
#: Where the newest run is meant, whatever its name.
_LAST = "last"


class JoinFile(Struct, frozen=True):
    """What the file says. `address` is `host:port`, `lost` the seconds of `[agents] lost`."""

    address: str
    name: str
    lost: float
    key: str = ""
    identity: str = ""

    def __repr__(self) -> str:
        return f"JoinFile({self.address!r}, {self.name!r})"

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Return the address as `socket` takes it."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)


def read_join_file(path: Path) -> JoinFile:
    """Return what the file says; FileNotFoundError if it is not there yet, UsageError if it must not be used."""
    path = _newest(path)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{path} is not a file")
        if stat.S_IMODE(found.st_mode) & 0o077 and found.st_uid == os.geteuid():
            raise UsageError(f"others may read {path}, and with it join the run; `chmod 600` it")
        text = file.read(_MAX_BYTES)
    with contextlib.suppress(msgspec.MsgspecError, ValueError):
        made = msgspec.json.decode(text, type=JoinFile)
        if made.host_and_port[1] > 0 and (made.identity or len(bytes.fromhex(made.key)) >= _MIN_KEY_BYTES):
            return made
    # What is in it is not repeated.
    raise UsageError(f"{path} is not a join file, as `runner run --engine agents` writes it")


def _newest(path: Path) -> Path:
    """Return the file of the newest run for `.runner/runs/last/join`, unless there is a folder of that name."""
    if path.parent.name != _LAST or path.parent.exists():
        return path
    found: list[tuple[float, Path]] = []
    for each in path.parent.parent.glob(f"*/{path.name}"):
        with contextlib.suppress(OSError):  # that run has ended
            found.append((each.stat().st_mtime, each))
    if not found:
        raise FileNotFoundError(path)
    return max(found)[1]


def write_join_file(made: JoinFile) -> bytes:
    """Return the bytes of the file."""
    return msgspec.json.format(msgspec.json.encode(made)) + b"\n"
