"""Imports and forks: what an import makes is each worker's own, and no file of the user's is taken for another's."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from edges import import_state
from faults import harness
from faults.sinks import collector

from runner.engines import spawn
from runner.errors import PluginError
from runner.local_modules import LOCAL_PREFIX
from runner.plugins import PluginPolicy, PluginSet, discovery
from runner.tasks import load_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

METHODS = pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
NUMBERS = """
    [queues]
    n = {}
    [tasks.src]
    call = "std.range"
    args = [0, 5]
    outputs = ["n"]
    [tasks.work]
    mode = "process"
    inputs = ["n"]
"""


def results(outcome: Any) -> list[Any]:
    """What the workers of the only task returned, whichever they were."""
    assert outcome.exit == 0, outcome
    [task] = outcome.json["tasks"]
    return [json.loads(text) for text in task["results"].values()]


# -- what an import makes --------------------------------------------------------------------------


def busy() -> None:
    import random
    import threading
    import time
    import uuid
    from concurrent.futures import ThreadPoolExecutor

    from runner import task

    lock, own, made = threading.Lock(), random.Random(), uuid.uuid4().hex
    pool = ThreadPoolExecutor(1)
    pool.submit(int).result()

    def hold() -> None:
        while True:
            with lock:
                time.sleep(0.02)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()

    @task
    def work(item=None):
        assert lock.acquire(timeout=20)
        lock.release()
        assert holder.is_alive()
        assert pool.submit(int).result(20) == 0
        return [made, own.random(), random.random()]


@METHODS
def test_threads_locks_executors_and_numbers_made_at_import_are_each_workers_own(project, method):
    made = project({"plugins/work.py": busy, "tasks.toml": "[tasks.work]\nworkers = 3"})
    found = results(made.run("--json", env={spawn.START_METHOD_VARIABLE: method}))
    assert [len(set(each)) for each in zip(*found, strict=True)] == [3, 3, 3]


def test_numpys_generators_are_each_workers_own(project):
    pytest.importorskip("numpy")
    made = project(
        {
            "plugins/work.py": """
                import numpy as np
                from runner import task
                own = np.random.default_rng()
                @task
                def work():
                    return [int(np.random.randint(10**9)), int(own.integers(10**9))]
            """,
            "tasks.toml": "[tasks.work]\nworkers = 2",
        }
    )
    one, other = results(made.run("--json"))
    assert one[0] != other[0]
    assert one[1] != other[1]


@pytest.mark.slow  # the quick neighbour starts a thread itself
def test_polars_at_import(project):
    pytest.importorskip("polars")
    made = project(
        {
            "plugins/work.py": """
                import polars as pl
                from runner import task
                table = pl.DataFrame({"a": range(1000), "g": [i % 7 for i in range(1000)]})
                first = table.group_by("g").agg(pl.col("a").sum()).sort("g")
                @task
                def work(n):
                    assert table.group_by("g").agg(pl.col("a").sum()).sort("g").equals(first)
            """,
            "tasks.toml": NUMBERS,
        }
    )
    outcome = made.run("--json")
    assert [task["done"] for task in outcome.json["tasks"]] == [0, 5], outcome


@METHODS
def test_env_is_there_at_the_first_import(project, method):
    """Of the zone, too, which the C library has looked at before; and of what a module cannot be imported without."""
    text = """
        import os, time
        from runner import task
        MODE = os.environ["MODE"]
        @task
        def work(level: int = int(os.environ.get("LEVEL", "1"))):
            return [MODE, level, time.strftime("%Z")]
    """
    env = '{ MODE = "production", LEVEL = "9", TZ = "Asia/Tokyo" }'
    made = project({"plugins/work.py": text, "tasks.toml": f"[tasks.work]\nenv = {env}"})
    assert results(made.run("--json", env={spawn.START_METHOD_VARIABLE: method})) == [["production", 9, "JST"]]
    made.write({"plugins/work.py": text.replace('"MODE"', '"NO_MODE"')})
    assert "E310" in made.run("tasks.toml", verb="check").out


def test_a_worker_whose_plugin_ends_it_at_import_says_so(project):
    made = project(
        {
            "plugins/work.py": """
                import os, sys
                from runner import task
                if "LICENCE" in os.environ:
                    sys.exit("no licence")
                @task
                def work(): pass
            """,
            "tasks.toml": '[tasks.work]\nenv = { LICENCE = "" }',
        }
    )
    outcome = made.run()
    assert outcome.exit == 1
    assert "raised SystemExit(no licence)" in outcome.err
    assert 'sys.exit("no licence")' in outcome.err
    assert "life.py" not in outcome.err


# -- whose file it is ------------------------------------------------------------------------------

#: Modules that are imported before runner's first line, of runner's `python -m` itself, and in workers.
NAMES = "typing re enum random token string json logging select signal inspect struct socket dis pickle queue threading"
MORE = "multiprocessing subprocess site sitecustomize numpy typer rich pluggy psutil click tempfile selectors io os"


@METHODS
def test_files_named_like_others_modules_shadow_nothing(project, method):
    names = [*NAMES.split(), *MORE.split()]
    files = {f"{folder}{name}.py": "raise SystemExit('mine')" for name in names for folder in ("", "plugins/")}
    work = "import json, runner\nfrom runner import task\n@task\ndef work(n): json.dumps(n)\n@task\ndef see(n): json.dumps(n)"
    tasks = NUMBERS.replace("n = {}", 'n = { fanout = "copy" }') + '[tasks.see]\nmode = "thread"\ninputs = ["n"]'
    made = project({**files, "plugins/work.py": work, "tasks.toml": tasks})
    outcome = made.run("--json", env={spawn.START_METHOD_VARIABLE: method})
    assert outcome.exit == 0, outcome
    assert {task["name"]: task["done"] for task in outcome.json["tasks"]} == {"src": 0, "work": 5, "see": 5}


def test_python_m_imports_nothing_from_the_current_folder(project, tmp_path):
    """What is beside the file can be called; it is found last."""
    text = 'def work(): return "mine"'
    tasks = '[tasks.a]\ncall = "aside:work"\n[tasks.b]\ncall = "json:dumps"\nargs = [1]\n'
    made = project(
        {"aside.py": text, "json.py": text, "sub/tasks.toml": "[tasks.a]\ncall = 'aside:work'", "t.toml": tasks}
    )
    outcome = made.run("t.toml", "--json")
    assert [task["results"] for task in outcome.json["tasks"]] == [{"a": '"mine"'}, {"b": '"1"'}]
    assert made.run("sub/tasks.toml").exit == 3  # it is not beside that file


# -- pools -----------------------------------------------------------------------------------------


def pooled() -> None:
    import multiprocessing as mp
    import os
    from concurrent.futures import ProcessPoolExecutor
    from dataclasses import dataclass

    from runner import task

    from . import helper
    from .pack.inner import innermost

    @dataclass
    class Point:
        x: int

        def double(self):
            return Point(2 * self.x)

    def square(x: int) -> int:
        return x * x

    @task
    def work():
        with ProcessPoolExecutor(1, mp_context=mp.get_context(os.environ["KIND"])) as pool:
            functions = [square, helper.cube, innermost]
            return [list(pool.map(each, [2])) for each in functions], [p.x for p in pool.map(Point.double, [Point(4)])]


@pytest.mark.parametrize("mode", ["process", pytest.param("thread", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind", ["spawn", *(pytest.param(each, marks=pytest.mark.slow) for each in ("fork", "forkserver"))]
)
def test_pools_in_tasks_find_what_plugins_define(project, kind, mode):
    made = project(
        {
            "plugins/work.py": pooled,
            "plugins/helper.py": "def cube(x): return x ** 3",
            "plugins/pack/__init__.py": "",
            "plugins/pack/inner.py": "def innermost(x): return -x",
            "tasks.toml": f'[tasks.work]\nmode = "{mode}"',
            # A script without a guard: a child that executed it again would start a run of its own.
            "script.py": "import sys\nfrom runner.__main__ import main\nsys.exit(main())",
        }
    )
    assert results(made.run("--json", env={"KIND": kind})) == [[[[4], [8], [-2]], [8]]]
    if mode == "thread":
        command = [sys.executable, "script.py", "run", "--json"]
        env = {**os.environ, "KIND": kind}
        done = subprocess.run(command, cwd=made.path, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["plain", "v1.2", "a b", "100%2E", "naïve.py"])
def test_a_plugins_pickles_can_be_read_wherever_runner_is(tmp_path, folder):
    where = tmp_path / folder
    where.mkdir()
    (where / "x.y.py").write_text("class Thing: pass")
    with plugins_of(tmp_path, named=(folder,)) as found:
        [plugin] = found.local_plugins
        assert (plugin.name, plugin.error) == ("x.y", "")
        data = pickle.dumps(load_module(plugin.module, plugin.path).Thing())
    code = "import pickle, sys; print(type(pickle.load(sys.stdin.buffer)).__name__)"
    done = subprocess.run([sys.executable, "-P", "-c", code], input=data, capture_output=True, timeout=60, check=False)
    assert done.stdout == b"Thing\n", done.stderr


# -- runs in pools ---------------------------------------------------------------------------------

INSIDE = """
import multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor

