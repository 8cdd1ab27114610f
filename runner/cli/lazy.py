"""A group of commands whose modules are imported when they are called: starting costs what one verb costs."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any, ClassVar

import typer
import typer.core
import typer.main

from runner.cli import light, safe

if TYPE_CHECKING:
    from collections.abc import Mapping


class LazyGroup(typer.core.TyperGroup):
    """Its subclass says in `verbs`: name → ("module:function" or "module:app", one line of help)."""

    verbs: ClassVar[Mapping[str, tuple[str, str]]] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        light.install()
        self.commands = dict.fromkeys(self.verbs)  # type: ignore[assignment]  # typer suggests names from its keys

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  typer's signature
        """All names, in the order of `verbs`."""
        return [*self.verbs, *self.others()]

    def others(self) -> Mapping[str, tuple[str, str]]:
        """Further commands, of plugins: name → ("", help); looked for only when somebody wants to know."""
        return {}

    def other(self, name: str) -> Any:  # noqa: ARG002  a subclass that has others says which
        """The typer app or function of one of them; None when there is none of that name."""
        return None

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002  typer's signature
        """Import one verb."""
        if cmd_name not in self.verbs:
            found = self.other(cmd_name)
            return None if found is None else _theirs(_command(cmd_name, found))
        if self.commands[cmd_name] is None:
            module, _, attribute = self.verbs[cmd_name][0].partition(":")
            self.commands[cmd_name] = _command(cmd_name, getattr(importlib.import_module(module), attribute))
        return self.commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  typer's signature
        """The list of verbs in `--help`, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.verbs.items()])
        others = self.others()
        if others:
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(name, text) for name, (_, text) in others.items()])


def _command(name: str, target: Any) -> Any:
    if isinstance(target, typer.Typer):
        made = typer.main.get_group(target)
    else:
        alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        alone.command(name, help=_help(target.__doc__ or ""))(target)
        made = typer.main.get_command(alone)  # type: ignore[assignment]
    made.name = name
    return made


def _theirs(command: Any) -> Any:
    """A plugin's command, which prints what it likes; how it is called wrongly is said by us."""
    invoke = command.invoke

    def call(ctx: Any) -> Any:
        with safe.off():
            return invoke(ctx)

    command.invoke = call
    return command


def _help(text: str) -> str:
    """A docstring as help: the examples keep their lines (that is what the backspace says)."""
    head, mark, examples = inspect.cleandoc(text).partition("Examples:\n")
    lines = [line for line in examples.split("\n") if line.strip()]
    return head + (f"\b\n{mark}" + "\n".join(lines) if mark else "")
