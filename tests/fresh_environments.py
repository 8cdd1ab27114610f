"""Distributions built from copies of this repository, and environments that have nothing but what is put into them.

repository ──copy_repository──▶ a folder ──build_distributions──▶ sdist, wheel ──Environment.install──▶ `runner`

Environments are made and filled by uv, in about half a second each; pip takes twenty times as long.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import ROOT
from packaging.requirements import Requirement

#: No step takes so long: the first ones fetch what no cache has yet.
LIMIT = 300


@dataclass(frozen=True)
class Distributions:
    """A source distribution and a wheel."""

    sdist: Path
    wheel: Path


@dataclass(frozen=True)
class Environment:
    """A virtual environment, outside of which nothing of the repository is seen."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, python: str = sys.executable) -> Environment:
        execute(sys.executable, "-m", "uv", "venv", "-q", "--no-project", "--python", python, str(folder), cwd=ROOT)
        return cls(folder)

    @property
    def python(self) -> str:
        return str(self.folder / "bin/python")

    def install(self, *arguments: str) -> str:
        """Install requirements; return what uv says of them."""
        command = ["-m", "uv", "pip", "install", "--no-progress", "--python", self.python, *arguments]
        return execute(sys.executable, *command, cwd=self.folder)

    def versions(self) -> dict[str, str]:
        """Return the version of each distribution that is installed."""
        lines = execute(sys.executable, "-m", "uv", "pip", "freeze", "-q", "--python", self.python, cwd=self.folder)
        return dict(line.split("==") for line in lines.splitlines() if "==" in line)

    def runner(self, *arguments: str, cwd: Path, exit_code: int = 0, **variables: str) -> str:
        """Return what the installed command prints."""
        return execute(str(self.folder / "bin/runner"), *arguments, cwd=cwd, exit_code=exit_code, **variables)

    def sh(self, command: str, cwd: Path, **variables: str) -> str:
        """Return what a command of the shell prints with the environment active."""
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        return execute("sh", "-c", command, cwd=cwd, exit_code=0, **{"PATH": path, **variables})

    def start(self, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
        """Start the installed command, for a test that sends it signals or does something meanwhile."""
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        command = [str(self.folder / "bin/runner"), *arguments]
        return subprocess.Popen(command, cwd=cwd, env=clean_environment(), text=True, **pipes)

    def package_files(self) -> dict[str, tuple[int, int]]:
        """Return size and time of each file of the installed package, but for the bytecode that Python keeps there."""
        [package] = self.folder.glob("lib/python*/site-packages/runner")
        return {
            str(path.relative_to(package)): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted(package.rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        }


def clean_environment(**variables: str) -> dict[str, str]:
    """Return the environment without what leads to this repository and its own environment."""
    left_out = ("PYTHON", "VIRTUAL_ENV", "RUNNER_", "PYTEST_", "SOURCE_DATE_EPOCH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return {**kept, "COLUMNS": "200", **variables}


def execute(*command: str, cwd: Path, exit_code: int = 0, **variables: str) -> str:
    """Return what a command prints, on both streams; fail when it ends otherwise than expected."""
    done = subprocess.run(
        command, cwd=cwd, env=clean_environment(**variables), timeout=LIMIT, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == exit_code, f"$ {' '.join(command)}\nexit {done.returncode}\n{done.stdout}"
    return done.stdout


def find_python(version: str) -> str | None:
    """Return a Python of this version that starts, from PATH or of pyenv; `3.14t` is a free-threaded one."""
    number, free_threaded = version.rstrip("t"), version.endswith("t")
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(f"python{version}"), *sorted(map(str, versions.glob(f"{number}*/bin/python")), reverse=True)]
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        found.insert(0, sys.executable)
    code = "import sys, sysconfig; print(*sys.version_info[:2], bool(sysconfig.get_config_var('Py_GIL_DISABLED')))"
    expected = f"{number.replace('.', ' ')} {free_threaded}"
    for python in filter(None, found):
        told = subprocess.run([python, "-c", code], env=clean_environment(), capture_output=True, text=True)
        if told.stdout.strip() == expected:
            return python
    return None


def repository_files() -> list[str]:
    """Return the files of the repository as Git has or would take them, or all of an unpacked source distribution."""
    if not (ROOT / ".git").exists():
        return [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file()]
    told = execute("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    return sorted({name for name in told.split("\0") if name and (ROOT / name).exists()})


def copy_repository(target: Path, names: list[str]) -> None:
    """Copy files in the order given, with the time of now."""
    for name in names:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy)
        copy.chmod(0o755 if os.access(ROOT / name, os.X_OK) else 0o644)


def build_distributions(source: Path, out: Path, *, python: str = sys.executable, **variables: str) -> Distributions:
    """Build a source distribution and a wheel by the backend itself, without an environment of its own."""
    execute(python, "-m", "hatchling", "build", "-d", str(out), cwd=source, exit_code=0, **variables)
    [sdist], [wheel] = out.glob("*.tar.gz"), out.glob("*.whl")
    return Distributions(sdist, wheel)


def build_wheel(source: Path, out: Path) -> Path:
    """Build the wheel of a project that has hatchling for its backend."""
    execute(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out), cwd=source)
    [wheel] = out.glob("*.whl")
    return wheel


def project_table() -> dict[str, Any]:
    """Return the table `project` of pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return dict(tomllib.load(file)["project"])


def classified_pythons() -> list[str]:
    """Return the versions of Python that the classifiers name."""
    prefix = "Programming Language :: Python :: 3."
    found = [name.removeprefix(prefix) for name in project_table()["classifiers"] if name.startswith(prefix)]
    return [f"3.{minor}" for minor in sorted(found, key=int)]


def lowest_versions(*extras: str) -> list[Requirement]:
    """Return a constraint `name==X` for each `name>=X` that runner, or an extra, requires."""
    table = project_table()
    required = list(table["dependencies"])
    for extra in extras:
        required += table["optional-dependencies"][extra]
    pinned = []
    for text in required:
        requirement = Requirement(text)
        [bound] = requirement.specifier
        assert bound.operator == ">=", text
        pinned.append(Requirement(f"{requirement.name}=={bound.version}"))
    return pinned