def go(mode):
    import runner
    return [runner.run("tasks.toml", set={"tasks.work.mode": mode}, quiet=True).exit_code for _ in range(2)]

if __name__ == "__main__":
    kind, method = sys.argv[1:]
    context = multiprocessing.get_context(method)
    modes = ["process", "thread"]
    if kind == "executor":
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            print(list(pool.map(go, modes)))
    elif kind == "pool":
        with context.Pool(1) as pool:
            print(pool.map(go, modes))
    else:  # a copy of a process that has a fork server
        process = context.Process(target=int)
        process.start()
        process.join()
        pid = os.fork()
        if not pid:
            try:
                print([go(mode) for mode in modes], flush=True)
            finally:
                os._exit(0 if sys.exc_info()[0] is None else sys.excepthook(*sys.exc_info()) or 1)
        os.waitpid(pid, 0)
"""
CASES = [("executor", "spawn"), ("copy", "forkserver")]
REST = [("pool", "fork"), ("executor", "fork"), ("executor", "forkserver"), ("pool", "spawn"), ("pool", "forkserver")]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "method"), [*CASES, *(pytest.param(*each, marks=pytest.mark.slow) for each in REST)])
def test_a_run_in_a_worker_of_a_pool(project, kind, method):
    made = project({"prog.py": INSIDE, "plugins/work.py": busy, "tasks.toml": NUMBERS})
    command = [sys.executable, "prog.py", kind, method]
    done = subprocess.run(command, cwd=made.path, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.splitlines()[-1:] == ["[[0, 0], [0, 0]]"], done


@pytest.mark.slow
def test_a_run_in_a_run(project):
    """In a worker process it is a process's only one; in a thread of the command it is the second."""
    text = """
        import runner
        @runner.task
        def nested():
            return runner.run("inner.toml", quiet=True).exit_code
        @runner.task
        def work(): pass
    """
    made = project({"plugins/work.py": text, "inner.toml": "[tasks.work]", "tasks.toml": "[tasks.nested]"})
    assert results(made.run("--json")) == [0]
    outcome = made.run("--set", "tasks.nested.mode=thread")
    assert outcome.exit == 1
    assert "UsageError: a run is under way in this process" in outcome.err


