"""New environments for tests of what users install: wheels of this repository, without the repository."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from helpers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

_PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")


def build_wheels(folder: Path, *sources: Path) -> list[Path]:
    """Build a wheel of each source, without those of its dependencies."""
    # An environment with the build backend needs no new one for each build, nor an index.
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    command = [sys.executable, *_PIP, "wheel", "--no-deps", *isolation, "--wheel-dir", str(folder)]
    subprocess.run([*command, *map(str, sources)], check=True, timeout=300)
    return sorted(folder.glob("*.whl"))


@dataclass(frozen=True)
class FreshEnvironment:
    """An environment without pip, in which what the tests' environment has is found, but nothing of the repository."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, wheels: list[Path]) -> FreshEnvironment:
        """Make an environment, and install wheels there; what they require must be in the tests' environment."""
        venv.create(folder, with_pip=False)
        made = cls(folder)
        [packages] = folder.glob("lib/python*/site-packages")
        # A path in a .pth file: the folder's own .pth files, such as that of an editable install, are not heeded.
        (packages / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
        command = [sys.executable, *_PIP, "--python", made.python, "install", "--no-index", "--force-reinstall"]
        subprocess.run([*command, "--no-deps", *map(str, wheels)], check=True, timeout=300)
        return made

    @cached_property
    def python(self) -> str:
        """The interpreter."""
        return str(self.folder / "bin/python")

    def sh(self, command: str, cwd: Path, expected: int = 0, **env: str) -> str:
        """Execute a command of the shell with the environment active, and return what it writes."""
        environment = {**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}", **env}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            command,
            shell=True,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == expected, f"$ {command}\n{done.stdout}"
        return done.stdout


def repository_is_not_imported(environment: FreshEnvironment, cwd: Path) -> bool:
    """Return True if the environment has runner from the wheel."""
    return str(ROOT) not in environment.sh("python -c 'import runner; print(runner.__file__)'", cwd)
