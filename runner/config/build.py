"""The whole way from a file, and what a command changes of it, to a `Config`; every problem is reported at once."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner.config import grammar, toml, value_types
from runner.config.params import read_params
from runner.config.reader import Reader, TooManyProblems, describe_value
from runner.config.source_map import VALUE_PART, SourceMap
from runner.config.toml import parse_value
from runner.config.units import plain_value
from runner.errors import ConfigError, UsageError
from runner.model import AgentSettings, Config, GivenValues, QueueConfig, RaySettings, RunSettings, TaskConfig
from runner.problems import Location, Problem, quote_name, render_problems
from runner.text import clean_text, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path


def examine(
    source: str | Path,
    *,
    params: Mapping[str, str] | None = None,
    sets: Sequence[tuple[str, str]] = (),
    env: Mapping[str, str] | None = None,
    lenient: bool = False,
) -> Config:
    """Read a file (`-`: standard input); what is wrong in it is in `problems` and `unknown_paths` of the Config.

    `params` are `-p NAME=VALUE`, `sets` are `--set PATH=VALUE`, `env` is where `env` of a param looks (os.environ).
    `lenient`: a required param without a value is a warning (nothing is going to run). Raises `ConfigError` only when
    there is no file to speak of: it cannot be read, is not TOML, or has too many errors.
    """
    file = toml.STDIN if str(source) == "-" else str(source)
    places = SourceMap(file, "")
    try:
        folder, places.text = toml.read(source)
        raw = toml.parse_toml(places.text)
    except toml.UnreadableFile as error:
        place = Location(file, error.line, error.column)
        shown = error.shown or places.source_line(place)
        if "secret" in shown:  # what cannot be read cannot be known not to be one
            shown = _QUOTED_TEXT.sub(lambda found: "*" * len(found[0]), shown)
        problem = Problem(error.code, error.message, place, "error", error.hint, shown)
        raise ConfigError(render_problems([problem]), [problem]) from None
    reader = Reader(places, grammar.HOMES)
    try:
        _apply_sets(raw, sets, reader)
        builder = _Builder(raw, reader)
        builder.params.resolve_values(params or {}, os.environ if env is None else env, lenient=lenient)
        config = builder.config(folder)
    except TooManyProblems:
        found = reader.finished_problems()
        raise ConfigError(render_problems(found), found) from None
    variables = os.environ if env is None else env
    from_environment = {
        name: variables[param.env]
        for name, param in config.declared_params.items()
        if param.env is not None and config.param_sources.get(name) == f"environment variable {param.env}"
    }
    return replace(
        config,
        problems=tuple(reader.finished_problems()),
        unknown_paths=frozenset(reader.unknown_paths),
        given=GivenValues({**(params or {}), **from_environment}, tuple(sets)),
    )


def select_tasks(config: Config, only: Collection[str] | None, skip: Collection[str] | None) -> Config:
    """Return the file with only some of its tasks enabled: `--task` and `--skip`; UsageError for unknown names."""
    for word in (*(only or ()), *(skip or ())):
        if word not in config.tasks:
            raise UsageError(f"unknown task {quote_name(word)}; {did_you_mean(word, config.tasks)}".rstrip("; "))
    wanted = {word for word in config.tasks if (not only or word in only) and word not in (skip or ())}
    if len(wanted) == len(config.tasks):
        return config
    tasks = {word: replace(task, enabled=task.enabled and word in wanted) for word, task in config.tasks.items()}
    given = replace(config.given, only=tuple(only or ()), skip=tuple(skip or ()))
    return replace(config, tasks=tasks, given=given)


_QUOTED_TEXT = re.compile(r"\"[^\"]*\"?|'[^']*'?")
#: Each task has workers, each queue a place in every drawing, each secret is looked for in all that is said; what is
#: beyond was made by a mistake.
MAX_TABLES = 2000
_SECRET_KEYS = {("args",), ("with",), ("env",)}


def _apply_sets(raw: dict[str, Any], sets: Sequence[tuple[str, str]], reader: Reader) -> None:
    """Set the values of `--set` in `raw`; their locations are the options themselves."""
    for word, text in sets:
        path = tuple(word.split("."))
        option = f"--set {clean_text(word, 60)}"
        if not all(path) or len(path) > 16:
            reader.source_map.given[(option,)] = option
            reader.add_problem("E110", f"{quote_name(word)} is not a path such as `tasks.bake.workers`", (option,))
            continue
        reader.source_map.given[path] = option
        table: Any = raw
        for end, part in enumerate(path[:-1], 1):
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                message = f"{quote_name('.'.join(path[:end]))} is not a table, so it has no key {quote_name(path[end])}"
                reader.add_problem("E110", message, path)
                break
        else:
            made, declared = parse_value(text), table.get(path[-1])
            if path[0] == "params" and len(path) == 2 and isinstance(declared, dict) and not isinstance(made, dict):
                declared.pop("required", None)  # a param keeps its type, bounds and secrecy
                declared["default"] = made
            else:
                table[path[-1]] = made


class _Builder:
    """One file that is being converted."""

    def __init__(self, raw: dict[str, Any], reader: Reader) -> None:
        self.reader = reader
        for word in raw:  # a misspelt `[params]` must not make every reference to a param an error
            if word not in grammar.TOP and did_you_mean(word, grammar.TOP) == "did you mean `params`?":
                reader.unknown_paths.add(("params",))
        self.params = read_params(self._named_tables(raw, "params"), reader)
        raw.pop("params", None)
        self.raw = raw

    def config(self, folder: Path) -> Config:
        """Return everything, converted; with reported errors, the result has holes."""
        raw: dict[str, Any] = {
            # In tests `${item}` is the item that a stub is given.
            key: value if key == "tests" else self.params.fill_references(value, (key,))
            for key, value in self.raw.items()
        }
        self._report_shown_secrets()
        queues, tasks = self._named_tables(raw, "queues"), self._named_tables(raw, "tasks")
        for table, kind, names in (("queues", "queue", queues), ("tasks", "task", tasks)):
            for name in names:
                self.reader.check_name(name, kind, (table, name))
        self.reader.names = {"queue": queues, "task": tasks, "param": self.params.values | self.params.declared}
        top = {key: value for key, value in raw.items() if key not in {"queues", "tasks"}}
        made = self.reader.convert_table(top, grammar.TOP, (), "the file")
        defaults = made.get("defaults", {})
        config = Config(
            file=self.reader.source_map.file,
            folder=folder,
            title=made.get("title", ""),
            run=RunSettings(**made.get("run", {})),
            agents=AgentSettings(**made.get("agents", {})),
            ray=RaySettings(**made.get("ray", {})),
            params={word: plain_value(value) for word, value in self.params.values.items()},
            queues={word: self._make_queue(word, table, defaults.get("queue", {})) for word, table in queues.items()},
            tasks={word: self._make_task(word, table, defaults.get("task", {})) for word, table in tasks.items()},
            plugins=made.get("plugins"),
            tests=made.get("tests", ()),
            locations=self.reader.source_map,
            unused_params=tuple(word for word in self.params.declared if word not in self.params.used_names),
            declared_params=self.params.declared,
            param_sources=self.params.value_sources,
            param_references=self.params.references,
            raw_tables=self.raw,
            filled_tables=raw,
        )
        if not tasks and all(problem.severity != "error" for problem in self.reader.problems):
            self.reader.add_problem("E109", "the file has no task", (), "a task is a table `[tasks.NAME]`")
        return config

    def _report_shown_secrets(self) -> None:
        """Report secrets outside of arguments and environments: everything else is shown somewhere."""
        secret = {word for word, param in self.params.declared.items() if param.secret}
        for path, words in self.params.references.items():
            if (path[0] == "tasks" and path[2:3] in _SECRET_KEYS) or path[:3] == ("defaults", "task", "env"):
                continue
            for word in (word for word in words if word in secret):
                text, hint = "is secret, and this would be shown", "a secret may be used in `args`, `with` and `env`"
                self.reader.add_problem("E116", f"param {quote_name(word)} {text}", (*path, VALUE_PART), hint)

    def _named_tables(self, raw: dict[str, Any], word: str) -> dict[str, Any]:
        tables = raw.get(word, {})
        if not isinstance(tables, dict):
            text = f"`{word}` must be a table, not {describe_value(tables)}"
            self.reader.add_problem("E103", text, (word, VALUE_PART))
            return {}
        if len(tables) > MAX_TABLES:
            text = f"the file has {len(tables):,} {word}, and at most {MAX_TABLES:,} make sense"
            self.reader.add_problem("E117", text, ())
            raise TooManyProblems
        return dict(tables)

    def _make_queue(self, word: str, raw: Any, defaults: dict[str, Any]) -> QueueConfig:
        made = self.reader.convert_table(raw, grammar.QUEUE, ("queues", word), f"queue {quote_name(word)}")
        given = {**defaults, **made}
        full = given.get("full", "wait")
        return QueueConfig(word, **given, elastic="size" not in given and full == "wait")

    def _make_task(self, word: str, raw: Any, defaults: dict[str, Any]) -> TaskConfig:
        made = {**defaults, **self.reader.convert_table(raw, grammar.TASK, ("tasks", word), f"task {quote_name(word)}")}
        made.setdefault("call", word)
        made.setdefault("on_error", "dead" if made.get("inputs") else "fail")
        made["auto_workers"] = value_types.are_auto_workers(made.get("workers"))
        if "workers" in made:
            chosen = value_types.choose_workers(made["workers"], word, has_inputs=bool(made.get("inputs")))
            made["workers"], made["least_workers"] = chosen
        else:
            made["workers"] = value_types.named_workers(word, 1)
        renamed = {"with": "kwargs", "outputs": "ports"}
        return TaskConfig(word, **{renamed.get(key, key): value for key, value in made.items()})