# -- folders of plugins ----------------------------------------------------------------------------


@contextmanager
def plugins_of(folder: Path, named: tuple[str, ...] | None = None) -> Iterator[PluginSet]:
    """The plugins of a file in the folder, imported here; and this process as it was."""
    path = list(sys.path)
    try:
        yield PluginSet(folder, named, PluginPolicy.read({}))
    finally:
        sys.path[:] = path
        for name in [name for name in sys.modules if name.startswith(LOCAL_PREFIX)]:
            del sys.modules[name]


TASK = "from runner import task\n@task\ndef {}(item): return {}\n"


def litter(tmp_path: Path) -> None:
    """What editors, archives and mounts leave behind, beside four plugins."""
    folder = tmp_path / "plugins"
    (folder / "..2026" / "x").mkdir(parents=True)
    (folder / "..2026" / "mounted.py").write_text(TASK.format("mounted", 1))
    (folder / "..data").symlink_to("..2026")
    (folder / "mounted.py").symlink_to("..data/mounted.py")
    for name in (".#work.py", "gone.py"):
        (folder / name).symlink_to("someone@host.123:456")
    (folder / "._work.py").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        ")
    for name in (".hidden.py", "work.py~", "#work.py#", "4913", "__main__.py", "__init__.py"):
        (folder / name).write_text("raise SystemExit('not a plugin')")
    (folder / "round.py").symlink_to("round.py")
    os.mkfifo(folder / "pipe.py")
    for name in ("only/__pycache__", "plain", "folder.py", ".git", "__pycache__"):
        (folder / name).mkdir(parents=True)
    for name in ("work", "my-plugin", "1"):
        (folder / f"{name}.py").write_text(TASK.format(f"of_{name[-1]}", 1))


def test_a_folder_as_editors_archives_and_mounts_leave_it(tmp_path):
    litter(tmp_path)
    for named in (None, ("plugins",)):
        with plugins_of(tmp_path, named) as found:
            assert [each.name for each in found.local_plugins] == ["1", "mounted", "my-plugin", "work"]
            assert not [each.error for each in found.local_plugins if each.error]
            assert found.find_function("my-plugin.of_n").name == "of_n"
    with plugins_of(tmp_path, ("plugins/pipe.py",)) as found:
        assert [each.error_line.split(": ")[-1] for each in found.local_plugins] == [
            f"{tmp_path}/plugins/pipe.py is not a Python file"
        ]


