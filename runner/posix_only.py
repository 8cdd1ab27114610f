"""Modules of Python that Windows does not have, or what says so there as soon as one is used.

So all of runner can be imported there, and what only reads works: `check`, `graph`, `run --dry-run`, `explain`.
"""

from __future__ import annotations

import os
from typing import Any

from runner.errors import ResourceError

__all__ = [
    "O_CLOEXEC",
    "O_DIRECTORY",
    "O_NOFOLLOW",
    "O_NONBLOCK",
    "WNOHANG",
    "NotPosix",
    "effective_user",
    "fcntl",
    "require_posix",
    "resource",
    "termios",
]

#: How files are opened: a system without one of these can be asked for less.
O_CLOEXEC: int = getattr(os, "O_CLOEXEC", 0)
O_DIRECTORY: int = getattr(os, "O_DIRECTORY", 0)
O_NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
O_NONBLOCK: int = getattr(os, "O_NONBLOCK", 0)
WNOHANG: int = getattr(os, "WNOHANG", 0)
_WAY_OUT = "run it on Linux or macOS, or on Windows in WSL"


class NotPosix(ResourceError, AttributeError):
    """This system cannot do what a run needs."""


class MissingModule:
    """Stands for a module that is not here: what asks for something in it is told why it cannot go on."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        raise NotPosix(
            f"this needs `{name}` of Python's module `{self._name}`, which this system does not have; {_WAY_OUT}"
        )


def require_posix() -> None:
    """Raise NotPosix where there can be no run."""
    if not hasattr(os, "fork"):
        needs = "a run needs process groups, Unix sockets and POSIX signals"
        raise NotPosix(f"{needs}, which this system does not have; {_WAY_OUT}")


def effective_user() -> int:
    """Return the number of the user who executes this; 0 where users have none."""
    return os.geteuid() if hasattr(os, "geteuid") else 0


try:
    import fcntl
    import resource
    import termios
except ImportError:
    globals().update({name: MissingModule(name) for name in ("fcntl", "resource", "termios")})
