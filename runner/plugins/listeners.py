"""The two things that a run asks of plugins: listeners to its events, and engines."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from runner.error_text import describe_error
from runner.events import Notice
from runner.plugins.plugin import add_hook_note

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.events import Event
    from runner.plugins.lookup import PluginSet
    from runner.plugins.plugin import Plugin


class Listeners:
    """All listeners of a run: `emit` (for people), and after it each plugin with `runner_event`."""

    def __init__(self, plugins: PluginSet | None, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        self._calls = list(plugins.hooks.calls_of("runner_event")) if plugins else []
        self.has_listeners = bool(self._calls)

    def publish_event(self, event: Event) -> None:
        """Give an event to all; a plugin that raises is silenced, and that is noted once."""
        self._emit(event)
        for entry in self._calls.copy() if self._calls else ():
            plugin, call = entry
            try:
                with speaking_as(plugin.name):
                    call(event=event)
            except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a plugin raises, the run goes on
                self._calls.remove(entry)
                self._emit(Notice(event.at, _hook_complaint(plugin, error)))


def speaking_as(name: str) -> contextlib.AbstractContextManager[None]:
    """Give this name to all that is printed meanwhile, where output is captured."""
    speak = getattr(sys.stdout, "speaking", None)
    return contextlib.nullcontext() if speak is None else speak(name)


def _hook_complaint(plugin: Plugin, error: BaseException) -> str:
    told = describe_error(add_hook_note(error, "runner_event", plugin))
    trace = told.traceback.rstrip()
    return f"plugin {plugin.label} hears nothing more of this run: its hook runner_event raised {told}\n{trace}"


class OfferedEngine(Struct, frozen=True):
    """One engine that a plugin offers."""

    plugin: Plugin
    engine_factory: Any


def offered_engines(
    plugins: PluginSet,
) -> tuple[dict[str, OfferedEngine], list[tuple[Plugin, str, BaseException | None]]]:
    """Return the engines of all plugins by name, and what was wrong: whose, what, and what was raised."""
    found: dict[str, OfferedEngine] = {}
    wrong: list[tuple[Plugin, str, BaseException | None]] = []
    for plugin, call in plugins.hooks.calls_of("runner_engines"):
        try:
            given = {name: obj for each in call() for name, obj in dict(each).items()}
        except Exception as error:  # noqa: BLE001  whatever a plugin raises
            wrong.append((plugin, "its hook runner_engines raised", add_hook_note(error, "runner_engines", plugin)))
            continue
        for name, obj in given.items():
            if name in {"local", "ray"} or name in found:
                owner = found[name].plugin.label if name in found else "runner itself"
                wrong.append((plugin, f"it offers the engine `{name}`, and so does {owner}", None))
            else:
                found[name] = OfferedEngine(plugin, obj)
    return found, wrong
