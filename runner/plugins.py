"""Find plugins, load them, and look task functions up by name.

A name in a file is `function` (of whichever plugin has it), `plugin.function`, or `package.module:function` (any
importable callable, marked or not). Local plugins are files and packages in `plugins/` beside the file, or what
`plugins = […]` names. They are loaded under a private package name: nothing enters `sys.path` in front, and a
`plugins/json.py` shadows nothing. A broken plugin stays in the list with its error; only a run that needs it fails.

What no plugin of the project has is looked for in `std`, which ships with runner.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import PluginError
from runner.errortext import describe
from runner.tasks import MARK, Declaration, Reference, load_module

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_OURS = str(Path(__file__).parent)


@dataclass(frozen=True, slots=True)
class TaskFunction:
    """A callable that a task can call, where it is, and what it declares of itself."""

    name: str
    obj: Any
    reference: Reference
    plugin: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The file that defines it, as far as Python can tell."""
        try:
            return inspect.getsourcefile(inspect.unwrap(self.obj)) or "<built in>"
        except TypeError:
            return "<built in>"

    @property
    def line(self) -> int:
        """The line where it begins; 0 when unknown."""
        try:
            return inspect.getsourcelines(inspect.unwrap(self.obj))[1]
        except (TypeError, OSError):
            return 0


@dataclass(slots=True)
class Plugin:
    """One plugin: a module, and the task functions in it, or the error that loading it raised."""

    name: str
    origin: str
    module: str
    path: str | None = None
    folder: str | None = None
    functions: dict[str, TaskFunction] = field(default_factory=dict)
    unmarked: tuple[str, ...] = ()
    error: str = ""

    def load(self) -> None:
        """Import the module and collect what `@task` has marked; an error is kept, not raised."""
        try:
            module = load_module(self.module, self.path, self.folder)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            self.error = describe(_trimmed(error)).traceback or str(error)
            return
        unmarked = []
        for attribute, value in list(vars(module).items()):
            mark = getattr(value, MARK, None) if callable(value) else None
            if isinstance(mark, Declaration):
                reference = Reference(self.module, attribute, self.path, self.folder)
                self.functions[mark.name] = TaskFunction(mark.name, value, reference, self.name, mark.options)
            elif inspect.isfunction(value) and value.__module__ == self.module:
                unmarked.append(attribute)
        self.unmarked = tuple(unmarked)


