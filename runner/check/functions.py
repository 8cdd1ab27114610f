"""Checks of the functions: `args` and `with` against signatures and type hints, exceptions, modes, names."""

from __future__ import annotations

import builtins
import inspect
import os
import pickle
import re
import sys
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.check import convert
from runner.check.structure import is_set_in_file, thread_problems
from runner.config import toml
from runner.config.source_map import VALUE_PART
from runner.model import CLUSTER_ENGINES
from runner.problems import Problem, quote_name
from runner.structs import dataclass, field
from runner.tasks import inspect_shape, parameter_hints
from runner.text import clean_text, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping

    from runner.check.convert import Arguments
    from runner.model import Config, TaskConfig
    from runner.plugins import TaskFunction

_MISSING = object()
_MODULE = re.compile(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])")

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
#: Functions that ship with runner: what they need of their task is known before it starts.
_READS = {"lines", "csv", "jsonl"}
_WRITES = {"write_lines", "write_csv", "write_jsonl", "write_output"}
#: The descriptors that every worker has itself.
_OWN = range(3)


def check_functions(
    config: Config, functions: Mapping[str, TaskFunction]
) -> tuple[list[Problem], dict[str, Arguments]]:
    """Return the problems of the functions of some tasks, and the arguments of these tasks, converted."""
    problems: list[Problem] = []
    arguments: dict[str, Arguments] = {}
    for word, function in functions.items():
        task = config.tasks[word]
        binding = ArgumentBinding(config, task, function)
        if config.is_unknown("tasks", word, "inputs"):  # whether it gets items decides what else it may get
            continue
        arguments[word] = binding.bind_arguments()
        problems += [*binding.problems, *_check_declaration(config, task, function)]
        problems += _find_exception_problems(config, task, function)
        problems += find_std_problems(config, task, function, arguments[word])
    problems += find_file_clashes(config, functions, arguments)
    return problems, arguments


def _check_declaration(config: Config, task: TaskConfig, function: TaskFunction) -> list[Problem]:
    """Check the mode that a function declares, and whether a process can find it."""
    call = config.place("tasks", task.name, "call")
    mode = task.mode or function.options.get("mode") or "process"
    if mode == "thread":
        if function.options.get("env") and not is_set_in_file(config, task.name, "env"):
            text = f"task {quote_name(task.name)} runs in threads, which share one environment, and its function"
            text += f" declares an `env` (at {function_location(function)})"
            return [Problem("E214", text, call, hint='say `mode = "process"`')]
        # If the mode is in the file, the file alone has told it. To find the line of a class takes 10 ms.
        if is_set_in_file(config, task.name, "mode") or not any(thread_problems(config, task, "")):
            return []
        why = f"but its function declares threads (at {function_location(function)})"
        return list(thread_problems(config, task, why))
    if task.key and config.run.durable and config.run.engine in CLUSTER_ENGINES:
        text = f"source {quote_name(task.name)} has a `key` and runs on other machines, which do not have the keys that"
        text += " earlier lives of the run have given"
        place = config.place("tasks", task.name, "key")
        return [Problem("E318", text, place, hint='say `mode = "thread"`: it stays where the ledger is')]
    try:
        found = function.reference.module != "__main__" and function.reference.load_callable() is function.obj
        found = found or bool(function.reference.provided_name)  # made anew at every call, in a worker too
    except Exception:  # noqa: BLE001  whatever the module's __getattr__ raises, it is not found
        found = False
    if not found:
        shown = quote_name(f"{function.reference.module}:{function.reference.qualname}")
        text = f"task {quote_name(task.name)} runs in processes, which cannot import its function as {shown}"
        return [Problem("E308", text, call, hint='define it at the top of a module, or say `mode = "thread"`')]
    return []


def function_location(function: TaskFunction) -> str:
    """Return `file:line` of a function, relative to the current folder when it is below that."""
    file = function.file
    if file.startswith(here := str(Path.cwd()) + "/"):
        file = file.removeprefix(here)
    return f"{clean_text(file)}:{function.line}" if function.line else clean_text(file)


