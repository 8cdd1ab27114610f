"""The commands that installed plugins bring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.plugins import Plugin


def plugin_commands() -> dict[str, list[Plugin]]:
    """Return the commands of installed plugins, each with all that offer it; nothing is imported."""
    from runner.plugins import PluginPolicy, discovery

    found: dict[str, list[Plugin]] = {}
    policy = PluginPolicy.read()
    for plugin in discovery.installed_plugins():
        assert plugin.distribution is not None
        if plugin.commands_module and not policy.reason_to_block(plugin.name, plugin.distribution.name):
            found.setdefault(plugin.name, []).append(plugin)
    return found


def command_summary(offered: Sequence[Plugin]) -> str:
    """Return one line of help for a command, from its distribution."""
    if len(offered) > 1:
        return "Offered twice: " + " and ".join(str(each.distribution) for each in offered)
    distribution = offered[0].distribution
    assert distribution is not None
    return f"{distribution.summary or 'A command of a plugin.'} ({distribution})"


def load_command(name: str, offered: Sequence[Plugin]) -> Any:
    """Return the typer app or function of a plugin's command; PluginError when it cannot be had."""
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
