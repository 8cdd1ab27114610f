"""The hooks of all plugins of a run: registered with pluggy, checked, and called one plugin at a time.

Each plugin is called by itself (`subset_hook_caller`), so that an error is its own, and no other plugin misses a call.
pluggy is imported when the first plugin has a hook, and never in workers.
"""

from __future__ import annotations

import inspect
import types
from typing import TYPE_CHECKING, Any

from runner.error_text import describe_error
from runner.hookspecs import MARK, NAMES, HookOptions, Hooks, WorkerHook
from runner.plugins.plugin import add_hook_note
from runner.tasks import Reference, TaskFunction, provided_functions
from runner.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    import pluggy

    from runner.plugins.plugin import Plugin


_ROUTINES = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)


def marked_hooks(module: Any) -> dict[str, HookOptions]:
    """Return the functions of a module that are marked with `@hookimpl`, by name."""
    found = {name: getattr(value, MARK, None) for name, value in vars(module).items() if _is_function(value)}
    return {name: options for name, options in found.items() if isinstance(options, HookOptions)}


def _is_function(value: Any) -> bool:
    """Return `inspect.isroutine` by the type of an object alone: proxies raise when they are asked for attributes."""
    return inspect.isroutine(value) if issubclass(type(value), _ROUTINES) else False


class HookCalls:
    """The hooks of the plugins that were registered. `calls` gives for each plugin that has a hook how to call it."""

    def __init__(self) -> None:
        self._manager: pluggy.PluginManager | None = None
        self._plugins: dict[str, Plugin] = {}
        self._modules: dict[str, ModuleType] = {}

    def register_plugin(self, plugin: Plugin) -> None:
        """Import the plugin's hooks and check them; a plugin whose hooks are wrong is broken, and has none."""
        if plugin.blocked_by or plugin.error or not plugin.hooks_module:
            return
        module = plugin.import_own_module(plugin.hooks_module)
        if module is None:
            return
        found = marked_hooks(module)
        wrong = _find_mistake(module, found, plugin)
        if wrong:
            plugin.mark_broken(wrong)
        elif found:
            self._register_hooks(plugin, module, found)
        if plugin.distribution is not None and not plugin.module:
            plugin.loaded = not plugin.error

    def _register_hooks(self, plugin: Plugin, module: ModuleType, found: dict[str, HookOptions]) -> None:
        import pluggy

        if self._manager is None:
            self._manager = _make_manager()
        key = plugin.label
        try:
            self._manager.register(module, key)
        except (pluggy.PluginValidationError, ValueError) as error:
            plugin.mark_broken(_one_line(error))
            return
        plugin.hooks = tuple(name for name in NAMES if name in found)
        self._plugins[key], self._modules[key] = plugin, module
        if "runner_tasks" in plugin.hooks:
            self._add_functions(plugin, module)

    def calls_of(self, hook: str) -> Iterator[tuple[Plugin, Callable[..., list[Any]]]]:
        """Yield each plugin with this hook, and the call of it alone; the call's result is a list of one, or empty."""
        if self._manager is None:
            return
        for key, plugin in self._plugins.items():
            if hook in plugin.hooks and not plugin.error:
                others = [module for other, module in self._modules.items() if other != key]
                yield plugin, self._manager.subset_hook_caller(hook, others)

    def _add_functions(self, plugin: Plugin, module: ModuleType) -> None:
        """Take in what the plugin's `runner_tasks` gives."""
        for _, call in [each for each in self.calls_of("runner_tasks") if each[0] is plugin]:
            try:
                for given in call():
                    for name, obj, options in provided_functions(given):
                        where = Reference(module.__name__, "runner_tasks", plugin.path, name)
                        plugin.add_function(TaskFunction(name, obj, where, plugin.name, options))
            except Exception as error:  # noqa: BLE001  whatever a plugin raises makes that plugin broken
                told = describe_error(add_hook_note(error, "runner_tasks", plugin))
                plugin.mark_broken(f"its hook runner_tasks raised {told}", told.traceback)

    def worker_hooks(self) -> tuple[WorkerHook, ...]:
        """Return the hooks that surround workers, as workers are told of them."""
        found = []
        for key, plugin in self._plugins.items():
            if "runner_worker" in plugin.hooks and not plugin.error:
                module = self._modules[key]
                takes = bool(_positional_parameters(module.runner_worker))
                where = Reference(module.__name__, "runner_worker", plugin.path)
                found.append(WorkerHook(where, plugin.label, takes))
        return tuple(found)


def _make_manager() -> pluggy.PluginManager:
    import pluggy

    class Manager(pluggy.PluginManager):
        """Knows our own mark and specification, so that neither needs pluggy."""

        def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
            value = vars(plugin).get(name)
            if not _is_function(value):  # nor would pluggy take it; and some objects raise when they are asked anything
                return None
            options = getattr(value, MARK, None)
            if isinstance(options, HookOptions):
                return {"optionalhook": options.optionalhook}
            return super().parse_hookimpl_opts(plugin, name)

        def parse_hookspec_opts(self, module_or_class: Any, name: str) -> Any:  # noqa: ARG002  pluggy's signature
            return {} if name in NAMES else None

    manager = Manager("runner")
    manager.add_hookspecs(Hooks)
    return manager


def _find_mistake(module: ModuleType, found: dict[str, HookOptions], plugin: Plugin) -> str:
    """Return the first mistake in a plugin's hooks as a sentence; empty if there is none."""
    for name, options in found.items():
        if name not in NAMES and not options.optionalhook:
            return f"unknown hook `{name}`; {did_you_mean(name, NAMES) or 'hooks: ' + ', '.join(NAMES)}"
    for name in NAMES:
        function = vars(module).get(name)
        if inspect.isfunction(function) and name not in found and function.__module__ == module.__name__:
            return f"`{name}` is not marked as a hook: put `@hookimpl` (from runner) above it"
    for name in (name for name in NAMES if name in found):
        wrong = _find_wrong_form(name, vars(module)[name])
        if wrong:
            return wrong
    if not found and plugin.distribution is not None:
        return f"its module {module.__name__} has no function marked with `@hookimpl`"
    return ""


def _find_wrong_form(name: str, function: Any) -> str:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return f"hook `{name}` must be a plain function, not `async def`"
    if name == "runner_worker" and inspect.isgeneratorfunction(function):
        return "hook `runner_worker` must return a context manager: put `@contextmanager` between it and `@hookimpl`"
    if name == "runner_event" and inspect.isgeneratorfunction(function):
        return "hook `runner_event` must be a plain function: one that yields would do nothing"
    known = _positional_parameters(getattr(Hooks, name))[1:]
    unknown = [word for word in _positional_parameters(function) if word not in known]
    if unknown:
        takes = ", ".join(f"`{word}`" for word in known) or "no argument"
        near = did_you_mean(unknown[0], known)
        return f"hook `{name}` takes {takes}, not `{unknown[0]}`" + (f"; {near}" if near else "")
    return ""


def _positional_parameters(function: Callable[..., Any]) -> list[str]:
    """Return the parameters that pluggy passes: by position, without a default."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.kind in kinds and each.default is each.empty]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