def _find_signature(target: Any) -> inspect.Signature | None:
    """Return the signature of a callable; None for a built-in that does not say."""
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):
        return None


def written_signature(target: Any) -> str:
    """Return a signature as its author wrote it, without the modules of the names in its annotations."""
    found = _find_signature(target)
    if found is None:
        return "(...)"
    parameters = [each.replace(annotation=_show_annotation(each.annotation)) for each in found.parameters.values()]
    returned = _show_annotation(found.return_annotation)
    return clean_text(str(found.replace(parameters=parameters, return_annotation=returned)), 200)


def _show_annotation(annotation: Any) -> Any:
    if annotation is inspect.Parameter.empty:
        return annotation
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return _Written(annotation.__name__)
    return _Written(_MODULE.sub("", annotation if isinstance(annotation, str) else str(annotation)))


class _Written(str):
    """An annotation that shows itself without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


@dataclass(slots=True)
class ArgumentBinding:
    """One task's arguments on their way to its function's parameters."""

    config: Config
    task: TaskConfig
    function: TaskFunction
    problems: list[Problem] = field(default_factory=list)
    parameters: dict[str, inspect.Parameter] = field(default_factory=dict)
    #: What of the task's table something is wrong with already.
    refused_paths: set[tuple[str, ...]] = field(default_factory=set)

    def bind_arguments(self) -> Arguments:
        """Bind and convert; what does not fit becomes a problem."""
        target = self.function.obj
        form = inspect_shape(target)
        given = {*form.inboxes, *form.outboxes, *([form.context] if form.context else [])}
        boxed = bool(form.inboxes or (form.outboxes and self.task.inputs))
        item = bool(self.task.inputs) and not boxed
        if any(self.config.is_unknown("tasks", self.task.name, key) for key in ("args", "with")):
            return (), {}
        if form.kind == "class":
            context = form.constructor_context
            self._bind_parameters(target, item=False, given={context} if context else set())
            self._callable_class(target, item=item, given=given)
        else:
            self._bind_parameters(target, item=item, given=given)
        if not (self.task.args or self.task.kwargs):
            return self.task.args, self.task.kwargs
        return self._convert_arguments(target, item=item and form.kind != "class")

    def _add_problem(self, code: str, text: str, *path: str, hint: str = "") -> None:
        self.refused_paths.add(path)
        function = self.function
        written = f"{function.name}{written_signature(function.obj)} at {function_location(function)}"
        place = self.config.place("tasks", self.task.name, *path)
        self.problems.append(Problem(code, text, place, hint=f"{hint}\n{written}"))

    def _bind_parameters(self, target: Any, *, item: bool, given: set[str]) -> None:
        signature = _find_signature(target)
        if signature is None:
            return
        self.parameters = dict(signature.parameters)
        kinds = [parameter.kind for parameter in signature.parameters.values()]
        open_positions, open_names = (kind in kinds for kind in _OPEN)
        positions = [each for each in signature.parameters.values() if each.kind in _BY_POSITION]
        filled = dict.fromkeys(given, "runner fills it")
        if item and not positions and not open_positions:
            self._report_no_item()
        for number in range(len(self.task.args) + item):
            spot = ("args", str(number - item))
            if number < len(positions):
                self._bind_position(positions[number].name, filled, spot if number >= item else None)
            elif not open_positions and number >= item:
                most = max(0, len(positions) - item)
                text = f"{self._describe_function()} takes {most or 'no'} positional argument{'s' * (most != 1)}"
                self._add_problem("E305", text + f", not {len(self.task.args)}", *spot)
                break
        self._bind_keywords(filled, open_names=open_names)
        if missing := _required_names(each for each in self.parameters.values() if each.name not in filled):
            key = "with" if self.task.kwargs else "args" if self.task.args else "call"
            self._add_problem("E302", f"{self._describe_function()} needs {missing}", key)

    def _describe_function(self) -> str:
        shown = f"function {quote_name(self.function.name)}"
        return shown if self.function.name == self.task.name else f"{shown} of task {quote_name(self.task.name)}"

    def _report_no_item(self) -> None:
        self._add_problem("E306", f"{self._describe_function()} takes no item, and the task has inputs", "call")

    def _bind_position(self, parameter: str, filled: dict[str, str], spot: tuple[str, ...] | None) -> None:
        if spot is None and parameter in filled:
            self._report_no_item()
        elif parameter in filled:
            text = f"a positional argument of {self._describe_function()} would be {quote_name(parameter)}"
            text += f", and {filled[parameter]}"
            self._add_problem("E305", text, *spot or ())
        filled[parameter] = "it is the item" if spot is None else "`args` gives it"

    def _bind_keywords(self, filled: dict[str, str], *, open_names: bool) -> None:
        known = [each.name for each in self.parameters.values() if each.kind in _BY_NAME]
        for word in self.task.kwargs:
            if word in filled and word in known:
                text = f"{self._describe_function()} cannot be given {quote_name(word)}: {filled[word]}"
                self._add_problem("E303", text, "with", word)
            elif word in known or open_names:
                filled[word] = "`with` gives it"
            else:
                near = did_you_mean(word, [one for one in known if one not in filled])
                text = f"{self._describe_function()} has no argument {quote_name(word)}"
                self._add_problem("E303", text, "with", word, hint=near)
                filled.update(dict.fromkeys(near.split("`")[1:2], "`with` gives it"))

    def _callable_class(self, target: Any, *, item: bool, given: set[str]) -> None:
        """Check `__call__`, which gets the item and nothing from the file."""
        signature = _find_signature(target.__call__)
        if signature is None:
            return
        own = [each for each in [*signature.parameters.values()][1:] if each.name not in given]
        takes_item = bool(own) and own[0].kind in (*_BY_POSITION, _OPEN[0])
        if item and not takes_item:
            self._report_no_item()
        if missing := _required_names(own[item and takes_item :]):
            text = f"the `__call__` of {self._describe_function()} needs {missing}"
            self._add_problem("E302", f"{text}, which a file cannot give: `with` goes to the constructor", "call")

    def _convert_arguments(self, target: Any, *, item: bool) -> Arguments:
        known = parameter_hints(_annotated_callable(target))
        positions = [each for each in self.parameters.values() if each.kind in _BY_POSITION][int(item) :]
        rest = next((each for each in self.parameters.values() if each.kind is _OPEN[0]), None)
        args, kwargs = [], {}
        for number, value in enumerate(self.task.args):
            parameter = positions[number] if number < len(positions) else rest
            hint = known.get(parameter.name) if parameter else None
            args.append(self._convert_value(value, hint, parameter.name if parameter else "", "args", str(number)))
        more = next((each.name for each in self.parameters.values() if each.kind is _OPEN[1]), "")
        for word, value in self.task.kwargs.items():
            hint = known.get(word, None if word in self.parameters else known.get(more))
            kwargs[word] = self._convert_value(value, hint, word, "with", word)
        return tuple(args), kwargs

    def _convert_value(self, value: Any, hint: Any, parameter: str, *path: str) -> Any:
        if path in self.refused_paths or self.config.is_unknown("tasks", self.task.name, *path):
            return value
        try:
            made = convert.convert_argument(value, hint)
            if made is not value:
                pickle.dumps(made, 5)
        except Exception as error:  # noqa: BLE001  a type of the user's that cannot be pickled may raise anything
            unfit = isinstance(error, convert.UnfitValue)
            wrong = str(error) if unfit else f"cannot be sent to a worker: {clean_text(str(error), 200)}"
            text = f"{quote_name(parameter)} of {self._describe_function()} {wrong}"
            self._add_problem("E304", text, *path, VALUE_PART)
            return value
        return made


def _required_names(parameters: Iterable[inspect.Parameter]) -> str:
    return ", ".join(
        quote_name(each.name) for each in parameters if each.kind not in _OPEN and each.default is each.empty
    )


def _annotated_callable(target: Any) -> Any:
    while hasattr(target, "func") and hasattr(target, "keywords"):  # functools.partial
        target = target.func
    if inspect.isclass(target):
        return target.__init__ if hasattr(target.__init__, "__annotations__") else target.__new__
    return target if inspect.isroutine(target) else type(target).__call__  # an instance


def _find_exception_problems(config: Config, task: TaskConfig, function: TaskFunction) -> Iterator[Problem]:
    """Yield what is wrong with the names in `retry_on`, which workers compare with the names of what was raised."""
    if not task.retry_on:
        return
    module = getattr(inspect.unwrap(function.obj), "__module__", None) or function.reference.module
    space = dict(vars(sys.modules[module])) if module in sys.modules else {}
    for number, word in enumerate(task.retry_on):
        own = config.locations.get(("tasks", task.name, "retry_on"))
        table = ("tasks", task.name) if own else ("defaults", "task")
        place = config.place(*table, "retry_on", str(number))
        found = _resolve_exception(word, space)
        text = f"task {quote_name(task.name)} retries on {quote_name(word)}"
        if found is _MISSING:
            known = [one for one, value in {**vars(builtins), **space}.items() if _is_exception(value)]
            hint = did_you_mean(word, known) or "write it as `package.module.Name`"
            yield Problem("E307", f"{text}, which is not known", place, hint=hint)
        elif not _is_exception(found):
            yield Problem("E307", f"{text}, which is not an exception", place)
        elif word not in {found.__name__, found.__qualname__, full := f"{found.__module__}.{found.__qualname__}"}:
            text += f", whose own name is {quote_name(full)}"
            yield Problem("E307", text, place, hint=f"did you mean `{clean_text(full)}`?")


def _resolve_exception(word: str, space: dict[str, Any]) -> Any:
    """Return what a name means: a built-in, a name of the function's module or of one it imports, or a dotted one."""
    if "." not in word:
        found = space.get(word, getattr(builtins, word, _MISSING))
        if found is not _MISSING:
            return found
        modules = [value for value in space.values() if issubclass(type(value), types.ModuleType)]
        return next((vars(each)[word] for each in modules if _is_exception(vars(each).get(word))), _MISSING)
    first, *rest = word.split(".")
    found = space.get(first, _MISSING)
    for part in rest:
        found = getattr(found, part, _MISSING)
    if found is not _MISSING:
        return found
    import pkgutil  # few files name an exception of a module that theirs has not

    try:
        return pkgutil.resolve_name(word)
    except Exception:  # noqa: BLE001  a package that does not import is not there
        return _MISSING


