"""Find plugins: files and folders beside the file, modules that it names, runner's own, and installed ones."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from runner.local_modules import module_name
from runner.plugins.distributions import COMMANDS_GROUP, FUNCTIONS_GROUP, HOOKS_GROUP, find_distributions
from runner.plugins.plugin import Plugin

if TYPE_CHECKING:
    from pathlib import Path


def local_plugins(folder: Path, named: tuple[str, ...] | None) -> list[Plugin]:
    """Return the plugins of one file, which is in `folder`."""
    default = folder / "plugins"
    if named is None:
        return _in_folder(default) if default.is_dir() else []
    found = []
    for name in named:
        path = folder / name
        if path.is_dir() and (path == default or not (path / "__init__.py").exists()):
            found += _in_folder(path)
        elif path.exists():
            found.append(_local_plugin(path))
        else:
            found.append(Plugin(name.rpartition(".")[2], f"module {name}", name, hooks_module=name))
    return found


def _in_folder(folder: Path) -> list[Plugin]:
    """Return the plugins in it: regular files and packages, or links to such.

    What begins with a dot is an editor's, an archive's or a mount's (`.#x.py`, `._x.py`, `..data`).
    """
    try:
        there = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        return [Plugin(folder.name, str(folder), error=str(error), error_line=str(error))]
    return [_local_plugin(path) for path in there if _is_module(path)]


def _is_module(path: Path) -> bool:
    if path.suffix == ".py" and path.name not in {"__init__.py", "__main__.py"} and path.is_file():
        return True
    return (path / "__init__.py").is_file()


def _local_plugin(path: Path) -> Plugin:
    """Return the plugin at a path; a link is not followed: its own name and place count, as for Python's modules."""
    folder, name = os.path.split(os.path.abspath(path))  # noqa: PTH100  a Path would follow it, or leave `..` in
    file = os.path.join(folder, name)  # noqa: PTH118
    if os.path.isdir(file):  # noqa: PTH112
        file = os.path.join(file, "__init__.py")  # noqa: PTH118
    else:
        name = path.stem
    module = module_name(folder, name)
    return Plugin(name, file, module, file, hooks_module=module, source_file=file)


def bundled_plugin() -> Plugin:
    """Return the plugin that ships with runner."""
    file = os.path.join(os.path.dirname(os.path.dirname(__file__)), "std", "__init__.py")  # noqa: PTH118, PTH120
    return Plugin("std", "ships with runner", "runner.std", source_file=file)


def installed_plugins() -> list[Plugin]:
    """Return installed plugins, none of them imported: one for each name in a distribution's entry points."""
    found = []
    for distribution in find_distributions():
        for name, modules in distribution.modules_by_group().items():
            functions = modules.get(FUNCTIONS_GROUP, "")
            file = distribution.source_file(functions or next(iter(modules.values())))
            plugin = Plugin(name, f"{distribution}, {file}", functions, distribution=distribution, source_file=file)
            plugin.hooks_module, plugin.commands_module = modules.get(HOOKS_GROUP, ""), modules.get(COMMANDS_GROUP, "")
            found.append(plugin)
    return sorted(found, key=lambda each: (each.name, each.distribution.name if each.distribution else ""))
