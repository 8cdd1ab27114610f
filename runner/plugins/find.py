"""Where plugins are: files and folders beside the file, modules that it names, runner's own, and installed ones."""

from __future__ import annotations

import hashlib
import importlib.util
from typing import TYPE_CHECKING

from runner.plugins.installed import scan
from runner.plugins.plugin import Plugin

if TYPE_CHECKING:
    from pathlib import Path

    from runner.plugins.choice import Choice
    from runner.plugins.installed import EntryPoint

#: The plugin that ships with runner.
OWN = "std"


def local(folder: Path, named: tuple[str, ...] | None, choice: Choice) -> list[Plugin]:
    """The plugins of one file, which is in `folder`."""
    if named is None:
        default = folder / "plugins"
        found = _in_folder(default) if default.is_dir() else []
    else:
        found = []
        for name in named:
            path = folder / name
            if path.is_dir() and not (path / "__init__.py").exists():
                found += _in_folder(path)
            elif path.exists():
                found.append(_local(path))
            else:
                found.append(Plugin(name.rpartition(".")[2], f"module {name}", name, hooks_module=name))
    for plugin in found:
        plugin.blocked = choice.reason(plugin.name, "", installed=False)
    return found


def _in_folder(folder: Path) -> list[Plugin]:
    files = [path for path in folder.iterdir() if path.suffix == ".py" and path.name != "__init__.py"]
    packages = [path for path in folder.iterdir() if (path / "__init__.py").is_file()]
    return [_local(path) for path in sorted([*files, *packages])]


def _local(path: Path) -> Plugin:
    path = path.resolve()
    package = "_runner_plugins_" + hashlib.sha256(str(path.parent).encode()).hexdigest()[:8]
    file = str(path / "__init__.py" if path.is_dir() else path)
    module = f"{package}.{path.stem}"
    return Plugin(path.stem, file, module, file, str(path.parent), hooks_module=module, file=file)


def own(choice: Choice) -> list[Plugin]:
    """The plugin that ships with runner, where it does."""
    spec = importlib.util.find_spec(f"runner.{OWN}")
    if spec is None:
        return []
    plugin = Plugin(OWN, "ships with runner", f"runner.{OWN}", file=spec.origin or "")
    plugin.blocked = choice.reason(OWN, "", installed=False)
    return [plugin]


def installed(choice: Choice) -> list[Plugin]:
    """Installed plugins, none of them imported; blocked ones say by what."""
    by_name: dict[tuple[str, str], dict[str, EntryPoint]] = {}
    for point in scan():
        by_name.setdefault((point.name, point.distribution.info), {})[point.group] = point
    found = [Plugin.installed(points) for points in by_name.values()]
    for plugin in found:
        distribution = plugin.distribution.name if plugin.distribution else ""
        plugin.blocked = choice.reason(plugin.name, distribution, installed=True)
    return found