def _is_exception(found: Any) -> bool:
    # By what it is, not by what it says: proxies raise when they are asked.
    return issubclass(type(found), type) and issubclass(found, BaseException)


def find_std_problems(
    config: Config, task: TaskConfig, function: TaskFunction, arguments: Arguments
) -> Iterator[Problem]:
    """Yield the problems of a task that calls one of them; `arguments` are its own, converted."""
    if task.mode == "process" or (task.mode is None and function.options.get("mode") != "thread"):
        yield from _check_descriptors(config, task, arguments)
    if not _is_std(function, _READS | _WRITES):
        return
    given = _path_argument(arguments)
    writes = function.name in _WRITES
    stdin = not writes and (given == "-" or _parse_descriptor(given) == 0)
    at = config.place("tasks", task.name, "call")
    if stdin and config.file == toml.STDIN:
        text = f"task {quote_name(task.name)} would read standard input, from which this file itself was read"
        yield Problem("E304", text, at, hint="name the file: runner run FILE")
    if task.mode == "process" and (stdin or writes):
        output = "writes data to standard output" if given == "-" else "writes a file whole or not at all"
        does = "reads standard input" if stdin else output
        place = config.place("tasks", task.name, "mode") if is_set_in_file(config, task.name, "mode") else at
        text = f"task {quote_name(task.name)} {does}, which only a thread can"
        yield Problem("E304", text, place, hint='say `mode = "thread"`, or nothing: its function declares it')
    has_file = given != "-" or bool(arguments[1].get("joblog"))
    if len(task.workers) > 1 and (stdin or (writes and has_file)):
        does = "reads standard input" if stdin else "writes one file"
        place = config.place("tasks", task.name, "workers")
        yield Problem("E304", f"task {quote_name(task.name)} {does}: it can have one worker only", place)
    if task.lifespan is not None and writes and function.name != "write_output":
        text = f"task {quote_name(task.name)} writes one file: its worker cannot be replaced during the run"
        yield Problem("E304", text, config.place("tasks", task.name, "lifespan"))
    fields = arguments[1].get("fields")
    if isinstance(fields, list):
        text, place = f"the columns of task {quote_name(task.name)}", config.place("tasks", task.name, "with", "fields")
        for double in dict.fromkeys(each for each in fields if fields.count(each) > 1):
            yield Problem("E304", f"{text} have {quote_name(double)} twice", place)
        if not fields:
            yield Problem("E304", f"{text} are none", place)


