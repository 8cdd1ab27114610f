"""`runner.testing.run_task`: one task function over some items, in threads and in processes."""

import multiprocessing
import os
import threading

import pytest

from runner import Context, Inbox, Outbox, PluginError, Reject, Retry, To, task
from runner.testing import run_task

pytestmark = pytest.mark.usefixtures("fork_server")

MODES = pytest.mark.parametrize("mode", ["thread", "process"])


def double(item):
    return 2 * item


def half(item):
    if item % 2:
        raise Reject("odd")
    return item // 2


def shout(text, *, end="!"):
    print(text + end)
    return text.upper() + end


def sizes(item):
    yield To("small" if item < 10 else "large", item)


def count(upto):
    yield from range(upto)


def answer():
    return {"answer": 42}


async def slowly(item):
    return -item


def total(items):
    return sum(items)


def again(item, context: Context):
    if context.attempt < 3:
        raise Retry(after=0)
    return context.attempt


def echo(inbox: Inbox[int], outbox: Outbox[int]):
    while True:
        outbox.put(inbox.get())


def die(item):
    os._exit(3)


def who(item):
    return multiprocessing.current_process().name, threading.current_thread().name


@task(mode="process")
def declared(item):
    return os.getpid()


class Adder:
    def __init__(self, plus):
        self.plus = plus

    def __call__(self, item):
        return item + self.plus


@MODES
def test_each_item_goes_through_the_function(mode):
    run = run_task(double, range(5), mode=mode)
    assert run.items == [0, 2, 4, 6, 8]
    assert run.result.ok
    assert str(run.balance) == "5 read = 5 done + 0 dead + 0 dropped + 0 left"


@MODES
def test_what_it_gives_up_comes_as_dead_letters(mode):
    run = run_task(half, [2, 3, 4], mode=mode)
    assert run.items == [1, 2]
    [letter] = run.dead
    assert (letter.item, letter.error, letter.task) == (3, "Reject: odd", "half")
    assert run.result.exit_code == 4
    assert run.balance.dead == 1


@MODES
def test_arguments_and_what_is_printed(mode):
    run = run_task(shout, ["a", "b"], mode=mode, with_={"end": "?"})
    assert run.items == ["A?", "B?"]
    assert run.printed == ["a?", "b?"]
    assert run.out == "shout | a?\nshout | b?\n"


@MODES
def test_ports(mode):
    run = run_task(sizes, [1, 10, 2], mode=mode, ports=["small", "large"])
    assert run.outputs == {"small": [1, 2], "large": [10]}


@MODES
def test_a_source_and_a_task_that_returns(mode):
    assert run_task(count, mode=mode, with_={"upto": 3}).items == [0, 1, 2]
    run = run_task(answer, mode=mode)
    assert run.returned == {"answer": 42}
    assert run.outputs == {}


@MODES
@pytest.mark.parametrize(
    ("function", "options", "expected"),
    [
        (slowly, {}, [-3, -2, -1]),
        (total, {"batch": 2}, [3, 3]),
        (again, {"attempts": 3}, [3, 3, 3]),
        (echo, {}, [1, 2, 3]),
        (Adder, {"with_": {"plus": 10}}, [11, 12, 13]),
        (double, {"workers": 2}, [2, 4, 6]),
    ],
)
def test_every_form(mode, function, options, expected):
    assert sorted(run_task(function, [1, 2, 3], mode=mode, **options).items) == expected


def test_items_between_threads_are_the_objects_themselves():
    item = object()
    assert run_task(lambda item: item, [item]).items == [item]


@pytest.mark.slow
def test_an_item_that_kills_its_worker():
    run = run_task(die, ["poison"], mode="process")
    [letter] = run.dead
    assert letter.item == "poison"
    assert run.balance.dead == 1


def test_workers_have_their_names():
    assert run_task(who, [1], workers=["ada"]).items == [("MainProcess", "ada")]
    assert run_task(who, [1], mode="process", workers=["ada"]).items == [("ada", "MainThread")]


def test_a_local_function_runs_in_a_thread_and_cannot_run_in_a_process():
    def local(item):
        return item

    assert run_task(local, [1]).items == [1]
    with pytest.raises(PluginError, match="cannot be found by a process: it is not at the top of a module"):
        run_task(local, [1], mode="process")


def test_a_run_that_takes_too_long():
    never = threading.Event()
    with pytest.raises(TimeoutError, match=r"has not ended within 0\.2 s"):
        run_task(endless, mode="process", timeout=0.2)
    assert not never.is_set()


def endless():
    threading.Event().wait()


def test_events_are_typed():
    from runner.events import ItemFailed, TaskEnded

    run = run_task(half, [1])
    assert [event.verdict for event in run.of(ItemFailed)] == ["dead"]
    assert [event.task for event in run.of(TaskEnded)] == ["half"]


def test_a_wrong_option_is_a_problem_of_the_file():
    from runner import ConfigError

    with pytest.raises(ConfigError, match="E104 unknown key `wrokers`"):
        run_task(double, [1], wrokers=2)


def test_a_declared_option_holds_when_it_is_not_given():
    assert run_task(declared, [1], mode="thread").items == [os.getpid()]
