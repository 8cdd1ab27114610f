"""`runner new`: folders that run, with tests that pass."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template
from typing import Annotated

import typer
from typer import Argument

from runner.cli.schema import SCHEMA_FILE, write_schema
from runner.errors import UsageError

#: A folder of files for each kind; `MODULE` in a path and `$name`, `$module`, ... in a text are filled in.
_TEMPLATES = Path(__file__).with_name("templates")
#: PEP 503 and PEP 508: letters and digits, with single `-`, `_` or `.` between them.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*([-_.][A-Za-z0-9]+)*")

app = typer.Typer(help="Make a folder that runs, with tests that pass.", no_args_is_help=True, rich_markup_mode=None)


@app.command("plugin")
def plugin(name: Annotated[str, Argument(metavar="NAME", help="What files will call it, e.g. kitchen.")]) -> None:
    """Make a distribution with a plugin: NAME `kitchen` gives the folder `runner-kitchen`."""
    dashed = re.sub(r"[-_.]+", "-", name.lower()).removeprefix("runner-")
    word = _checked_identifier(name, dashed.replace("-", "_"))
    folder, module = f"runner-{dashed}", f"runner_{word}"
    _write_folder("plugin", folder, plugin=word, module=module, distribution=folder)
    print(f"{folder}/ is a plugin: its functions are in src/{module}/__init__.py")
    print(f"  cd {folder} && pip install -e '.[test]' && pytest")
    print("  then `runner run` shows its example, tasks.toml")


@app.command("job")
def job(name: Annotated[str, Argument(metavar="NAME", help="The name of the folder.")]) -> None:
    """Make a folder with a file of tasks, a plugin, and tests."""
    module = _checked_identifier(name, re.sub(r"[-.]+", "_", name).lower())
    _write_folder("job", name, name=name, module=module)
    write_schema(Path(name, SCHEMA_FILE))
    print(f"{name}/ is a job: tasks.toml, and its functions in plugins/{module}.py")
    print(f"  cd {name} && runner run")
    print("  then `pytest` runs its tests")


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


def _write_folder(kind: str, folder: str, **words: str) -> None:
    try:
        Path(folder).mkdir()
    except FileExistsError:
        raise UsageError(f"{folder} is there already; remove it, or choose another name") from None
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror or error}") from None
    for template in (_TEMPLATES / kind).rglob("*.in"):
        target = str(template.relative_to(_TEMPLATES / kind)).replace("MODULE", words["module"])
        path = Path(folder, target.removesuffix(".in"))
        path.parent.mkdir(parents=True, exist_ok=True)
        text = Template(template.read_text(encoding="utf-8")).substitute(words)
        path.write_text(text, encoding="utf-8")