def _is_std(function: TaskFunction, names: set[str]) -> bool:
    return function.reference.module == "runner.std" and function.name in names


def _path_argument(arguments: Arguments) -> str:
    args, kwargs = arguments
    return str(args[0] if args else kwargs.get("path", "-"))


def _parse_descriptor(path: str) -> int | None:
    from runner.std.targets import fd_of_path  # most files need none of `std`

    return fd_of_path(path)


def _check_descriptors(config: Config, task: TaskConfig, arguments: Arguments) -> Iterator[Problem]:
    """`<(command)` gives runner a pipe, and a path that means another thing, or nothing, in every other process."""
    args, kwargs = arguments
    given = {("args", str(at)): value for at, value in enumerate(args)}
    given |= {("with", word): value for word, value in kwargs.items()}
    for path, value in given.items():
        if isinstance(value, (str, Path)) and str(value).startswith(("/dev/fd/", "/proc/self/fd/")):
            number = _parse_descriptor(str(value))
            if number is not None and number not in _OWN:
                named = quote_name(task.name)
                text = f"{quote_name(str(value))} is a descriptor of runner itself, and task {named} runs in others"
                hint = 'say `mode = "thread"`, or give it a file or a named pipe'
                yield Problem("E304", text, config.place("tasks", task.name, *path, VALUE_PART), hint=hint)


