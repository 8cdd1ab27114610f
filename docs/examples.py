"""The examples of the repository as pages: the README of each, its files, and what `runner graph` draws of them."""

from __future__ import annotations

import contextlib
import io
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.cli.graph import graph

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LANGUAGES = {".toml": "toml", ".py": "python"}
_LEFT_OUT = ("tests", "build", "dist")


@dataclass(frozen=True)
class Example:
    """One folder below examples/: `files` are those that its page shows, the files of tasks first."""

    folder: Path
    page: str
    files: tuple[Path, ...]

    @property
    def tasks_files(self) -> list[Path]:
        """Return the files that `runner run` takes."""
        return [file for file in self.files if _is_tasks_file(file)]

    @property
    def readme(self) -> str:
        """Return its README; without one, the title and the first comment of its file of tasks."""
        path = self.folder / "README.md"
        if path.exists():
            return path.read_text(encoding="utf-8")
        text = self.tasks_files[0].read_text(encoding="utf-8")
        comment = re.match(r"(?:# ?.*\n)*", text)
        says = re.sub(r"^# ?", "", comment[0], flags=re.MULTILINE) if comment else ""
        return f"# {tomllib.loads(text).get('title', self.folder.name)}\n\n{says}"

    @property
    def title(self) -> str:
        """Return the first heading."""
        return self.readme.partition("\n")[0].removeprefix("# ")

    @property
    def summary(self) -> str:
        """Return the first paragraph below the title."""
        return next(iter(self.readme.partition("\n")[2].strip().split("\n\n")), "")

    def headings(self) -> dict[str, str]:
        """Return the anchor of each file's heading on the page, as MyST and code hosts make it."""
        names = [file.relative_to(self.folder).as_posix() for file in self.files]
        return {name: re.sub(r"[^\w-]", "", name.lower()) for name in names}

    def homes(self) -> dict[Path, str]:
        """Return the place on the site of the folder, its README and each of its files."""
        files = {self.folder / name: f"{self.page}#{heading}" for name, heading in self.headings().items()}
        return {self.folder: self.page, self.folder / "README.md": self.page, **files}

    def drawing(self, file: Path) -> str:
        """Return the place on the site of the drawing of a file of tasks."""
        name = file.relative_to(self.folder).with_suffix(".svg").as_posix().replace("/", "-")
        return f"{self.page.removesuffix('.md')}-{name}"

    def drawings(self) -> Iterator[tuple[str, str]]:
        """Draw each file of tasks; yield where the picture goes, and the picture."""
        for file in self.tasks_files:
            with contextlib.redirect_stdout(io.StringIO()) as picture:
                graph(str(file), format_="svg")
            yield self.drawing(file), picture.getvalue()

    def picture(self, file: Path, *classes: str) -> str:
        """Return the Markdown that shows the drawing of a file of tasks."""
        name, shows = self.drawing(file).rpartition("/")[2], f"The tasks of {file.relative_to(self.folder).as_posix()}"
        return f"```{{image}} {name}\n:alt: {shows}\n:class: {' '.join(['drawing', *classes])}\n```"

    def listing(self) -> str:
        """Return the files as Markdown, each below its own heading and its drawing."""
        parts = []
        for name, file in zip(self.headings(), self.files, strict=True):
            parts.append(f"## `{name}`")
            if file in self.tasks_files:
                parts.append(self.picture(file))
            text = file.read_text(encoding="utf-8").rstrip("\n")
            parts.append(f"````{_LANGUAGES[file.suffix]}\n{text}\n````")
        return "\n\n".join(parts) + "\n"


def find_examples(folder: Path) -> list[Example]:
    """Return the example of each folder that has a README or a file of tasks, however deep."""
    roots = {path.parent for path in folder.rglob("README.md")}
    roots |= {path.parent for path in folder.rglob("tasks*.toml") if _is_tasks_file(path)}
    found = []
    for root in sorted(roots - {folder}):
        own = [path for path in sorted(root.rglob("*")) if _is_shown(path, root) and _nearest(path, roots) == root]
        files = sorted(own, key=lambda path: (not _is_tasks_file(path), path.name != "tasks.toml", path))
        page = "gallery/" + "-".join(root.relative_to(folder).parts) + ".md"
        found.append(Example(root, page, tuple(files)))
    return found


def _is_shown(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    hidden = any(part.startswith(".") or part in _LEFT_OUT for part in parts)
    return path.suffix in _LANGUAGES and path.is_file() and not hidden


def _nearest(path: Path, roots: set[Path]) -> Path:
    return next(parent for parent in path.parents if parent in roots)


def _is_tasks_file(path: Path) -> bool:
    return path.suffix == ".toml" and "tasks" in tomllib.loads(path.read_text(encoding="utf-8"))
