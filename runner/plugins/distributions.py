"""Installed distributions: their entry points for runner, and which of their plugins may be used; none is imported.

`importlib.metadata` would read them, and takes 25 ms to import: as much as a tenth of a small run. The format is
simple, and specified (packaging.python.org: "Entry points", "Recording installed projects").
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runner.structs import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

FUNCTIONS_GROUP, HOOKS_GROUP, COMMANDS_GROUP = "runner", "runner.hooks", "runner.commands"
ENTRY_POINT_GROUPS = (FUNCTIONS_GROUP, HOOKS_GROUP, COMMANDS_GROUP)
DISABLE_VARIABLE = "RUNNER_DISABLE_PLUGINS"
ONLY_VARIABLE = "RUNNER_PLUGINS"


@dataclass(frozen=True, slots=True)
class Distribution:
    """One installed distribution, and its folder of metadata."""

    name: str
    version: str
    metadata_folder: str

    @property
    def summary(self) -> str:
        """One line that says what it is for; empty when it says nothing."""
        return self._read_metadata("Summary")

    @property
    def display_name(self) -> str:
        """Its name as its author writes it, where the folder has it with `_`."""
        return self._read_metadata("Name") or self.name

    def _read_metadata(self, key: str) -> str:
        for file in ("METADATA", "PKG-INFO"):
            head = _read_text(f"{self.metadata_folder}/{file}").partition("\n\n")[0]
            for line in head.splitlines():
                if line.lower().startswith(f"{key.lower()}:"):
                    return line.partition(":")[2].strip()
        return ""

    def __str__(self) -> str:
        return f"{self.display_name} {self.version}".rstrip()

    def source_file(self, module: str) -> str:
        """Return the file of a module of it, as far as can be told without an import; else where it is declared."""
        base = Path(self.metadata_folder).parent.joinpath(*module.partition(":")[0].strip().split("."))
        for found in (base / "__init__.py", base.with_name(base.name + ".py")):
            if found.is_file():
                return str(found)
        return f"{self.metadata_folder}/entry_points.txt"

    def modules_by_group(self) -> dict[str, dict[str, str]]:
        """Return for each name of an entry point for runner what it leads to, by group."""
        found: dict[str, dict[str, str]] = {}
        text = _read_text(f"{self.metadata_folder}/entry_points.txt")
        group = ""
        for raw in text.splitlines() if "runner" in text else ():
            line = raw.strip()
            if line.startswith("["):
                group = line.strip("[] ")
            elif group in ENTRY_POINT_GROUPS and "=" in line and not line.startswith(("#", ";")):
                name, _, value = line.partition("=")
                found.setdefault(name.strip(), {})[group] = value.partition("[")[0].strip()
        return found


def find_distributions(path: Iterable[str] | None = None) -> Iterator[Distribution]:
    """Yield all installed distributions; of two installations of one the first on `path` counts."""
    seen: set[str] = set()
    for site in dict.fromkeys(sys.path if path is None else path):
        try:
            names = os.listdir(site or ".")  # noqa: PTH208  a Path for each of hundreds of names costs more than the rest
        except OSError:
            continue
        for folder in sorted(names):
            name, version = name_and_version(folder)
            if name and normalized_name(name) not in seen:
                seen.add(normalized_name(name))
                yield Distribution(name, version, f"{site or '.'}/{folder}")


def name_and_version(folder: str) -> tuple[str, str]:
    """Return what the name of a folder of metadata says; two empty texts for any other folder.

    >>> name_and_version("acme_tasks-2.1.dist-info"), name_and_version("acme_tasks")
    (('acme_tasks', '2.1'), ('', ''))
    """
    stem, _, kind = folder.rpartition(".")
    if kind not in {"dist-info", "egg-info"}:
        return "", ""
    name, dash, version = stem.rpartition("-") if kind == "dist-info" else stem.partition("-")
    return (name, version) if dash else (stem, "")


def _read_text(file: str) -> str:
    try:
        with open(file, encoding="utf-8", errors="replace") as opened:  # noqa: PTH123  as quick as can be
            return opened.read()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class PluginPolicy:
    """The plugins that may be used, by names of plugins or of distributions.

    `blocked_names` says for each name which option or variable blocks it; `blocks_others` is the one that blocks all
    installed plugins but those of `allowed_names`, if there is one.
    """

    blocked_names: Mapping[str, str]
    blocks_others: str = ""
    allowed_names: frozenset[str] = frozenset()

    @classmethod
    def read(
        cls,
        env: Mapping[str, str] | None = None,
        *,
        blocked: Iterable[str] = (),
        none: bool = False,
        only: Iterable[str] = (),
    ) -> PluginPolicy:
        """Read the environment and the command line, whose `--only-plugin` counts instead of RUNNER_PLUGINS.

        >>> PluginPolicy.read({"RUNNER_DISABLE_PLUGINS": "a, b"}).reason_to_block("b", "distribution-of-b")
        'RUNNER_DISABLE_PLUGINS'
        """
        env = os.environ if env is None else env
        disabled = _split_words(env.get(DISABLE_VARIABLE, ""))
        everything = disabled & {"1", "true", "all"}
        names = {normalized_name(word): DISABLE_VARIABLE for word in disabled - everything}
        names |= {normalized_name(word): f"--no-plugin {word}" for word in blocked}
        if none or everything:
            return cls(names, "--no-plugins" if none else DISABLE_VARIABLE)
        if chosen := frozenset(map(normalized_name, only)):
            return cls(names, "--only-plugin", chosen)
        if ONLY_VARIABLE in env:
            return cls(names, ONLY_VARIABLE, frozenset(map(normalized_name, _split_words(env[ONLY_VARIABLE]))))
        return cls(names)

    def reason_to_block(self, name: str, distribution: str | None) -> str:
        """Return the option or variable that blocks a plugin (installed if it has a distribution); empty: none does."""
        mine = {normalized_name(name), normalized_name(distribution or name)}
        for word in mine:
            if word in self.blocked_names:
                return self.blocked_names[word]
        return "" if distribution is None or mine & self.allowed_names else self.blocks_others


def _split_words(text: str) -> set[str]:
    return {word.strip() for word in text.split(",") if word.strip()}


def normalized_name(name: str) -> str:
    """Normalize a name: distributions' names are the same with `-`, `_` or `.`, and in any case."""
    return name.replace("_", "-").replace(".", "-").lower()
