"""Look task functions up by name, in all the plugins of a file.

A bare name is looked for in local plugins, then in runner's own, and only if none of them has it in every installed
one, which are imported for that. `plugin.function` imports that plugin only.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from runner.error_text import describe_error
from runner.errors import PluginError
from runner.plugins import discovery
from runner.plugins.distributions import PluginPolicy
from runner.plugins.hooks import HookCalls
from runner.plugins.plugin import Plugin, import_with_env, is_user_interrupt, trim_traceback
from runner.tasks import Reference, TaskFunction, find_declaration
from runner.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class PluginSet:
    """The plugins of one file, which is in `folder`; local ones and hooks are loaded, the others when they are named.

    `named` is what the file says in `plugins = […]`, `choice` which installed ones may be used, `env` what its tasks
    give their workers: what cannot be imported is tried once more with that.
    """

    def __init__(
        self,
        folder: Path,
        named: tuple[str, ...] | None = None,
        choice: PluginPolicy | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.named = folder.resolve(), named
        choice = choice or PluginPolicy.read()
        if str(self.folder) not in sys.path:
            # At the end: modules beside the file are importable, and shadow nothing.
            sys.path.append(str(self.folder))
        self.local_plugins = discovery.local_plugins(self.folder, named)
        self.bundled_plugins = [discovery.bundled_plugin()]
        self.installed_plugins = discovery.installed_plugins()
        self._env = env or {}
        for plugin in self.all_plugins:
            plugin.worker_env = self._env
            distribution = plugin.distribution.name if plugin.distribution else None
            plugin.blocked_by = choice.reason_to_block(plugin.name, distribution)
        self.hooks = HookCalls()
        for plugin in self.local_plugins:
            plugin.load_functions()
            self.hooks.register_plugin(plugin)
        self._break_same_names()
        for plugin in self.installed_plugins:
            self.hooks.register_plugin(plugin)

    @property
    def all_plugins(self) -> list[Plugin]:
        """All of them, in the order in which names are looked for."""
        return [*self.local_plugins, *self.bundled_plugins, *self.installed_plugins]

    def _break_same_names(self) -> None:
        """Break plugins of the same name: whose hooks are meant is unclear, and neither can be blocked alone."""
        owners: dict[str, list[Plugin]] = {}
        for each in (*self.local_plugins, *self.installed_plugins):
            if not each.blocked_by and (each.distribution is None or each.hooks_module):
                owners.setdefault(each.name, []).append(each)
        for same in owners.values():
            for each in same if len(same) > 1 else ():
                if each.distribution is not None:
                    others = " and ".join(other.label for other in same if other is not each)
                    each.mark_broken(f"another plugin has the same name: {others}; {_blocking_hint(each)}")

    def find_function(self, call: str) -> TaskFunction:
        """Return the task function that a file calls `call`; PluginError says what there is instead."""
        if ":" in call:
            return _import_function(call, self._env)
        plugin, _, name = call.rpartition(".")
        if plugin:
            return self._find_qualified(call, plugin, name)
        for circle in (self.local_plugins, self.bundled_plugins, self.installed_plugins):
            found = self._find_among(call, name, circle)
            if found is not None:
                return found
            if circle is self.local_plugins and any(
                name in each.unmarked_functions or each.may_have_function(name) for each in circle
            ):
                break  # the project's own may be meant, were it in order: no other plugin's is taken for it
        raise self._not_found(call, "", name, [*self.local_plugins, *self.installed_plugins])

    def _find_among(self, call: str, name: str, circle: Sequence[Plugin]) -> TaskFunction | None:
        for each in circle:
            each.load_functions()
        owners = [each for each in circle if name in each.functions and not each.blocked_by]
        for each in owners:
            if name in each.duplicate_functions:
                both = " and ".join(
                    f"`{other.reference.qualname}`" + (f" (line {other.line})" if other.line else "")
                    for other in each.duplicate_functions[name]
                )
                text = f"task function `{call}` is offered twice by {each.label}: {both}"
                hint = f"rename one of them, or say `@task(name=...)` there (`{name}` is the name of both)"
                raise PluginError(text, "E311", hint)
        if not owners:
            return None
        first = owners[0].functions[name]  # what one plugin has imported from the other is offered once
        if not all(first.obj is each.functions[name].obj or first.is_copy_of(each.functions[name]) for each in owners):
            both = " and ".join(f"`{each.name}.{name}` ({each.origin})" for each in owners)
            same = len({each.name for each in owners}) < len(owners)
            way = _blocking_hint(owners[-1]) if same else "write one of these names in full"
            raise PluginError(f"task function `{call}` is offered by {both}", "E311", way)
        if owners[0].error:
            raise _broken_error(call, owners[0])
        return first

    def _find_qualified(self, call: str, plugin: str, name: str) -> TaskFunction:
        owners = [each for each in self.all_plugins if each.name == plugin and (each.module or each.functions)]
        there = [each for each in owners if not each.blocked_by]
        if owners and not there:
            raise PluginError(f"plugin `{plugin}`, which `{call}` needs, is blocked by {owners[0].blocked_by}", "E312")
        if len(there) > 1 and any(each.distribution or each in self.bundled_plugins for each in there):
            both = " and ".join(each.label for each in there)
            raise PluginError(f"`{call}` may be of two plugins: {both}", "E311", _blocking_hint(there[-1]))
        found = self._find_among(call, name, there)
        if found is not None:
            return found
        raise self._not_found(call, plugin, name, there)

    def _not_found(self, call: str, plugin: str, name: str, offered: Sequence[Plugin]) -> PluginError:
        for each in offered:
            if name in each.unmarked_functions:
                text = f"function `{name}` in {each.origin} is not marked as a task function"
                return PluginError(text, hint="put `@task` (from runner) above it")
        known = sorted({name for each in offered for name in each.functions if not each.blocked_by})
        near = did_you_mean(name, known)
        broken = next((each for each in offered if each.error and (each.module or plugin)), None)
        if broken is not None and not near:
            return _broken_error(call, broken)
        if plugin and not offered:
            names = [each.name for each in (*self.local_plugins, *self.installed_plugins)]
            hint = did_you_mean(plugin, names) or _list_known(names)
            return PluginError(f"no plugin `{plugin}` for `{call}`", "E312", hint)
        also = f" (and plugin {_plugin_name(broken)} could not be loaded)" if broken else ""
        blocked = [f"`{each.name}` (by {each.blocked_by})" for each in offered if each.blocked_by and each.module]
        hint = near or _list_known(known)
        hint += f"; blocked: {', '.join(blocked)}" if blocked else ""
        return PluginError(f"no task function `{call}`{also}", hint=hint)


def _broken_error(call: str, plugin: Plugin) -> PluginError:
    text = f"no task function `{call}`, but plugin {_plugin_name(plugin)} could not be loaded"
    return PluginError(text, "E310", plugin.error.rstrip())


def _plugin_name(plugin: Plugin) -> str:
    return plugin.label if plugin.distribution else f"`{plugin.name}`"


def _blocking_hint(plugin: Plugin) -> str:
    if plugin.distribution is None:
        return "rename one of the files"
    return f"block one of them by the name of its distribution: --no-plugin {plugin.distribution.display_name}"


def _import_function(call: str, env: Mapping[str, str]) -> TaskFunction:
    module, _, qualname = call.partition(":")
    reference = Reference(module, qualname)
    try:
        import_with_env(env, module)
        target = reference.load_callable()
    except AttributeError as error:
        near = did_you_mean(qualname, vars(sys.modules[module])) if module in sys.modules else ""
        raise PluginError(f"`{call}`: module `{module}` has no `{qualname}` ({error})", hint=near) from None
    except BaseException as error:
        if is_user_interrupt(error):
            raise
        told = describe_error(trim_traceback(error))
        hint = "" if isinstance(error, ModuleNotFoundError) else told.traceback.rstrip()
        raise PluginError(f"`{call}` cannot be imported: {told}", "E310", hint) from None
    if not callable(target):
        raise PluginError(f"`{call}` is not a function: it is of type {type(target).__name__}")
    mark = find_declaration(target)
    options = {} if mark is None else mark.options
    return TaskFunction(qualname, target, reference, module, options)


def _list_known(words: Sequence[str]) -> str:
    return "known: " + ", ".join(f"`{each}`" for each in words) if words else "there are none"
