"""The functions that tests call."""

from __future__ import annotations

import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runner import api
from runner.config.overrides import select_tasks
from runner.config.resolved import to_toml
from runner.structs import dataclass
from runner.testing.functions import FunctionModule
from runner.testing.running import Run, Running, TaskRun, start_run

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

_LIMIT = 30.0


def run_task(
    function: Callable[..., Any],
    items: Iterable[Any] | None = None,
    *,
    mode: Literal["thread", "process"] = "thread",
    workers: int | list[str] = 1,
    args: Collection[Any] = (),
    with_: Mapping[str, Any] | None = None,
    ports: Collection[str] | None = None,
    timeout: float = _LIMIT,
    **options: Any,
) -> TaskRun:
    """Run one task function over `items` (None: it has no inputs), and return its outputs.

    `args` and `with_` are what the file would say; so are `options`: `attempts`, `batch`, `ordered`, `on_error`, ...
    `ports` names the outputs; by default there is one, and none for a function without items that does not yield.
    `timeout` limits the whole run, in seconds: TimeoutError. (A task's own key `timeout` is spelt `item_timeout`.)
    In process mode the function must be found by its name in its module, in threads anything callable will do.
    """
    functions = FunctionModule()
    name = functions.add_function(function, mode)
    outputs = functions.default_ports(function, items is not None) if ports is None else tuple(ports)
    if "item_timeout" in options:
        options["timeout"] = options.pop("item_timeout")
    table: dict[str, Any] = {**options, "call": functions.call_string(name), "mode": mode, "workers": workers}
    table |= {"args": list(args), "with": dict(with_ or {}), "outputs": {port: f"out-{port}" for port in outputs}}
    feed, queues = {}, [f"out-{port}" for port in outputs]
    if items is not None:
        feed["items"], table["inputs"] = items, ["items"]
        if options.get("on_error", "dead") == "dead":
            table["dead"] = "dead"
            queues.append("dead")
    with functions:
        run = _run_one(name, table, feed, queues, timeout, functions)
    dead = run.outputs.pop("dead", [])
    by_port = {queue.removeprefix("out-"): found for queue, found in run.outputs.items()}
    return TaskRun(run.result, by_port, run.events, run.out, run.err, dead)


def _run_one(
    name: str,
    table: dict[str, Any],
    feed: dict[str, Iterable[Any]],
    queues: list[str],
    timeout: float,
    functions: FunctionModule,
) -> Run:
    """Run a file with one task; a mistake in its table is shown as the line that a file would have."""
    text = f"[tasks.{to_toml(name)}]\n" + "".join(f"{key} = {to_toml(value)}\n" for key, value in table.items())
    text += "[queues]\n" + "".join(f"{queue} = {{}}\n" for queue in [*queues, *feed])
    with tempfile.TemporaryDirectory(prefix="runner-test-") as folder:
        path = Path(folder, f"run_task({name})")
        path.write_text(text, encoding="utf-8")
        config = api.read_config(path, None, None)
        return start_run(config, feed, queues, timeout, functions.with_importable_references).finish()


def run_file(path: str | Path, **given: Any) -> Run:
    """Run a file as it is; the arguments are those of `Project.run`."""
    path = Path(path)
    return Project(path.parent).run(path.name, **given)


@dataclass(frozen=True)
class Project:
    """A folder with a file of tasks and its plugins."""

    path: Path

    def write(self, files: Mapping[str, str]) -> Project:
        """Write files (names may lead into folders); their text is dedented."""
        for name, text in files.items():
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(textwrap.dedent(text.lstrip("\n")), encoding="utf-8")
        return self

    def run(self, file: str = "tasks.toml", **given: Any) -> Run:
        """Run a file to its end.

        `params` and `set` as in `runner.run`; `only` and `skip` name tasks; `timeout` (seconds) limits the run.
        `feed` puts items into queues: `{"paths": ["a", "b"]}`; a source all of whose queues are fed is left out.
        `collect` names queues whose items are wanted: a queue without a reader gets one, of others it is a copy.
        """
        return self.start(file, **given).finish()

    def start(
        self,
        file: str = "tasks.toml",
        *,
        params: Mapping[str, Any] | None = None,
        set: Mapping[str, Any] | None = None,  # noqa: A002  the name of the option
        feed: Mapping[str, Iterable[Any]] | None = None,
        collect: Collection[str] = (),
        only: Collection[str] = (),
        skip: Collection[str] = (),
        timeout: float = _LIMIT,
    ) -> Running:
        """Start a file, and return while it runs; the arguments are those of `run`. `finish` it in any case."""
        config = select_tasks(api.read_config(self.path / file, params, set), only, skip)
        return start_run(config, dict(feed or {}), list(collect), timeout)
