"""Large payloads through whole runs: every form of function, both kinds of workers, deaths, and nothing left behind."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from helpers import Project

if TYPE_CHECKING:
    from helpers import Outcome

FUNCTIONS = '''
import asyncio
import os
import signal
from pathlib import Path

import numpy as np
from runner import Context, Inbox, Outbox, task

SIZE = 40_000   # of eight bytes


@task
def arrays(count):
    for number in range(count):
        yield np.full(SIZE, number)


@task
def add_one(array):
    array += 1
    return array


@task
def one_page(array):
    assert array.flags.writeable
    array[3] = -1
    return array


@task
def same(array):
    return array


@task
def twice(array):
    yield array
    array[:] = -7
    yield array


@task
async def later(array):
    await asyncio.sleep(0)
    array[0] += 1000
    return array


@task
def in_batches(arrays):
    for array in arrays:
        array[1] += 1000
        yield array


@task
def boxed(inbox: Inbox, outbox: Outbox):
    for array in inbox:
        array[2] += 1000
        outbox.put(array)


@task
class Keeper:
    """Keeps every array that it is given, and hands each on."""

    def __init__(self):
        self.all = []

    def __call__(self, array):
        self.all.append(array)
        return array

    def __exit__(self, *exc):
        assert [int(array[-1]) for array in self.all] == list(range(len(self.all))), "a kept array has changed"
        assert all((array == array[-1]).all() for array in self.all)

    def __enter__(self):
        return self


@task
def scribble_and_die(array, marks):
    """Writes into what it was given, and is killed: once for each item."""
    whole = bool((array == array[0]).all())
    first = Path(marks) / str(int(array[-1]))
    array[:-1] = -9
    if not first.exists():
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    array[:-1] = array[-1]
    return array if whole else None


@task
def fails_once(array, context: Context):
    whole = bool((array == array[-1]).all())
    array[:-1] = -9
    if context.attempt == 1:
        raise OSError("once")
    array[:-1] = array[-1]
    return array if whole else None


@task
def fails(array):
    array[:] = -5
    raise ValueError("no")


@task
def of_letters(letter):
    return letter.item


@task
def kinds():
    yield b"b" * 300_000
    yield bytearray(b"a" * 300_000)
    yield {"x": b"n" * 300_000, "y": ["t" * 300_000]}
    yield np.asfortranarray(np.arange(60_000).reshape(200, 300))
    yield np.arange(120_000)[::2]
    yield np.zeros((0, 7))
    frozen = np.arange(50_000)
    frozen.flags.writeable = False
    yield frozen


@task
def describe(item):
    if isinstance(item, np.ndarray):
        return [str(item.dtype), item.shape, int(item.sum()), bool(item.flags.writeable), bool(item.flags.f_contiguous)]
    if isinstance(item, dict):
        return [len(item["x"]), len(item["y"][0])]
    return [type(item).__name__, len(item), item[0]]


@task
def say(item):
    import json

    print(json.dumps(item))


@task
def weigh(array):
    values = array.tolist()
    print(f"[{values[0]}, {values[1]}, {values[2]}, {values[3]}, {values[-1]}, {sum(values)}]")


@task
def die_often(array, marks):
    """Its own arena has something in it each time that it dies."""
    number = int(array[-1])
    mark = Path(marks) / str(number)
    if number % 5 == 4 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return array + 0


@task
class Arenas:
    """A sink that says how many arenas its process had at most: open, and mapped."""

    def __init__(self):
        self.most = 0

    def __call__(self, array):
        assert (array == array[-1]).all()
        open_ = {arena(fd) for fd in os.listdir("/proc/self/fd")} - {None}
        with open("/proc/self/maps") as maps:
            mapped = {each.split()[4] for each in maps if "runner-arena" in each}
        self.most = max(self.most, len(open_), len(mapped))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        print(self.most)


def arena(fd):
    """Which one it is, if it is one."""
    try:
        link = f"/proc/self/fd/{fd}"
        return os.stat(link).st_ino if "runner-arena" in os.readlink(link) else None
    except OSError:  # closed meanwhile: threads share their descriptors with runner
        return None


@task
class Last:
    """A sink that keeps only what came last."""

    def __call__(self, item):
        self.item = item
'''
SIZE = 40_000


def line(*tasks: str, queues: str = "", start: str = "") -> str:
    """A file of tasks one behind the other; each is `name mode`, and perhaps the rest of its table.

    With `start`, by which the names of its tasks and queues begin, it can stand in one file with others.
    """
    text = [f"[queues.{start}q{at}]\n{queues}" for at in range(1, len(tasks))]
    for at, task in enumerate(tasks):
        name, mode, *rest = task.split(" ", 2)
        text += [f"[tasks.{start}t{at}]", f'call = "{name}"', f'mode = "{mode}"', *rest]
        if at:
            text.append(f'inputs = ["{start}q{at}"]')
        if at < len(tasks) - 1:
            text.append(f'outputs = ["{start}q{at + 1}"]')
    return "\n".join(text) + "\n"


@pytest.fixture
def run(project: Callable[..., Any]) -> Callable[..., Outcome]:
    def go(text: str, code: int = 0, **env: str) -> Outcome:
        made = project({"tasks.toml": text, "plugins/big.py": FUNCTIONS})
        outcome: Outcome = made.run("tasks.toml", "--log", "raw", env=env or None)
        assert outcome.exit == code, outcome
        return outcome

    return go


def rows(outcome: Outcome) -> list[Any]:
    return in_order(outcome.out.splitlines())


def in_order(lines: Iterable[str]) -> list[Any]:
    return sorted((json.loads(each) for each in lines), key=lambda row: json.dumps(row))


#: One run of many lines beside each other, for all tests that look at one of them.
Together = Callable[..., dict[tuple[str, ...], list[Any]]]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Together:
    """Return the rows that each of some lines has printed, all of them in one run."""

    @cache
    def go(lines: tuple[tuple[str, ...], ...], no_arena: str, engine: str = "local") -> dict[tuple[str, ...], Any]:
        text = "".join(line(*each, start=f"line{at}") for at, each in enumerate(lines))
        made = Project(tmp_path_factory.mktemp("together"))
        made.write({"tasks.toml": text, "plugins/big.py": FUNCTIONS})
        env = {"RUNNER_NO_ARENA": no_arena}
        agents = []
        if engine == "agents":
            envs = {"": [env, env], "1": [env, env], "one": [{"RUNNER_NO_ARENA": "1"}, {}]}[no_arena]
            agents = [start_agent(made, name, each) for name, each in zip(("n1", "n2"), envs, strict=True)]
            env = {"RUNNER_NO_ARENA": no_arena.strip("one")}
        options = "--set", 'agents.listen="127.0.0.1:0"', "--engine", engine
        outcome = made.run("tasks.toml", "--log", "prefix", *options, env=env)
        assert outcome.exit == 0, outcome
        for agent in agents:
            end = agent.finish()
            assert (end.exit, end.err) == (0, ""), end
        printed = defaultdict[str, list[str]](list)
        for task, _, row in (each.partition(" | ") for each in outcome.out.splitlines()):
            printed[task.strip()].append(row)
        return {each: in_order(printed[f"line{at}t{len(each) - 1}"]) for at, each in enumerate(lines)}

    return go


def start_agent(made: Project, name: str, env: dict[str, str]) -> Any:
    options = "--join", ".runner/runs/last/join", "--places", "64", "--name", name
    return made.start(*options, verb="agent", env=env)


def expected(count: int, *, plus: int = 0, **places: Any) -> list[Any]:
    """What `weigh` says of arrays 0, 1 ... `places` sets single numbers: p0=…"""
    made = []
    for number in range(count):
        values = [number + plus] * SIZE
        for place, value in places.items():
            values[int(place[1:])] = value(number) if callable(value) else value
        made.append([*values[:4], values[-1], sum(values)])
    return sorted(made, key=lambda row: json.dumps(row))


SOURCE = "arrays {} with = {{ count = 30 }}"
PROCESS, THREAD = SOURCE.format("process"), SOURCE.format("thread")


MIDDLES: dict[str, dict[str, Any]] = {
    "add_one process": {"plus": 1},
    "one_page process": {"p3": -1},
    "same process": {},
    "same process workers = 2": {},
    "one_page process ordered = true\nworkers = 2": {"p3": -1},
    "later process": {"p0": lambda number: number + 1000},
    "in_batches process batch = 4": {"p1": lambda number: number + 1000},
    "boxed process": {"p2": lambda number: number + 1000},
    "Keeper process": {},
    "one_page thread": {"p3": -1},
    "Keeper thread": {},
}
FALLBACK = pytest.mark.parametrize(
    "no_arena", ["", pytest.param("1", marks=pytest.mark.slow)], ids=["arenas", "fallback"]
)

ALSO_THREAD = pytest.mark.parametrize("mode", ["process", pytest.param("thread", marks=pytest.mark.slow)])


@FALLBACK
@pytest.mark.parametrize(
    "middle",
    [
        pytest.param(middle, id=middle.replace("\n", " "), marks=pytest.mark.slow if at % 2 else ())
        for at, middle in enumerate(MIDDLES)
    ],
)
def test_forms(together: Together, middle: str, no_arena: str) -> None:
    found = together(tuple((PROCESS, each, "weigh process") for each in MIDDLES), no_arena)
    assert found[PROCESS, middle, "weigh process"] == expected(30, **MIDDLES[middle])


#: Every middle between every two ends; `test_forms` has them between two processes.
ENDS = [(PROCESS, "weigh thread"), (THREAD, "weigh process"), (THREAD, "weigh thread")]
TRIOS = tuple(
    (source, middle, sink)
    for source, sink in ENDS
    for middle in ("one_page process", "one_page thread", "same process", "Keeper process")
)


@pytest.mark.slow
@pytest.mark.parametrize("trio", TRIOS, ids=lambda trio: "-".join(each.partition(" with")[0] for each in trio))
def test_threads_and_processes_of_one_run(together: Together, trio: tuple[str, str, str]) -> None:
    right = {"p3": -1} if trio[1].startswith("one_page") else {}
    assert together(TRIOS, "")[trio] == expected(30, **right)


def test_an_array_that_is_changed_after_it_was_yielded(run: Callable[..., Outcome]) -> None:
    outcome = run(line(PROCESS, "twice process", "weigh process"))
    assert rows(outcome) == sorted(expected(30) + [[-7] * 5 + [-7 * SIZE]] * 30, key=lambda row: json.dumps(row))


@ALSO_THREAD
def test_every_reader_of_a_copied_queue_has_its_own(run: Callable[..., Outcome], mode: str) -> None:
    readers = "".join(
        f'[tasks.{name}]\ncall = "{name}"\nmode = "{mode}"\ninputs = ["made"]\noutputs = ["changed"]\n'
        for name in ("add_one", "one_page")
    )
    text = (
        '[queues]\nmade = { fanout = "copy" }\nchanged = {}\n'
        '[tasks.arrays]\nmode = "process"\nwith = { count = 30 }\noutputs = ["made"]\n'
        f'{readers}[tasks.weigh]\nmode = "process"\ninputs = ["changed"]\n'
    )
    right = sorted(expected(30, plus=1) + expected(30, p3=-1), key=lambda row: json.dumps(row))
    assert rows(run(text)) == right


@pytest.mark.slow
def test_after_a_death_an_item_is_what_was_sent(run: Callable[..., Outcome], tmp_path: Any) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    middle = f'scribble_and_die process with = {{ marks = "{marks}" }}\nworkers = 2'
    source = "arrays process with = { count = 6 }"
    assert rows(run(line(source, "same process", middle, "weigh process"))) == expected(6)


@pytest.mark.parametrize("sink", ["process", pytest.param("thread", marks=pytest.mark.slow)])
def test_the_dead_leave_no_arena_behind(run: Callable[..., Outcome], tmp_path: Any, sink: str) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    middle = f'die_often process with = {{ marks = "{marks}" }}'
    source = "arrays process with = { count = 30 }"
    outcome = run(line(source, middle, f"Arenas {sink}", queues="size = 4"))
    assert "30 read = 30 done" in outcome.err
    assert len(list(marks.iterdir())) == 6
    assert 1 <= int(outcome.out) <= 4, "seven workers have lived"


@pytest.mark.slow
@pytest.mark.parametrize("no_arena", ["", "1"])
def test_the_switch(run: Callable[..., Outcome], no_arena: str) -> None:
    outcome = run(line(PROCESS, "same process", "Arenas process"), RUNNER_NO_ARENA=no_arena)
    assert int(outcome.out) == (0 if no_arena else 1), "passed on unchanged: the source's own and no other"


@ALSO_THREAD
def test_a_second_try_is_given_what_was_sent(run: Callable[..., Outcome], mode: str) -> None:
    middle = f'fails_once {mode} attempts = 2\nbackoff = {{ first = "1ms" }}'
    assert rows(run(line(PROCESS, middle, "weigh process"))) == expected(30)


@pytest.mark.slow
@ALSO_THREAD
def test_dead_letters_carry_the_item_as_it_was_sent(run: Callable[..., Outcome], mode: str) -> None:
    text = (
        "[queues]\nmade = {}\ndead = {}\nitems = {}\n"
        '[tasks.arrays]\nmode = "process"\nwith = { count = 30 }\noutputs = ["made"]\n'
        f'[tasks.fails]\nmode = "{mode}"\ninputs = ["made"]\ndead = "dead"\n'
        f'[tasks.of_letters]\nmode = "{mode}"\ninputs = ["dead"]\noutputs = ["items"]\n'
        '[tasks.weigh]\nmode = "process"\ninputs = ["items"]\n'
    )
    assert rows(run(text, code=4)) == expected(30)


KINDS = tuple(
    (f"kinds {first}", f"describe {second}", "say process")
    for first, second in [("process", "process"), ("thread", "process"), ("process", "thread")]
)


@pytest.mark.slow
@FALLBACK
@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: " ".join(each.split()[1] for each in kinds[:2]))
def test_kinds_of_items(together: Together, kinds: tuple[str, ...], no_arena: str) -> None:
    assert together(KINDS, no_arena)[kinds] == sorted(
        [
            ["bytes", 300_000, ord("b")],
            ["bytearray", 300_000, ord("a")],
            [300_000, 300_000],
            ["int64", [200, 300], sum(range(60_000)), True, True],
            ["int64", [60_000], sum(range(0, 120_000, 2)), True, True],
            ["float64", [0, 7], 0, True, True],
            ["int64", [50_000], sum(range(50_000)), False, True],
        ],
        key=lambda row: json.dumps(row),
    )


@pytest.mark.slow  # an arena of few pages is full in `unit/test_arena.py`
def test_more_than_an_arena_holds(run: Callable[..., Outcome]) -> None:
    """A sink that keeps 400 MB: what has no room travels in the pickle."""
    source = "arrays process with = { count = 1200 }"
    outcome = run(line(source, "Keeper process", "Last process"))
    assert "1,200 read = 1,200 done" in outcome.err


@pytest.mark.slow
def test_batches_larger_than_what_a_source_takes_without_waiting(run: Callable[..., Outcome]) -> None:
    source = "arrays process with = { count = 300 }"
    outcome = run(line(source, "in_batches process batch = 150", "Last process", queues='bytes = "500MB"'))
    assert "300 read = 300 done" in outcome.err


# -- on other machines ---------------------------------------------------------------------------------

#: Forms, and ends in threads of the supervisor, on two agents; the first few in the default set.
FEW = (
    (PROCESS, "one_page process", "weigh process"),
    (PROCESS, "same process workers = 2", "weigh thread"),
    (THREAD, "Keeper process", "weigh process"),
)
FAR = (*((PROCESS, each, "weigh process") for each in MIDDLES), *TRIOS)
#: All have shared memory; none has; one has.
MEMORIES = pytest.mark.parametrize("no_arena", ["", "1", "one"], ids=["arenas", "fallback", "mixed"])


def name_of(trio: tuple[str, ...]) -> str:
    return "-".join(each.partition(" with")[0] for each in trio)


@pytest.mark.slow
@pytest.mark.parametrize("trio", FEW, ids=name_of)
def test_forms_on_two_machines(together: Together, trio: tuple[str, str, str]) -> None:
    right = {"p3": -1} if trio[1].startswith("one_page") else {}
    assert together(FEW, "one", "agents")[trio] == expected(30, **right)


@pytest.mark.slow
@MEMORIES
@pytest.mark.parametrize("trio", FAR, ids=name_of)
def test_every_form_on_two_machines(together: Together, trio: tuple[str, str, str], no_arena: str) -> None:
    right = {"p3": -1} if trio[1].startswith("one_page") else MIDDLES.get(trio[1], {})
    assert together(FAR, no_arena, "agents")[trio] == expected(30, **right)


TWICE = (PROCESS, "twice process", "weigh process")


@pytest.mark.slow
@MEMORIES
def test_an_array_that_is_changed_after_it_was_yielded_on_two_machines(together: Together, no_arena: str) -> None:
    right = sorted(expected(30) + [[-7] * 5 + [-7 * SIZE]] * 30, key=lambda row: json.dumps(row))
    assert together((TWICE,), no_arena, "agents")[TWICE] == right


@pytest.mark.slow
@MEMORIES
@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: " ".join(each.split()[1] for each in kinds[:2]))
def test_kinds_of_items_on_two_machines(together: Together, kinds: tuple[str, ...], no_arena: str) -> None:
    assert together(KINDS, no_arena, "agents")[kinds] == together(KINDS, "")[kinds]


@pytest.mark.slow
@pytest.mark.parametrize("no_arena", ["", "one"])
def test_deaths_and_second_tries_on_two_machines(together: Together, tmp_path: Any, no_arena: str) -> None:
    """What was sent is given again, whatever the dead have written into it."""
    dies = f'scribble_and_die process with = {{ marks = "{tmp_path}" }}\nworkers = 2'
    fails = 'fails_once process attempts = 2\nbackoff = { first = "1ms" }'
    source = "arrays process with = { count = 6 }"
    lines = ((source, "same process", dies, "weigh process"), (source, fails, "weigh process"))
    found = together(lines, no_arena, "agents")
    assert [found[each] for each in lines] == [expected(6), expected(6)]