def find_file_clashes(
    config: Config, functions: Mapping[str, TaskFunction], arguments: Mapping[str, Arguments]
) -> Iterator[Problem]:
    """Yield files that two tasks write, by whatever names: each would replace what the other has written."""
    writers: dict[Hashable, str] = {}
    for word, given in arguments.items():
        unknown = any(config.is_unknown("tasks", word, key) for key in ("args", "with"))
        if unknown or not _is_std(functions[word], _WRITES):
            continue
        path = _path_argument(given)
        file = _identify_file(path)
        if file is not None and (other := writers.setdefault(file, word)) != word:
            text = f"tasks {quote_name(other)} and {quote_name(word)} both write the file {quote_name(path)}"
            spot = ("args", "0", VALUE_PART) if given[0] else ("with", "path", VALUE_PART)
            hint = "give each its own file, or let both write to one queue, and one task to the file"
            yield Problem("E317", text, config.place("tasks", word, *spot), hint=hint)


def _identify_file(path: str) -> Hashable | None:
    """Return the same for all names of one file; None for standard output, a pipe or a device."""
    if path == "-" or _parse_descriptor(path) is not None:
        return None
    try:
        if Path(path).exists() and not Path(path).is_file():
            return None
        target = Path(os.path.realpath(path))
        word, folder = target.name, target.parent
        swapped = folder.with_name(folder.name.swapcase())
        if word != word.swapcase() and swapped != folder and swapped.exists() and swapped.samefile(folder):
            import unicodedata  # the file system ignores the case of letters

            word = unicodedata.normalize("NFC", word.casefold())
        there = folder.stat()
    except (OSError, ValueError):  # it cannot be written either, and the task will say so
        return path
    return there.st_dev, there.st_ino, word
