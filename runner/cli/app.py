"""The command line: its verbs, each imported when it is called, its own options, and how errors leave it."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import inspect
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer
import typer.core
import typer.main
from typer import Option

from runner.cli import streams
from runner.errors import PluginError, RunnerError, UsageError
from runner.text import did_you_mean
from runner.version import __version__

if TYPE_CHECKING:
    from runner.plugins import Plugin


#: Typer's options that write or show the script of a shell.
_COMPLETION_OPTIONS = frozenset({"--install-completion", "--show-completion"})
#: A number of more digits is left to typer.
_MOST_DIGITS = 18


class RunnerGroup(typer.core.TyperGroup):
    """Every verb: where it is, and what it is for; and the commands of installed plugins."""

    verbs: ClassVar[dict[str, tuple[str, str]]] = {
        "run": ("runner.cli.run:run", "Run the tasks of a file."),
        "resume": ("runner.cli.resume:resume", "Go on with a durable run, where it was."),
        "each": ("runner.cli.each:each", "Run a command for each argument or line, as GNU Parallel does."),
        "agent": ("runner.cli.agent:agent", "Lend this machine to a run on several."),
        "check": ("runner.cli.check:check", "Show all errors of the files, and start nothing."),
        "show": ("runner.cli.show:show", "Show the resolved file in its long form."),
        "graph": ("runner.cli.graph:graph", "Draw the tasks and queues of a file."),
        "list": ("runner.cli.listing:list_", "List tasks, tests, functions, params or plugins, or past runs."),
        "test": ("runner.cli.test:run_file_tests", "Run the tests that stand in files."),
        "dead": ("runner.cli.dead:app", "Dead letters: the items that a run has given up."),
        "ps": ("runner.cli.ps:ps", "Show the runs that are going on, and their workers."),
        "top": ("runner.cli.top:top", "Watch a run that is going on."),
        "stop": ("runner.cli.stop:stop", "End a run that is going on."),
        "report": ("runner.cli.report:report", "Say what happened in a run."),
        "new": ("runner.cli.new:app", "Make a folder that runs: a job, or a plugin."),
        "schema": ("runner.cli.schema:schema", "Write the JSON Schema of the file, for editors."),
        "doctor": ("runner.cli.doctor:doctor", "Say what is wrong with this machine, or slow."),
        "explain": ("runner.cli.explain:explain", "Say what an error means, with an example and the way out."),
    }

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        _skip_pydantic()
        self.commands = dict.fromkeys(self.verbs)  # type: ignore[assignment]  # typer suggests names from its keys

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  typer's signature
        """Return all names, in the order of `verbs`."""
        return [*self.verbs, *self._plugin_summaries()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import one verb, or a plugin's command; runner's own verbs come first, and stay what they are."""
        if cmd_name in self.verbs:
            module, _, attribute = self.verbs[cmd_name][0].partition(":")
            return self._build_command(cmd_name, getattr(importlib.import_module(module), attribute))
        offered = _plugin_commands().get(cmd_name)
        if offered is None:
            return None
        if ctx is not None and ctx.resilient_parsing:  # a shell completes: a plugin's module is not imported for that
            return self._build_command(cmd_name, lambda: None)
        made = self._build_command(cmd_name, _load_command(cmd_name, offered))
        # It prints what it likes; what is wrong with its options is still said by runner.
        made.invoke = streams.escaped_output(False)(made.invoke)
        return made

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  typer's signature
        """Write the list of verbs for `--help`, without importing any."""
        own = {name: summary for name, (_, summary) in self.verbs.items()}
        for heading, summaries in (("Commands", own), ("Commands of plugins", self._plugin_summaries())):
            if summaries:
                with formatter.section(heading):
                    formatter.write_dl([*summaries.items()])

    def _plugin_summaries(self) -> dict[str, str]:
        found = _plugin_commands().items()
        return {name: _command_summary(offered) for name, offered in found if name not in self.verbs}

    def _build_command(self, name: str, target: Any) -> Any:
        if isinstance(target, typer.Typer):
            made: Any = typer.main.get_group(target)
        else:
            alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
            alone.command()(target)
            made = typer.main.get_command(alone)
        made.name = name
        if name == "each":  # what stands behind its command's first word is the command's
            made.allow_interspersed_args = False
        folder_options = [copy.copy(param) for param in self.params if "-C" in param.opts]
        for param in folder_options:
            param.expose_value = False
        _add_common_options(made, folder_options)
        return made


def _add_common_options(command: Any, folder_options: list[Any]) -> None:
    """Give every command `-C`, its examples line by line, and the nearest word for a misspelt option."""
    within = getattr(command, "commands", {}).values()
    for each in within:
        _add_common_options(each, folder_options)
    if not within:
        head, mark, examples = inspect.cleandoc(command.callback.__doc__ or "").partition("Examples:\n")
        if mark:  # they keep their lines: that is what the backspace says
            lines = [line for line in examples.split("\n") if line.strip()]
            command.help = f"{head}\b\n{mark}" + "\n".join(lines)
        if not any("-C" in param.opts for param in command.params):
            command.params += folder_options
        command.parse_args = functools.partial(_parse_with_hint, command, command.parse_args)