class Plugins:
    """The plugins of one file. `folder` is where the file is."""

    def __init__(self, folder: Path, named: tuple[str, ...] | None = None) -> None:
        self.folder = folder.resolve()
        self.all: list[Plugin] = []
        self._std: Plugin | None = None
        if str(self.folder) not in sys.path:
            # At the end: modules beside the file are importable, and shadow nothing.
            sys.path.append(str(self.folder))
        for plugin in self._find(named):
            plugin.load()
            self.all.append(plugin)

    def _find(self, named: tuple[str, ...] | None) -> list[Plugin]:
        if named is None:
            default = self.folder / "plugins"
            return self._in_folder(default) if default.is_dir() else []
        found: list[Plugin] = []
        for name in named:
            path = self.folder / name
            if path.is_dir() and not (path / "__init__.py").exists():
                found += self._in_folder(path)
            elif path.exists():
                found.append(self._local(path))
            else:
                found.append(Plugin(name.rpartition(".")[2], f"module {name}", name))
        return found

    def _in_folder(self, folder: Path) -> list[Plugin]:
        files = [path for path in folder.iterdir() if path.suffix == ".py" and path.name != "__init__.py"]
        packages = [path for path in folder.iterdir() if (path / "__init__.py").is_file()]
        return [self._local(path) for path in sorted([*files, *packages])]

    def _local(self, path: Path) -> Plugin:
        path = path.resolve()
        package = "_runner_plugins_" + hashlib.sha256(str(path.parent).encode()).hexdigest()[:8]
        file = path / "__init__.py" if path.is_dir() else path
        return Plugin(path.stem, str(file), f"{package}.{path.stem}", str(file), str(path.parent))

    # -- looking up ----------------------------------------------------------------------------

    def std(self) -> Plugin:
        """The plugin that ships with runner; imported only when something is looked for in it."""
        if self._std is None:
            self._std = Plugin("std", "ships with runner", "runner.std")
            self._std.load()
        return self._std

    def find(self, call: str) -> TaskFunction:
        """The task function that a file calls `call`; PluginError says what there is instead."""
        if ":" in call:
            return self._importable(call)
        plugin, _, name = call.rpartition(".")
        owners = [each for each in self.all if name in each.functions and plugin in {"", each.name}]
        if len(owners) == 1:
            return owners[0].functions[name]
        if owners:
            both = " and ".join(f"`{each.name}.{name}` ({each.origin})" for each in owners)
            raise PluginError(
                f"task function `{call}` is offered by {both}", "E311", "write one of these names in full"
            )
        if plugin in {"", "std"} and name in self.std().functions and not self._meant(plugin, name):
            return self.std().functions[name]
        raise self._not_found(call, plugin, name)

    def _meant(self, plugin: str, name: str) -> bool:
        """Whether the project's own plugins may have that name, were they in order: then std's is not taken for it."""
        return any(name in each.unmarked or each.error for each in self.all if plugin in {"", each.name})

    def _importable(self, call: str) -> TaskFunction:
        module, _, qualname = call.partition(":")
        reference = Reference(module, qualname)
        try:
            target = reference.load()
        except AttributeError as error:
            near = _nearest(qualname, vars(sys.modules[module])) if module in sys.modules else ""
            raise PluginError(f"`{call}`: module `{module}` has no `{qualname}` ({error})", hint=near) from None
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            told = describe(_trimmed(error))
            hint = "" if isinstance(error, ModuleNotFoundError) else told.traceback.rstrip()
            raise PluginError(f"`{call}` cannot be imported: {told}", "E310", hint) from None
        if not callable(target):
            raise PluginError(f"`{call}` is no function: it is of type {type(target).__name__}")
        mark = getattr(target, MARK, None)
        options = mark.options if isinstance(mark, Declaration) else {}
        return TaskFunction(qualname, target, reference, module, options)

    def _not_found(self, call: str, plugin: str, name: str) -> PluginError:
        offered = [each for each in self.all if plugin in {"", each.name}]
        for each in offered:
            if name in each.unmarked:
                text = f"function `{name}` in {each.origin} is not marked as a task function"
                return PluginError(text, hint="put `@task` (from runner) above it")
        known = sorted({name for each in offered for name in each.functions})
        near = _nearest(name, known)
        broken = next((each for each in offered if each.error), None)
        if broken is not None and not near:
            text = f"no task function `{call}`, but plugin `{broken.name}` could not be loaded"
            return PluginError(text, "E310", broken.error.rstrip())
        if plugin == "std":
            known = sorted({*known, *self.std().functions})
            return PluginError(f"no task function `{call}`", hint=_nearest(name, known) or _known(known))
        if plugin and not offered:
            names = [each.name for each in self.all]
            return PluginError(f"no plugin `{plugin}` for `{call}`", "E312", _nearest(plugin, names) or _known(names))
        text = f"no task function `{call}`" + (f" (and plugin `{broken.name}` could not be loaded)" if broken else "")
        return PluginError(text, hint=near or _known(known))


def _trimmed(error: BaseException) -> BaseException:
    """The error without the frames of the import system and of ours, which lead to it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(("<frozen importlib", _OURS)):
        trace = trace.tb_next
    return error.with_traceback(trace)


def _nearest(word: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, known, 1)
    return f"did you mean `{near[0]}`?" if near else ""


def _known(words: Sequence[str]) -> str:
    return "known: " + ", ".join(f"`{each}`" for each in words) if words else "there is none at all"
