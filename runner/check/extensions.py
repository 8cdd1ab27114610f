"""The problems of the plugins themselves, and what their `runner_check` find in a file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner.error_text import describe_error
from runner.plugins.hooks import offered_engines
from runner.plugins.plugin import add_hook_note
from runner.problems import Problem, quote_name
from runner.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runner.model import Config
    from runner.plugins import Plugin, PluginSet

#: A plugin that finds more than this in one file is not read.
_MOST = 100
BROKEN_PLUGIN_CODE = "W406"


def find_plugin_problems(config: Config, plugins: PluginSet) -> Iterator[Problem]:
    """Yield names that two plugins have, plugins that are not there, an unknown engine, and what plugins find."""
    yield from _check_names(config, plugins)
    yield from _check_engine(config, plugins)
    if all(each.severity != "error" for each in config.problems):  # else they would meet a file that is half known
        for plugin, call in plugins.hooks.calls_of("runner_check"):
            yield from _ask_plugin(config, plugin, call)


def _check_names(config: Config, plugins: PluginSet) -> Iterator[Problem]:
    owners: dict[str, Plugin] = {}
    for each in plugins.local_plugins:
        other = owners.setdefault(each.name, each)
        if other is not each and not each.blocked_by:
            text = f"two plugins have the name {quote_name(each.name)}: {other.origin} and {each.origin}"
            yield Problem("E311", text, config.place("plugins"), hint="rename one of the files")
    for number, word in enumerate(config.plugins or ()):
        missing = f"ModuleNotFoundError: No module named {word.partition('.')[0]!r}"
        if any(each.module == word and each.error.rstrip().endswith(missing) for each in plugins.local_plugins):
            place = config.place("plugins", str(number))
            yield Problem("E312", f"plugin {quote_name(word)} is neither a file, a folder nor a module", place)


def _check_engine(config: Config, plugins: PluginSet) -> Iterator[Problem]:
    word = config.run.engine
    if word in {"local", "ray"}:
        return
    place = config.place("run", "engine")
    found, wrong = offered_engines(plugins.hooks)
    for plugin, text, error in wrong:
        trace = describe_error(error).traceback.rstrip() if error else "block one of them: --no-plugin NAME"
        yield Problem("E313", f"plugin {plugin.label} has a wrong engine: {text}", place, hint=trace)
    if word not in found:
        known = ["`local`", *(f"`{each}` (of plugin {of.label})" for each, (of, _) in sorted(found.items()))]
        hint = f"{did_you_mean(word, ['local', *found])} engines: {', '.join(known)}".lstrip()
        yield Problem("E313", f"unknown engine {quote_name(word)}", place, hint=hint)
    elif not callable(found[word][1]):
        text = f"engine {quote_name(word)} of plugin {found[word][0].label} is not an engine: it cannot be called"
        yield Problem("E313", text, place)


def _ask_plugin(config: Config, plugin: Plugin, call: Any) -> Iterator[Problem]:
    """Yield what one plugin's `runner_check` finds; if it raises, only the plugin is broken."""
    count = 0
    try:
        for given in call(config=config):
            for found in given or ():
                if not isinstance(found, Problem):
                    raise TypeError(f"it must give what `config.problem(...)` returns, not {found!r:.80}")  # noqa: TRY301
                count += 1
                if count <= _MOST:
                    yield replace(found, message=f"{found.message} (says plugin `{plugin.name}`)")
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a plugin raises
        told = describe_error(add_hook_note(error, "runner_check", plugin))
        plugin.mark_broken(f"its hook runner_check raised {told}", told.traceback)


def find_broken_plugins(config: Config, plugins: PluginSet, problems: Sequence[Problem]) -> Iterator[Problem]:
    """Yield plugins that were to be loaded for this file and could not be, apart from those that are errors already."""
    told = {each.hint for each in problems if each.code == "E310"}
    for plugin in plugins.all_plugins:
        if not plugin.error or plugin.error.rstrip() in told or not _has_hooks(plugin):
            continue
        text = f"plugin {plugin.label} is left out: {plugin.error_line}"
        hint = "" if plugin.error == plugin.error_line else plugin.error.rstrip()
        yield Problem(BROKEN_PLUGIN_CODE, text, config.place(), "warning", hint=hint)


def _has_hooks(plugin: Plugin) -> bool:
    """Return True if the plugin would act in a run that names none of its functions."""
    if plugin.distribution is not None:
        return bool(plugin.hooks_module)
    if not plugin.loaded or plugin.error == plugin.error_line:
        return True
    # It was not imported, so only its text can tell.
    return plugin.path is not None and "hookimpl" in plugin.source_text


def plugin_notices(problems: Sequence[Problem]) -> tuple[str, ...]:
    """Return what a run says of plugins that it goes on without."""
    return tuple(each.message for each in problems if each.code == BROKEN_PLUGIN_CODE)