def _change_folder(folder: str | None) -> None:
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
        error.possibilities = []
        if near := did_you_mean(wrong, [name for name in (*known, "--help") if name.startswith("--")]):
            error.message = f"{getattr(error, 'message', '')}; {near}"  # type: ignore[attr-defined]  # click's
        raise


@functools.cache
def _skip_pydantic() -> None:
    """Start without pydantic: typer imports it (100 ms) to convert even a plain string, which needs no conversion.

    The seam is private to typer, so it is used only where it is as expected; otherwise typer does what it always does,
    and runner starts as slowly as every typer program. `bench/start.py` measures the difference.
    """
    try:
        from typer._coercion import RuntimeParam
    except ImportError:
        return
    usual: Any = getattr(typer.core, "build_runtime_param", None)
    if usual is None:
        return

    class Late(RuntimeParam):
        def _coerce_value(self, value: Any, param: Any, ctx: Any) -> Any:
            if self.parameter_info.parser is None:
                if type(value) is self.annotation or (self.annotation is Path and isinstance(value, Path)):
                    return value
                if self.annotation == list[str] and isinstance(value, (list, tuple)):
                    return list(value)
                if self.annotation is int and (number := _plain_int(value, self.parameter_info)) is not None:
                    return number
                if self.annotation is Path and isinstance(value, (str, Path)) and _takes_any_path(self.parameter_info):
                    return Path(value)
            return usual(param.type_descriptor).coerce(value, param, ctx)

    def build(descriptor: Any) -> Any:
        return Late(descriptor.parameter_info, descriptor.annotation)

    typer.core.build_runtime_param = build  # type: ignore[attr-defined]


def _plain_int(value: Any, info: Any) -> int | None:
    """Return the number that some digits are, within the option's bounds; None: typer is to say what is wrong."""
    if not isinstance(value, str) or not (value.isascii() and value.isdecimal()) or len(value) > _MOST_DIGITS:
        return None
    number = int(value)
    low, high = info.min, info.max
    return number if (low is None or number >= low) and (high is None or number <= high) else None


def _takes_any_path(info: Any) -> bool:
    """Return True if a path is taken as it is: nothing of what may be there is looked at."""
    looks = ("exists", "writable", "readable", "resolve_path", "allow_dash", "path_type")
    return info.file_okay and info.dir_okay and not any(getattr(info, name) for name in looks)


def _plugin_commands() -> dict[str, list[Plugin]]:
    """Return the commands of installed plugins, each with all that offer it; nothing is imported."""
    from runner.plugins import PluginPolicy, discovery

    found: dict[str, list[Plugin]] = {}
    policy = PluginPolicy.read()
    for plugin in discovery.installed_plugins():
        assert plugin.distribution is not None
        if plugin.commands_module and not policy.reason_to_block(plugin.name, plugin.distribution.name):
            found.setdefault(plugin.name, []).append(plugin)
    return found


def _command_summary(offered: list[Plugin]) -> str:
    if len(offered) > 1:
        return "Offered twice: " + " and ".join(str(each.distribution) for each in offered)
    distribution = offered[0].distribution
    assert distribution is not None
    return f"{distribution.summary or 'A command of a plugin.'} ({distribution})"


def _load_command(name: str, offered: list[Plugin]) -> Any:
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


app = typer.Typer(
    name="runner",
    cls=RunnerGroup,
    help="Declare Python functions, processes, threads and queues in TOML; run them, fast, and lose nothing.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"runner {__version__}")
        raise typer.Exit


@app.callback()
def _root_options(
    ctx: typer.Context,
    version: Annotated[  # noqa: ARG001  its callback has acted on it
        bool, Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    folder: Annotated[  # noqa: ARG001  its callback has acted on it
        str | None, Option("-C", metavar="DIR", is_eager=True, callback=_change_folder, help="Start in this folder.")
    ] = None,
) -> None:
    """Take the options of runner itself."""
    if ctx.invoked_subcommand is None:
        from runner.cli.listing import show_overview

        show_overview()


def main() -> int:
    """Run the command line and return its exit code; no traceback of ours for what a user did."""
    if "_RUNNER_COMPLETE" in os.environ or not _COMPLETION_OPTIONS.isdisjoint(sys.argv):
        from runner.cli import completion

        if completion.is_asked(os.environ):
            completion.answer_shell(typer.main.get_command(app))
            return 0
        completion.use_own_scripts()
    with streams.escaped_output():
        code = _run_app()
        lost = streams.take_output_error()
        if lost:
            _say_error(f"runner: {lost}; output is lost")
        return 1 if lost and code in {0, 4} else code


def _run_app() -> int:
    try:
        app(standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except RunnerError as error:
        _say_error(str(error))
        return error.exit_code
    except Exception as error:
        if "RUNNER_DEBUG" in os.environ:
            raise
        from runner.error_text import describe_refusal

        if refused := describe_refusal(error):
            _say_error(f"runner: {refused}")
            return 1
        _say_error(
            f"runner: a fault of runner's own: {type(error).__name__}: {error}\n"
            "        please report it; RUNNER_DEBUG=1 shows where it happened"
        )
        return RunnerError.exit_code
    return 0


def _say_error(text: str) -> None:
    with contextlib.suppress(OSError):  # standard error is closed
        sys.stderr.write(f"{text}\n")
