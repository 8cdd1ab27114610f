"""Which plugins a command may use, and `runner list plugins`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from runner.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.plugins import Plugin, PluginPolicy, PluginSet

NoPluginOption = Annotated[
    Optional[list[str]],  # noqa: UP045  typer reads the annotation at run time
    typer.Option("--no-plugin", metavar="NAME", help="Do without this plugin, or what this distribution installed."),
]
NoPluginsOption = Annotated[bool, typer.Option("--no-plugins", help="Do without installed plugins.")]
OnlyPluginOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--only-plugin", metavar="NAME", help="Of the installed plugins, use only this one."),
]


def plugin_choice(no_plugin: list[str] | None, no_plugins: bool, only_plugin: list[str] | None) -> PluginPolicy:
    """What the options and the environment say together."""
    from runner.plugins import PluginPolicy

    return PluginPolicy.read(blocked=no_plugin or (), none=no_plugins, only=only_plugin or ())


# -- list plugins -----------------------------------------------------------------------------


def plugin_lines(plugins: PluginSet) -> list[str]:
    """A line for each plugin, and why it is broken or blocked below it."""
    from runner.text import format_table

    shown = [each for each in plugins.all_plugins if each.name != "std" or each.loaded]
    rows = format_table([_plugin_row(each) for each in shown])
    found = []
    for row, plugin in zip(rows, shown, strict=True):
        found.append(row)
        if plugin.error_line:
            found.append(f"    {plugin.name}: could not be loaded: {plugin.error_line}")
        if plugin.blocked_by:
            found.append(f"    blocked by {plugin.blocked_by}")
    return found or ["no plugins"]


def _plugin_row(plugin: Plugin) -> tuple[str, ...]:
    parts = [f"{len(plugin.functions)} functions"] if plugin.loaded or plugin.functions else []
    parts += ["functions unknown until loaded"] if plugin.module and plugin.status == "lazy" else []
    parts += list(plugin.hooks)
    parts += [f"command {plugin.name}"] if plugin.commands_module else []
    return plugin.name, plugin.version or "-", plugin.status, ", ".join(parts), plugin.origin


def plugin_records(plugins: PluginSet) -> list[dict[str, Any]]:
    """The same for programs; `functions` is null where nobody has looked yet."""
    return [
        {
            "name": plugin.name,
            "version": plugin.version or None,
            "distribution": plugin.distribution.display_name if plugin.distribution else None,
            "origin": plugin.origin,
            "file": plugin.source_file or None,
            "status": plugin.status,
            "why": plugin.blocked_by or plugin.error_line,
            "functions": _function_names(plugin),
            "hooks": list(plugin.hooks),
            "command": plugin.name if plugin.commands_module else None,
            "error": plugin.error,
        }
        for plugin in plugins.all_plugins
    ]


def _function_names(plugin: Plugin) -> list[str] | None:
    return None if plugin.module and plugin.status in {"lazy", "blocked"} else list(plugin.functions)


# -- commands ---------------------------------------------------------------------------------


def plugin_commands() -> dict[str, list[Plugin]]:
    """The commands of installed plugins that are not blocked, each with all who offer it; nothing is imported."""
    from runner.plugins import PluginPolicy, discovery

    found: dict[str, list[Plugin]] = {}
    for plugin in discovery.installed_plugins(PluginPolicy.read()):
        if plugin.commands_module and not plugin.blocked_by:
            found.setdefault(plugin.name, []).append(plugin)
    return found


def command_summary(offered: Sequence[Plugin]) -> str:
    """One line of help for a command, from its distribution."""
    if len(offered) > 1:
        return "Offered twice: " + " and ".join(str(each.distribution) for each in offered)
    distribution = offered[0].distribution
    assert distribution is not None
    return f"{distribution.summary or 'A command of a plugin.'} ({distribution})"


def load_command(name: str, offered: Sequence[Plugin]) -> Any:
    """The typer app or function of a plugin's command; PluginError when it cannot be had."""
    if len(offered) > 1:
        both = " and ".join(each.label for each in offered)
        hint = f"RUNNER_DISABLE_PLUGINS={offered[-1].distribution.display_name if offered[-1].distribution else ''}"
        raise PluginError(f"E311 command `{name}` is offered by two plugins: {both}\n   block one of them: {hint}")
    plugin = offered[0]
    module_name, _, attribute = plugin.commands_module.partition(":")
    module = plugin.import_own_module(module_name)
    if module is None:
        text = f"E310 command `{name}` of plugin {plugin.label} could not be loaded: {plugin.error_line}"
        raise PluginError(f"{text}\n{plugin.error.rstrip()}")
    found: Any = module
    for part in (attribute or "app").split("."):
        found = getattr(found, part, None)
    if not callable(found):
        text = f"E310 command `{name}` of plugin {plugin.label}: module {module_name} has no `{attribute or 'app'}`"
        raise PluginError(f"{text}, which must be a typer app or a function")
    return found
