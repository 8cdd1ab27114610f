"""`runner new`: folders that run, with tests that pass."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument

from runner.errors import UsageError
from runner.structs import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEMPLATES = Path(__file__).with_name("templates")
#: Where each template goes.
_PLUGIN = {
    "pyproject.toml": "pyproject.toml",
    "module.py": "src/$module/__init__.py",
    "test_module.py": "tests/test_$module.py",
    "tasks.toml": "tasks.toml",
    "README.md": "README.md",
    "gitignore": ".gitignore",
}
_JOB = {
    "tasks.toml": "tasks.toml",
    "plugin.py": "plugins/$module.py",
    "test_job.py": "tests/test_$module.py",
    "README.md": "README.md",
    "gitignore": ".gitignore",
}
#: PEP 503 and PEP 508: letters and digits, with single `-`, `_` or `.` between them.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*([-_.][A-Za-z0-9]+)*")

app = typer.Typer(
    help="Make a folder that runs, with tests that pass.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@dataclass(frozen=True)
class ProjectNames:
    """One name in its forms: `kitchen-tools`, the plugin `kitchen_tools`, the distribution `runner-kitchen-tools`."""

    name: str
    plugin: str
    module: str
    distribution: str


@app.command("plugin")
def plugin(
    name: Annotated[str, Argument(metavar="NAME", help="What files will call it, e.g. kitchen.")],
) -> None:
    """Make a distribution with a plugin: NAME `kitchen` gives the folder `runner-kitchen`."""
    names = _plugin_names(name)
    folder = _write_folder("plugin", _PLUGIN, Path(names.distribution), names)
    print(f"{folder}/ is a plugin: its functions are in src/{names.module}/__init__.py")
    print(f"  cd {folder} && pip install -e '.[test]' && pytest")
    print("  then `runner run` shows its example, tasks.toml")


@app.command("job")
def job(name: Annotated[str, Argument(metavar="NAME", help="The name of the folder.")]) -> None:
    """Make a folder with a file of tasks, a plugin, and tests."""
    names = _job_names(name)
    folder = _write_folder("job", _JOB, Path(names.name), names)
    print(f"{folder}/ is a job: tasks.toml, and its functions in plugins/{names.module}.py")
    print(f"  cd {folder} && runner run")
    print("  then `pytest` runs its tests")


def _plugin_names(name: str) -> ProjectNames:
    dashed = re.sub(r"[-_.]+", "-", name.lower()).removeprefix("runner-")
    plugin = _checked_identifier(name, dashed.replace("-", "_"))
    return ProjectNames(dashed, plugin, f"runner_{plugin}", f"runner-{dashed}")


def _job_names(name: str) -> ProjectNames:
    module = _checked_identifier(name, re.sub(r"[-.]+", "_", name).lower())
    return ProjectNames(name, module, module, name)


def _checked_identifier(name: str, word: str) -> str:
    """Return the word that a name gives for Python; UsageError if one of both cannot be."""
    if not _NAME.fullmatch(name) or len(name) > 60:
        raise UsageError(
            f"{name[:60]!r} cannot be a name: it begins with a letter, and goes on with letters and digits,"
            " with single `-`, `_` or `.` between them; for instance kitchen-tools"
        )
    if keyword.iskeyword(word) or word in {"std", "runner"}:
        raise UsageError(f"{name!r} means something already; choose another name")
    return word


def _write_folder(kind: str, files: Mapping[str, str], folder: Path, names: ProjectNames) -> Path:
    """Write all files of one kind of folder, and return it; UsageError if it exists."""
    try:
        folder.mkdir()
    except FileExistsError:
        raise UsageError(f"{folder} is there already; remove it, or choose another name") from None
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror or error}") from None
    for template, target in files.items():
        path = folder / Template(target).substitute(vars(names))
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (_TEMPLATES / kind / f"{template}.in").read_text(encoding="utf-8")
        path.write_text(Template(text).substitute(vars(names)), encoding="utf-8")
    return folder
