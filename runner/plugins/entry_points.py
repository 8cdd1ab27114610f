"""The entry points of installed distributions, read from their folders without importing anything.

`importlib.metadata` would do it, and takes 25 ms to import: as much as a tenth of a small run. The format is simple,
and specified (packaging.python.org: "Entry points", "Recording installed projects").
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FUNCTIONS_GROUP, HOOKS_GROUP, COMMANDS_GROUP = "runner", "runner.hooks", "runner.commands"
ENTRY_POINT_GROUPS = (FUNCTIONS_GROUP, HOOKS_GROUP, COMMANDS_GROUP)


class Distribution(Struct, frozen=True):
    """What is installed in one go: `info` is its folder of metadata."""

    name: str
    version: str
    metadata_folder: str

    @property
    def summary(self) -> str:
        """One line that says what it is for; empty when it says nothing."""
        return self._metadata("Summary")

    @property
    def display_name(self) -> str:
        """Its name as its author writes it, where the folder has it with `_`."""
        return self._metadata("Name") or self.name

    def _metadata(self, key: str) -> str:
        for file in ("METADATA", "PKG-INFO"):
            try:
                text = Path(self.metadata_folder, file).read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            for line in text.partition("\n\n")[0].splitlines():
                if line.lower().startswith(f"{key.lower()}:"):
                    return line.partition(":")[2].strip()
        return ""

    def __str__(self) -> str:
        return f"{self.display_name} {self.version}".rstrip()


class EntryPoint(Struct, frozen=True):
    """One line of a distribution's entry points."""

    group: str
    name: str
    value: str
    distribution: Distribution

    @property
    def source_file(self) -> str:
        """The file that it leads to, as far as can be told without an import; else where it is declared."""
        module = self.value.partition(":")[0].strip()
        base = Path(self.distribution.metadata_folder).parent.joinpath(*module.split("."))
        for found in (base / "__init__.py", base.with_name(base.name + ".py")):
            if found.is_file():
                return str(found)
        return str(Path(self.distribution.metadata_folder, "entry_points.txt"))


def scan_entry_points(path: Iterable[str] | None = None) -> list[EntryPoint]:
    """All entry points for runner; of two installations of one distribution the first on `path` counts."""
    found: list[EntryPoint] = []
    seen: set[str] = set()
    for site in dict.fromkeys(sys.path if path is None else path):
        for distribution in _distributions(site or "."):
            key = distribution.name.replace("_", "-").replace(".", "-").lower()
            if key not in seen:
                seen.add(key)
                found += _entry_points(distribution)
    return sorted(found, key=lambda each: (each.name, each.distribution.name))


def _distributions(site: str) -> Iterator[Distribution]:
    try:
        names = os.listdir(site)  # noqa: PTH208  a Path for each of hundreds of names costs more than the rest
    except OSError:
        return
    for folder in sorted(names):
        if folder.endswith((".dist-info", ".egg-info")):
            stem, _, _ = folder.rpartition(".")
            name, dash, version = stem.rpartition("-") if folder.endswith(".dist-info") else stem.partition("-")
            name, version = (name, version) if dash else (stem, "")
            yield Distribution(name, version, f"{site}/{folder}")


def _entry_points(distribution: Distribution) -> Iterator[EntryPoint]:
    try:
        with open(f"{distribution.metadata_folder}/entry_points.txt", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            text = file.read()
    except OSError:
        return
    if "runner" not in text:
        return
    group = ""
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("["):
            group = line.strip("[] ")
        elif group in ENTRY_POINT_GROUPS and "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            yield EntryPoint(group, name.strip(), value.partition("[")[0].strip(), distribution)
