"""A group of commands whose modules are imported when they are called: starting costs what one verb costs."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import typer
import typer.core
import typer.main

from runner.cli import safe_output, typer_without_pydantic
from runner.errors import UsageError
from runner.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class LazyGroup(typer.core.TyperGroup):
    """Its subclass says in `verbs`: name → ("module:function" or "module:app", one line of help)."""

    verbs: ClassVar[Mapping[str, tuple[str, str]]] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        typer_without_pydantic.skip_pydantic()
        self.commands = dict.fromkeys(self.verbs)  # type: ignore[assignment]  # typer suggests names from its keys

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  typer's signature
        """Return all names, in the order of `verbs`."""
        return [*self.verbs, *self.plugin_commands()]

    def plugin_commands(self) -> Mapping[str, tuple[str, str]]:
        """Return further commands, of plugins: name → ("", help); looked for only when they are asked for."""
        return {}

    def load_plugin_command(self, name: str) -> Any:  # noqa: ARG002  a subclass that has others says which
        """Return the typer app or function of one of them; None when there is none of that name."""
        return None

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002  typer's signature
        """Import one verb."""
        if cmd_name not in self.verbs:
            found = self.load_plugin_command(cmd_name)
            return (
                None if found is None else _with_plain_output(_build_command(cmd_name, found, self._folder_options()))
            )
        if self.commands[cmd_name] is None:
            module, _, attribute = self.verbs[cmd_name][0].partition(":")
            self.commands[cmd_name] = _build_command(
                cmd_name, getattr(importlib.import_module(module), attribute), self._folder_options()
            )
        return self.commands[cmd_name]

    def _folder_options(self) -> list[Any]:
        """Return the group's own `-C`, for each of its commands."""
        found = [copy.copy(param) for param in self.params if "-C" in param.opts]
        for param in found:
            param.expose_value = False
        return found

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  typer's signature
        """Write the list of verbs for `--help`, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.verbs.items()])
        others = self.plugin_commands()
        if others:
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(name, text) for name, (_, text) in others.items()])


def _build_command(name: str, target: Any, elsewhere: Sequence[Any]) -> Any:
    made = typer.main.get_group(target) if isinstance(target, typer.Typer) else _single_command(target)
    made.name = name
    _add_common_options(made, elsewhere)
    return made


def _with_plain_output(command: Any) -> Any:
    """Let a plugin's command print what it likes; what is wrong with its options is still said by runner."""
    invoke = command.invoke

    def call(ctx: Any) -> Any:
        with safe_output.unescaped_output():
            return invoke(ctx)

    command.invoke = call
    return command


def _single_command(target: Any) -> Any:
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    alone.command(help=_help_text(target.__doc__ or ""))(target)
    return typer.main.get_command(alone)


def _add_common_options(command: Any, elsewhere: Sequence[Any]) -> None:
    """Give every command `-C`, its examples line by line, and the nearest word for a misspelt option."""
    for each in getattr(command, "commands", {}).values():
        if each.callback is not None and "Examples:" in (each.callback.__doc__ or ""):
            each.help = _help_text(each.callback.__doc__)
        _add_common_options(each, elsewhere)
    if not getattr(command, "commands", None):
        if not any("-C" in param.opts for param in command.params):
            command.params += [*elsewhere]
        command.parse_args = partial(_parse_with_hint, command, command.parse_args)


def change_folder(folder: str | None) -> None:
    """Make a folder the working directory; UsageError when that cannot be."""
    if folder is None:
        return
    try:
        os.chdir(folder)
    except (OSError, ValueError) as error:
        raise UsageError(f"-C {folder}: {getattr(error, 'strerror', None) or error}") from None
    os.environ["PWD"] = str(Path.cwd())  # what programs that it starts go by


def _parse_with_hint(command: Any, usual: Any, ctx: Any, args: list[str]) -> Any:
    """Parse as typer does, but answer an unknown option with the one that is most like it."""
    try:
        return usual(ctx, args)
    except Exception as error:
        if not hasattr(error, "possibilities") or not (wrong := getattr(error, "option_name", "")):
            raise
        known = [name for param in command.params for name in (*param.opts, *param.secondary_opts)]
        known = [name for name in (*known, "--help") if name.startswith("--")]
        error.possibilities = []
        if near := did_you_mean(wrong, known):
            error.message = f"{getattr(error, 'message', '')}; {near}"  # type: ignore[attr-defined]  # click's
        raise


def _help_text(text: str) -> str:
    """Return a docstring as help: the examples keep their lines (that is what the backspace says)."""
    head, mark, examples = inspect.cleandoc(text).partition("Examples:\n")
    lines = [line for line in examples.split("\n") if line.strip()]
    return head + (f"\b\n{mark}" + "\n".join(lines) if mark else "")
