"""Find plugins: files and folders beside the file, modules that it names, runner's own, and installed ones."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

from runner.local_modules import module_name
from runner.plugins.entry_points import scan_entry_points
from runner.plugins.plugin import Plugin

if TYPE_CHECKING:
    from pathlib import Path

    from runner.plugins.entry_points import EntryPoint
    from runner.plugins.policy import PluginPolicy

#: The plugin that ships with runner.
BUNDLED_PLUGIN = "std"


def local_plugins(folder: Path, named: tuple[str, ...] | None, choice: PluginPolicy) -> list[Plugin]:
    """Return the plugins of one file, which is in `folder`."""
    default = folder / "plugins"
    if named is None:
        found = _in_folder(default) if default.is_dir() else []
    else:
        found = []
        for name in named:
            path = folder / name
            if path.is_dir() and (path == default or not (path / "__init__.py").exists()):
                found += _in_folder(path)
            elif path.exists():
                found.append(_local_plugin(path))
            else:
                found.append(Plugin(name.rpartition(".")[2], f"module {name}", name, hooks_module=name))
    for plugin in found:
        plugin.blocked_by = choice.reason_to_block(plugin.name, "", installed=False)
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


def bundled_plugins(choice: PluginPolicy) -> list[Plugin]:
    """Return the plugin that ships with runner, where it does."""
    spec = importlib.util.find_spec(f"runner.{BUNDLED_PLUGIN}")
    if spec is None:
        return []
    plugin = Plugin(BUNDLED_PLUGIN, "ships with runner", f"runner.{BUNDLED_PLUGIN}", source_file=spec.origin or "")
    plugin.blocked_by = choice.reason_to_block(BUNDLED_PLUGIN, "", installed=False)
    return [plugin]


def installed_plugins(choice: PluginPolicy) -> list[Plugin]:
    """Return installed plugins, none of them imported; blocked ones say by what."""
    by_name: dict[tuple[str, str], dict[str, EntryPoint]] = {}
    for point in scan_entry_points():
        by_name.setdefault((point.name, point.distribution.metadata_folder), {})[point.group] = point
    found = [Plugin.from_entry_points(points) for points in by_name.values()]
    for plugin in found:
        distribution = plugin.distribution.name if plugin.distribution else ""
        plugin.blocked_by = choice.reason_to_block(plugin.name, distribution, installed=True)
    return found
