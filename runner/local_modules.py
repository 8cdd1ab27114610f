"""Local plugins as modules that any process can import by their names.

    /home/me/plugins/work.py  ◀──▶  runner.local_modules./home/me/plugins.work

The name says where the file is, so it needs neither `sys.path` nor help from the starting process: a pickle
that mentions a function or a class of the plugin can be read wherever runner is installed, in a worker as in the
children of a pool that a task has made. And nothing of Python's, or of what is installed, bears such a name.

Importing `runner.local_modules` puts the finder there; Python does that by itself on the way to any module below it.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

#: How the names of local plugins' modules begin.
LOCAL_PREFIX = f"{__name__}."
#: How the private folders of agents begin, and where in them is code of another machine, under its paths there. An
#: agent has its folder in `sys.path`, which its workers and their children inherit; no import finds anything in it.
FOLDER_PREFIX, SENT_CODE = "runner-agent-", "sent-code"
#: A package without a folder: the finder knows what is in it.
__path__: list[str] = []


def module_name(folder: str, name: str) -> str:
    """Return the name of the module `name` (a file without `.py`, or a package) in a folder with an absolute path.

    >>> module_name("/home/me/plugins", "work")
    'runner.local_modules./home/me/plugins.work'
    >>> module_name("/home/me/v1.2", "work")
    'runner.local_modules./home/me/v1%2E2.work'
    """
    return LOCAL_PREFIX + ".".join(word.replace("%", "%25").replace(".", "%2E") for word in (folder, name))


def located(path: str, import_path: Sequence[str]) -> str:
    """Return the place on this machine of a file or folder of plugins: as it is, but for code that was sent here.

    >>> located("/home/me/plugins", ["/usr/lib/python3"])
    '/home/me/plugins'
    """
    for entry in import_path:
        if FOLDER_PREFIX in entry and os.path.basename(entry).startswith(FOLDER_PREFIX):  # noqa: PTH119  as quick as can be
            sent = f"{entry}/{SENT_CODE}{path}"
            if os.path.exists(sent):  # noqa: PTH110
                return sent
    return path


class _Finder:
    """A finder of folders as packages, and of the modules in them; Python finds by itself what is below those."""

    @staticmethod
    def find_spec(
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG004  the protocol's
        target: ModuleType | None = None,  # noqa: ARG004  the protocol's
    ) -> ModuleSpec | None:
        if not name.startswith(LOCAL_PREFIX):
            return None
        words = [word.replace("%2E", ".").replace("%25", "%") for word in name.removeprefix(LOCAL_PREFIX).split(".")]
        words[0] = located(words[0], sys.path)
        if len(words) == 1:
            package = ModuleSpec(name, None, is_package=True)
            package.submodule_search_locations = words
            return package
        if len(words) > 2:
            return None
        base = os.path.join(*words)  # noqa: PTH118  as quick as can be: every import of a plugin's passes here
        for file, inside in ((os.path.join(base, "__init__.py"), [base]), (f"{base}.py", None)):  # noqa: PTH118
            if os.path.isfile(file):  # noqa: PTH113
                return spec_from_file_location(name, file, submodule_search_locations=inside)
        return None


sys.meta_path.insert(0, _Finder)