def links(tmp_path: Path) -> None:
    for folder in ("plugins", "shared/pack"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "shared/impl_v2.py").write_text("from .beside import H\n" + TASK.format("cook", "H"))
    (tmp_path / "plugins/beside.py").write_text("H = 7")
    (tmp_path / "shared/pack/__init__.py").write_text("from .inner import bake")
    (tmp_path / "shared/pack/inner.py").write_text(TASK.format("bake", 8))
    (tmp_path / "plugins/kitchen.py").symlink_to("../shared/impl_v2.py")
    (tmp_path / "plugins/oven").symlink_to("../shared/pack")


def test_a_link_is_the_plugin_that_its_own_name_and_place_say(tmp_path):
    links(tmp_path)
    for named in (None, ("plugins/kitchen.py", "plugins/oven")):
        with plugins_of(tmp_path, named) as found:
            assert [each.name for each in found.local_plugins if each.functions] == ["kitchen", "oven"]
            assert found.find_function("kitchen.cook").obj(0) == 7
            assert found.find_function("oven.bake").obj(0) == 8


@pytest.mark.parametrize(
    "text",
    ["x(", "raise SystemExit(3)", "raise KeyboardInterrupt", "raise GeneratorExit", "for i in range(3) print(i)"],
)
def test_a_broken_file_that_is_not_in_use_takes_nothing_down(tmp_path, text):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/broken.py").write_text(text)
    (tmp_path / "plugins/work.py").write_text(TASK.format("work", 1))
    with plugins_of(tmp_path) as found:
        assert [each.status for each in found.local_plugins] == ["broken", "loaded"]
        assert found.find_function("range").plugin == "std"
        assert found.find_function("work").plugin == "work"
    for may_be_meant in ("def range(", "names = ['range']; x(", "from .x import *; x("):
        (tmp_path / "plugins/broken.py").write_text(may_be_meant)
        with plugins_of(tmp_path) as found, pytest.raises(PluginError, match="`broken` could not be loaded"):
            found.find_function("range")


def test_ctrl_c_at_a_plugins_import_is_ctrl_c(tmp_path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/slow.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)")
    with pytest.raises(KeyboardInterrupt), plugins_of(tmp_path):
        pass


# -- bugs that these notice ------------------------------------------------------------------------


def import_states() -> None:
    """A module's state, in three workers of one task."""
    collected: list[Any] = []
    source = harness.task("source", import_state.made, outputs="a", workers=3, args=(1,))
    harness.run(harness.plan([source, collector(collected, "a")]), collected=None)
    assert sorted(map(len, collected)) == [1, 1, 1]
    assert len({made for [made] in collected}) == 3, collected


def in_a_littered_folder(tmp_path: Path) -> None:
    test_a_folder_as_editors_archives_and_mounts_leave_it(tmp_path)


def preload_everything(references: Any) -> tuple[list[str], list[str]]:
    return [each.module for each in references], []


def followed(path: Path) -> Any:
    return find_local(path.resolve())


find_local = discovery._local_plugin

BUGS: dict[str, tuple[Any, str, Any, Callable[[Path], None]]] = {
    "a user's module is imported before the fork": (
        spawn,
        "_preload_targets",
        preload_everything,
        lambda _: import_states(),
    ),
    "every name with .py is a plugin": (
        discovery,
        "_is_module",
        lambda path: path.suffix == ".py",
        in_a_littered_folder,
    ),
    "links are followed": (
        discovery,
        "_local_plugin",
        followed,
        test_a_link_is_the_plugin_that_its_own_name_and_place_say,
    ),
    "a broken file may offer anything": (
        discovery.Plugin,
        "may_have_function",
        lambda self, _: bool(self.error),
        lambda path: test_a_broken_file_that_is_not_in_use_takes_nothing_down(path, "x("),
    ),
}


def test_without_a_bug_a_modules_state_is_each_workers_own():
    import_states()


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_noticed(bug, monkeypatch, tmp_path):
    where, attribute, change, notice = BUGS[bug]
    monkeypatch.setattr(where, attribute, change)
    with pytest.raises((AssertionError, PluginError)):
        notice(tmp_path)


INTERRUPTED_IMPORT = """
import os, signal, sys

class Interrupt:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == os.environ["INTERRUPTED"]:
            sys.stderr.write("interrupted\\n")
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupt)
"""


@pytest.mark.parametrize("module", ["runner.gc_tuning", "runner.cli.streams", "typer", "runner.cli.run"])
def test_ctrl_c_while_the_command_is_imported_ends_it_without_a_traceback(project, module):
    made = project({"sitecustomize.py": INTERRUPTED_IMPORT, "tasks.toml": "[tasks.a]\ncall = 'builtins:print'\n"})
    outcome = made.start(env={"PYTHONPATH": str(made.path), "INTERRUPTED": module}).finish()
    assert (outcome.exit, outcome.out, outcome.err) == (130, "", "interrupted\n"), outcome
