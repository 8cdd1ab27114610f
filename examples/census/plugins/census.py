"""Find Python files, count what is in them, add the counts up per package."""

from __future__ import annotations

import ast
import json
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from runner import task

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def top(root: str) -> Path:
    return Path(root or sysconfig.get_path("stdlib"))


@task
def find(*, root: str = "") -> Iterator[str]:
    """Yield every Python file below `root`, as a path relative to it; installed packages are left out."""
    folder = top(root)
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        if "site-packages" not in relative.parts:
            yield relative.as_posix()


@task
def count(file: str, *, root: str = "") -> dict[str, str | int]:
    """Count one file. What does not parse (test data is broken on purpose) counts as unparsable."""
    source = (top(root) / file).read_bytes()
    counts = {"files": 1, "lines": len(source.splitlines()), "functions": 0, "classes": 0, "unparsable": 0}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in old code
            nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):  # ValueError: a null byte
        counts["unparsable"] = 1
    else:
        counts["functions"] = sum(isinstance(node, FUNCTIONS) for node in nodes)
        counts["classes"] = sum(isinstance(node, ast.ClassDef) for node in nodes)
    return {"package": file.partition("/")[0].removesuffix(".py"), **counts}


@task
class Tally:
    """Add the counts up, and write them as one JSON file when the last one has come."""

    def __init__(self, *, out: str | Path) -> None:
        self.out = Path(out)
        self.packages: dict[str, Counter[str]] = {}

    def __enter__(self) -> Tally:
        return self

    def __call__(self, counts: dict[str, str | int]) -> None:
        package = counts.pop("package")
        self.packages.setdefault(package, Counter()).update(counts)

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            aside = self.out.with_name(self.out.name + ".part")  # a reader sees the whole file or none
            aside.write_text(json.dumps(self.packages, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            aside.replace(self.out)
