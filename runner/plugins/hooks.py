"""The hooks of all plugins of a run: registered with pluggy, checked, and called one plugin at a time.

Each plugin is called by itself (`subset_hook_caller`), so that an error is its own, and no other plugin misses a call.
pluggy is imported when the first plugin has a hook, and never in workers.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from runner.error_text import describe_error
from runner.events import Notice
from runner.hookspecs import MARK, NAMES, PROJECT, Hooks, WorkerHook
from runner.model import OWN_ENGINES
from runner.plugins.plugin import add_hook_note
from runner.tasks import Reference, TaskFunction, provided_functions
from runner.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pluggy

    from runner.events import Event
    from runner.plugins.plugin import Plugin

_FUNCTIONS = (FunctionType, MethodType)


class HookCalls:
    """The hooks of the plugins that were registered. `calls_of` says for each plugin that has a hook how to call it."""

    def __init__(self) -> None:
        self._manager: pluggy.PluginManager | None = None
        self._registered: list[tuple[Plugin, ModuleType]] = []

    def register_plugin(self, plugin: Plugin) -> None:
        """Import the plugin's hooks and check them; a plugin whose hooks are wrong is broken, and has none."""
        if plugin.blocked_by or plugin.error or not plugin.hooks_module:
            return
        module = plugin.import_own_module(plugin.hooks_module)
        if module is None:
            return
        # Chosen by the type of an object first: proxies raise when they are asked for attributes.
        functions = {name: value for name, value in vars(module).items() if issubclass(type(value), _FUNCTIONS)}
        found = {name: each for name, each in functions.items() if isinstance(getattr(each, MARK, None), dict)}
        if wrong := _find_mistake(module, found, plugin):
            plugin.mark_broken(wrong)
        elif found:
            self._register_hooks(plugin, found)
        if plugin.distribution is not None and not plugin.module:
            plugin.loaded = not plugin.error

    def _register_hooks(self, plugin: Plugin, found: dict[str, Callable[..., Any]]) -> None:
        import pluggy

        if self._manager is None:
            self._manager = pluggy.PluginManager(PROJECT)
            self._manager.add_hookspecs(Hooks)
        hooks = ModuleType(plugin.label)
        vars(hooks).update(found)
        try:
            self._manager.register(hooks, plugin.label)
        except (pluggy.PluginValidationError, ValueError) as error:
            plugin.mark_broken(" ".join(str(error).split())[:500])
            return
        plugin.hooks = tuple(name for name in NAMES if name in found)
        self._registered.append((plugin, hooks))
        if "runner_tasks" in plugin.hooks:
            self._add_functions(plugin)

    def calls_of(self, hook: str) -> Iterator[tuple[Plugin, Callable[..., list[Any]]]]:
        """Yield each plugin with this hook, and the call of it alone; the call's result is a list of one, or empty."""
        for plugin, hooks in self._registered:
            if hook in plugin.hooks and not plugin.error:
                assert self._manager is not None
                others = [other for _, other in self._registered if other is not hooks]
                yield plugin, self._manager.subset_hook_caller(hook, others)

    def _add_functions(self, plugin: Plugin) -> None:
        """Take in what the plugin's `runner_tasks` gives."""
        for _, call in [each for each in self.calls_of("runner_tasks") if each[0] is plugin]:
            try:
                for given in call():
                    for name, obj, options in provided_functions(given):
                        where = Reference(plugin.hooks_module, "runner_tasks", plugin.path, name)
                        plugin.add_function(TaskFunction(name, obj, where, plugin.name, options))
            except Exception as error:  # noqa: BLE001  whatever a plugin raises makes that plugin broken
                told = describe_error(add_hook_note(error, "runner_tasks", plugin))
                plugin.mark_broken(f"its hook runner_tasks raised {told}", told.traceback)

    def worker_hooks(self) -> tuple[WorkerHook, ...]:
        """Return the hooks that surround workers, as workers are told of them."""
        found = []
        for plugin, hooks in self._registered:
            if "runner_worker" in plugin.hooks and not plugin.error:
                where = Reference(plugin.hooks_module, "runner_worker", plugin.path)
                found.append(WorkerHook(where, plugin.label, bool(_positional_parameters(hooks.runner_worker))))
        return tuple(found)


def _find_mistake(module: ModuleType, found: dict[str, Callable[..., Any]], plugin: Plugin) -> str:
    """Return the first mistake in a plugin's hooks as a sentence; empty if there is none."""
    for name, function in found.items():
        if name not in NAMES and not getattr(function, MARK)["optionalhook"]:
            return f"unknown hook `{name}`; {did_you_mean(name, NAMES) or 'hooks: ' + ', '.join(NAMES)}"
    for name in NAMES:
        own = vars(module).get(name)
        if inspect.isfunction(own) and name not in found and own.__module__ == module.__name__:
            return f"`{name}` is not marked as a hook: put `@hookimpl` (from runner) above it"
    for name in NAMES:
        if name in found and (wrong := _find_wrong_form(name, found[name])):
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


class Listeners:
    """All listeners of a run: `emit` (for people), and after it each plugin with `runner_event`."""

    def __init__(self, hooks: HookCalls | None, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        self._calls = list(hooks.calls_of("runner_event")) if hooks else []
        self.has_listeners = bool(self._calls)

    def publish_event(self, event: Event) -> None:
        """Give an event to all; a plugin that raises is silenced, and that is noted once."""
        self._emit(event)
        for entry in self._calls.copy() if self._calls else ():
            plugin, call = entry
            # What the plugin prints meanwhile has its name, where output is captured.
            speaking = getattr(sys.stdout, "speaking", contextlib.nullcontext)
            try:
                with speaking(plugin.name):
                    call(event=event)
            except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a plugin raises, the run goes on
                self._calls.remove(entry)
                told = describe_error(add_hook_note(error, "runner_event", plugin))
                text = f"plugin {plugin.label} hears nothing more of this run: its hook runner_event raised {told}"
                self._emit(Notice(event.at, f"{text}\n{told.traceback.rstrip()}"))


def offered_engines(
    hooks: HookCalls,
) -> tuple[dict[str, tuple[Plugin, Any]], list[tuple[Plugin, str, BaseException | None]]]:
    """Return the engines of all plugins (whose, and what makes it) by name, and what was wrong: whose, what, why."""
    found: dict[str, tuple[Plugin, Any]] = {}
    wrong: list[tuple[Plugin, str, BaseException | None]] = []
    for plugin, call in hooks.calls_of("runner_engines"):
        try:
            given = {name: obj for each in call() for name, obj in dict(each).items()}
        except Exception as error:  # noqa: BLE001  whatever a plugin raises
            wrong.append((plugin, "its hook runner_engines raised", add_hook_note(error, "runner_engines", plugin)))
            continue
        for name, obj in given.items():
            if name in OWN_ENGINES or name in found:
                owner = found[name][0].label if name in found else "runner itself"
                wrong.append((plugin, f"it offers the engine `{name}`, and so does {owner}", None))
            else:
                found[name] = plugin, obj
    return found, wrong
