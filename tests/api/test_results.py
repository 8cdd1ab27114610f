"""Results in Python: queues that are fed and collected by `runner.run`, and streams of what comes out.

The oracle is Python's own: what a list comprehension over the same items gives, and what the feed's generator counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from api.test_run import Notebook  # the stream of a notebook

import runner
from runner import ConfigError, RunnerError, Stream, streamed_runs

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("fork_server")

FILE = """
[queues]
numbers = { size = 8 }
results = { size = 8 }

[tasks.work]
call    = "operator:neg"
inputs  = "numbers"
outputs = "results"
"""


def write(folder: Path, text: str = FILE, *, mode: str = "thread") -> Path:
    """Write the file; threads are the quickest."""
    path = folder / "tasks.toml"
    path.write_text(text.replace("[tasks.work]", f'[tasks.work]\nmode = "{mode}"'), encoding="utf-8")
    return path


class Feed:
    """Numbers without an end, or up to one; knows how many were taken, and whether its generator was closed."""

    def __init__(self, end: int | None = None) -> None:
        self.given, self.is_closed, self.end = 0, False, end

    def __iter__(self):
        try:
            while self.given != self.end:
                self.given += 1
                yield self.given
        finally:
            self.is_closed = True


# -- feeding and collecting ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_what_is_fed_is_collected(tmp_path, mode):
    result = runner.run(write(tmp_path, mode=mode), feed={"numbers": range(500)}, collect=["results"], quiet=True)
    assert sorted(result.collected["results"]) == sorted(-number for number in range(500))
    assert result.ok
    assert set(result.tasks) == {"work"}, "what feeds and collects is not of the file"
    assert (result.tasks["work"].done, result.headline.read, result.headline.done) == (500, 500, 500)


def test_ordered_tasks_keep_the_order_of_the_feed(tmp_path):
    text = FILE.replace("[tasks.work]", "[tasks.work]\nordered = true\nworkers = 3")
    result = runner.run(
        write(tmp_path, text, mode="process"), feed={"numbers": range(300)}, collect="results", quiet=True
    )
    assert result.collected == {"results": [-number for number in range(300)]}


MANY = """
from runner import DeadLetter, Reject, To, task

@task
def split(number: int):
    if number % 10 == 0:
        raise Reject("a ten")
    yield To("odd" if number % 2 else "even", number)

@task
def square(number: int) -> int:
    return number * number
"""
MANY_FILE = """
[queues]
numbers = {}
even = {}
odd = {}
squares = {}
tens = {}

[tasks.read]
call = "std.range"
mode = "thread"
args = [1, 40]
outputs = "numbers"

[tasks.split]
mode = "thread"
inputs = "numbers"
outputs = { even = "even", odd = "odd" }
dead = "tens"

[tasks.square]
mode = "thread"
inputs = "odd"
outputs = "squares"
"""


def test_several_queues_one_that_is_read_and_one_of_dead_letters(project):
    path = project({"tasks.toml": MANY_FILE, "plugins/many.py": MANY}).path / "tasks.toml"
    result = runner.run(path, collect=["even", "odd", "squares", "tens"], quiet=True)
    tens = result.collected.pop("tens")
    odd = [number for number in range(1, 40) if number % 2]
    assert result.collected == {
        "even": [number for number in range(1, 40) if number % 2 == 0 and number % 10],
        "odd": odd,
        "squares": [number * number for number in odd],
    }
    assert [(letter.item, letter.error, letter.task) for letter in tens] == [
        (ten, "Reject: a ten", "split") for ten in (10, 20, 30)
    ]
    fed = runner.run(path, feed={"numbers": [1, 2]}, collect=["squares", "even", "tens"], quiet=True)
    assert fed.collected == {"squares": [1], "even": [2], "tens": []}, "the source of a queue that is fed does not run"
    assert set(fed.tasks) == {"split", "square"}
    both = runner.run(path, feed={"odd": [5]}, collect=["squares", "even", "tens"], quiet=True)
    assert sorted(both.collected["squares"]) == sorted([25, *(number * number for number in odd)]), "a transform does"


def test_a_queue_that_tasks_share_cannot_be_collected(tmp_path):
    text = FILE.replace("numbers = { size = 8 }", 'numbers = { fanout = "share" }')
    text += '[tasks.other]\ncall = "operator:neg"\nmode = "thread"\ninputs = "numbers"\n'
    path = write(tmp_path, text)
    with pytest.raises(RunnerError, match="queue `numbers` is shared by `work` and `other`, so it cannot be collected"):
        runner.run(path, feed={"numbers": [1]}, collect=["numbers", "results"])


def test_a_queue_is_named_as_it_is_and_a_wrong_file_is_said_first(tmp_path):
    path = write(tmp_path)
    for words in ({"feed": {"nubmers": [1]}}, {"feed": {"numbers": [1]}, "collect": ["nubmers"]}):
        with pytest.raises(RunnerError, match=r"unknown queue `nubmers` in .*tasks.toml; did you mean `numbers`?"):
            runner.run(path, **words)
    with pytest.raises(RunnerError, match=r"unknown queue `x` in .*; queues: numbers, results"):
        runner.stream(path, collect="x")
    with pytest.raises(ConfigError, match="E205 no task reads queue `results`"):
        runner.run(path, feed={"numbers": [1]})
    with pytest.raises(ConfigError, match="E204 no task writes queue `numbers`"):
        runner.stream(path, collect="results")
    with pytest.raises(RunnerError, match="`collect` names no queue"):
        runner.stream(path, feed={"numbers": [1]}, collect=[])
    path.write_text("[queues]\nnumbers = 5\n")
    with pytest.raises(ConfigError, match="E103"):
        runner.run(path, feed={"numbers": [1]}, collect="results")


def test_a_durable_run_is_neither_fed_nor_collected(tmp_path):
    path = write(tmp_path, "[run]\ndurable = true\n" + FILE)
    with pytest.raises(RunnerError, match=r"is durable, .*; say set=\{\"run.durable\": False\}"):
        runner.run(path, feed={"numbers": [1]}, collect="results")
    given = {"feed": {"numbers": [1]}, "collect": "results", "set": {"run.durable": False}, "quiet": True}
    assert runner.run(path, **given).collected == {"results": [-1]}


def test_a_file_may_have_a_task_of_any_name(tmp_path):
    path = write(tmp_path, FILE + '[tasks.feed-numbers]\ncall = "builtins:len"\nargs = ["abcd"]\nmode = "thread"\n')
    result = runner.run(path, feed={"numbers": [1]}, collect="results", quiet=True)
    assert result.collected == {"results": [-1]}
    assert result.tasks["feed-numbers"].result == 4


def test_a_file_without_source_and_sink_is_loaded_with_the_names_that_are_fed(tmp_path):
    path = write(tmp_path)
    with pytest.raises(ConfigError, match="E204"):
        runner.load(path)
    config = runner.load(path, feed=["numbers"], collect="results")
    work = replace(config.tasks["work"], call="operator:pos")
    config = replace(config, tasks={**config.tasks, "work": work})
    assert runner.run(config, feed={"numbers": [1, 2]}, collect="results", quiet=True).collected["results"] == [1, 2]
    with runner.stream(config, feed={"numbers": [3]}, collect="results", quiet=True) as items:
        assert list(items) == [3]


FORMS = """
from contextlib import contextmanager
from runner import Context, Inbox, Outbox, task

@task
def returned(item): return item + 1
@task
def yielded(item):
    yield item + 1
@task
async def awaited(item): return item + 1
@task
def batched(items):
    for item in items: yield item + 1
@task
def boxed(inbox: Inbox[int], outbox: Outbox[int]):
    for item in inbox: outbox.put(item + 1)
@task
class Made:
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def __call__(self, item): return item + 1
@task
def retried(item, context: Context):
    if context.attempt == 1 and item % 7 == 0: raise OSError("once")
    return item + 1
@task
def deadly(item, context: Context):
    import os
    if item == 5 and context.attempt == 1: os._exit(9)
    return item + 1
"""


@pytest.mark.parametrize(
    ("call", "mode"),
    [
        *(pytest.param(call, "thread") for call in ("returned", "yielded", "awaited", "batched", "boxed", "Made", "retried")),
        pytest.param("deadly", "process"),
        *(
            pytest.param(call, "process", marks=pytest.mark.slow)
            for call in ("returned", "yielded", "awaited", "batched", "boxed", "Made", "retried")
        ),
    ],
)  # fmt: skip
def test_every_form_of_function_gives_each_result_once(project, call, mode):
    more = {"batched": "batch = 3\n", "retried": 'attempts = 2\nbackoff = { first = "1ms" }\n'}.get(call, "")
    text = FILE.replace('"operator:neg"', f'"{call}"\nmode = "{mode}"\nworkers = 2\n{more}')
    path = project({"tasks.toml": text, "plugins/forms.py": FORMS}).path / "tasks.toml"
    result = runner.run(path, feed={"numbers": range(50)}, collect="results", quiet=True)
    assert sorted(result.collected["results"]) == list(range(1, 51)), result
    streamed = list(runner.stream(path, feed={"numbers": iter(range(50))}, collect="results", quiet=True))
    assert sorted(streamed) == list(range(1, 51))


# -- feeds that go wrong -----------------------------------------------------------------------------


def failing(error: BaseException):
    yield 1
    yield 2
    raise error


@pytest.mark.parametrize("error", [ValueError("no more"), SystemExit(3), KeyError("k")])
def test_what_a_feed_raises_reaches_the_caller_and_names_the_queue(tmp_path, error, capfd):
    given = {"feed": {"numbers": failing(error)}, "collect": "results"}
    with pytest.raises(type(error)) as caught:
        runner.run(write(tmp_path), **given)
    assert caught.value is error
    [note] = error.__notes__
    assert note == (
        "raised by the feed of queue `numbers` after 2 items; the run: 2 read = 2 done + 0 dead + 0 dropped + 0 left"
    )
    assert "task `feed:numbers` has failed" in capfd.readouterr().err


def test_a_stream_yields_what_its_feed_gave_before_it_failed(tmp_path):
    items = runner.stream(write(tmp_path), feed={"numbers": failing(OSError("x"))}, collect="results", quiet=True)
    assert [next(items), next(items)] == [-1, -2]
    with pytest.raises(OSError, match="x") as caught:
        list(items)
    assert "the feed of queue `numbers`" in caught.value.__notes__[0]
    assert list(items) == [], "it is raised once"
    assert items.result is not None
    assert items.result.exit_code == 1


def test_an_item_that_cannot_be_pickled_is_named_by_queue_and_number(tmp_path):
    path = write(tmp_path, mode="process")
    match = r"the feed of queue `numbers` failed at item 3: .*NotPicklable: an item of type lock cannot be sent"
    feed = {"numbers": [1, 2, threading.Lock(), 4]}
    with pytest.raises(RunnerError, match=match):
        runner.run(path, feed=feed, collect="results", quiet=True)
    items = runner.stream(path, feed=feed, collect="results", quiet=True)
    with pytest.raises(RunnerError, match=match):
        list(items)


def test_a_feed_has_to_be_iterable(tmp_path):
    async def numbers():
        yield 1

    for wrong, kind in ((5, "of type int"), (None, "of type NoneType"), (numbers(), "an asynchronous iterable")):
        with pytest.raises(RunnerError, match=f"the feed of queue `numbers` is {kind}; give an iterable"):
            runner.run(write(tmp_path), feed={"numbers": wrong}, collect="results")


def test_a_feed_that_nobody_wants_any_more_is_closed(tmp_path):
    feed = Feed()
    text = FILE.replace("operator:neg", "builtins:ord").replace("[tasks.work]", '[tasks.work]\non_error = "stop"')
    result = runner.run(write(tmp_path, text), feed={"numbers": iter(feed)}, collect="results", quiet=True)
    assert result.exit_code == 1
    assert feed.is_closed


# -- streams -------------------------------------------------------------------------------------------


def test_a_stream_yields_while_the_run_goes_on(tmp_path):
    seen = threading.Event()

    def numbers():
        yield 1
        assert seen.wait(20), "the second item is made once the first has arrived"
        yield 2

    items = runner.stream(write(tmp_path), feed={"numbers": numbers()}, collect="results", quiet=True)
    assert next(items) == -1
    assert items.result is None
    seen.set()
    assert list(items) == [-2]
    assert items.result is not None
    assert (items.result.ok, items.result.tasks["work"].done) == (True, 2)


def test_several_queues_are_streamed_as_pairs(project):
    path = project({"tasks.toml": MANY_FILE, "plugins/many.py": MANY}).path / "tasks.toml"
    with runner.stream(path, collect=["even", "squares", "tens"], quiet=True) as items:
        found = [(queue, getattr(item, "item", item)) for queue, item in items]
    odd = [("squares", number * number) for number in range(1, 40, 2)]
    even = [("even", number) for number in range(2, 40, 2) if number % 10]
    assert sorted(found) == sorted([*odd, *even, *(("tens", ten) for ten in (10, 20, 30))])


@pytest.mark.parametrize("mode", ["thread", pytest.param("process", marks=pytest.mark.slow)])
def test_a_slow_caller_holds_the_run_back(tmp_path, mode):
    feed, lead = Feed(), 0
    with runner.stream(write(tmp_path, mode=mode), feed={"numbers": feed}, collect="results", quiet=True) as items:
        for taken, item in enumerate(items, 1):
            assert item == -taken
            time.sleep(0.0002)  # the work of the caller
            lead = max(lead, feed.given - taken)
            if taken == 1000:
                break
    # Two queues of 8, two chunks on their way to workers of at most as many, and what was handed over: 8 and 8.
    assert lead <= 64, "memory is bounded, whatever the feed would give"
    assert feed.given < 1100


def stopped_by_break(items: Stream[int]) -> None:
    for item in items:
        if item <= -5:
            break


def stopped_by_close(items: Stream[int]) -> None:
    next(items)
    items.close()
    assert list(items) == []
    items.close()


def stopped_by_with(items: Stream[int]) -> None:
    with items:
        next(items)


def stopped_by_an_exception(items: Stream[int]) -> None:
    def use() -> None:
        for _ in items:
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        use()


def never_looked_at(items: Stream[int]) -> None:
    pass


def in_a_cycle(items: Stream[int]) -> None:
    cycle = [items]
    cycle.append(cycle)  # type: ignore[arg-type]
    del items


STOPS = [stopped_by_break, stopped_by_close, stopped_by_with, stopped_by_an_exception, never_looked_at, in_a_cycle]


@pytest.mark.parametrize("stop", STOPS)
def test_the_run_ends_when_its_caller_stops(tmp_path, stop):
    path, feed = write(tmp_path), Feed()
    stop(runner.stream(path, feed={"numbers": feed}, collect="results", quiet=True))
    gc.collect()
    assert feed.is_closed or not feed.given
    assert not {"runner-stream", "feed:numbers", "work", "collect:results"} & {
        each.name for each in threading.enumerate()
    }
    assert runner.run(path, feed={"numbers": [1]}, collect="results", quiet=True).ok, "the next run can begin at once"


def test_a_run_that_its_caller_ended_hands_out_nothing_more_and_says_what_is_left(tmp_path):
    text = FILE.replace("size = 8", "size = 1000").replace(
        "[tasks.work]", '[tasks.work]\nmode = "process"\nworkers = 1'
    )
    (tmp_path / "tasks.toml").write_text(text.replace("operator:neg", "time:sleep"))
    err = Notebook()
    with contextlib.redirect_stderr(err):
        items = runner.stream(tmp_path / "tasks.toml", feed={"numbers": [0.01] * 400}, collect="results")
        next(items)
        items.close()
    result = items.result
    assert (result.exit_code, result.ok, result.reasons) == (5, False, ("the caller of the run has stopped",))
    assert result.tasks["work"].done < 390, "what is queued is not drained"
    assert result.headline.left > 0
    assert result.headline.missing == 0
    assert "the caller of the run has stopped: sources stop, what workers hold may end within 10s" in err.text
    assert "left in `numbers`" in err.text


def test_in_silence_nothing_is_said_of_a_stream_that_its_caller_ended(tmp_path, capfd):
    next(runner.stream(write(tmp_path), feed={"numbers": Feed()}, collect="results", quiet=True))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("where", ["waiting", "working"])
def test_ctrl_c_in_the_caller_ends_the_run(tmp_path, where):
    feed, waiting = Feed(), threading.Event()

    def numbers():
        yield 1
        assert waiting.wait(20)
        os.kill(os.getpid(), signal.SIGINT)
        yield from feed if where == "working" else ()

    if where == "waiting":
        items = runner.stream(write(tmp_path), feed={"numbers": numbers()}, collect="results", quiet=True)
        assert next(items) == -1
        waiting.set()
        with pytest.raises(runner.Interrupted) as caught:
            next(items)
        assert caught.value.result.exit_code in {0, 130}  # 0: it had ended before the signal was heard
        assert list(items) == []
        return

    def use():
        for _ in runner.stream(write(tmp_path), feed={"numbers": feed}, collect="results", quiet=True):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        use()
    assert feed.is_closed


def interrupting(interrupt):
    threading.Thread(target=interrupt).start()
    yield from ()


def test_the_second_ctrl_c_ends_a_task_that_does_not_end(tmp_path):
    text = '[run]\ngrace = "10m"\n' + FILE.replace("operator:neg", "time:sleep")
    path = write(tmp_path, text, mode="process")
    is_ready, is_stopping = threading.Event(), threading.Event()

    def numbers():
        yield 600
        is_ready.set()

    def handle_event(event):
        if isinstance(event, runner.events.RunStopping):
            is_stopping.set()

    def interrupt():
        assert is_ready.wait(20)
        os.kill(os.getpid(), signal.SIGINT)
        assert is_stopping.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    items = runner.stream(path, feed={"numbers": numbers()}, collect="results", quiet=True, on_event=handle_event)
    with pytest.raises(runner.Interrupted) as caught:  # in it the thread is started: it interrupts wherever this is
        list(itertools.chain(interrupting(interrupt), items))
    assert (caught.value.result.exit_code, caught.value.result.headline.left) == (130, 1)


def test_a_stream_is_closed_by_another_thread(tmp_path):
    hold, began = threading.Event(), threading.Event()

    def numbers():
        yield 1
        began.set()
        hold.wait(20)
        yield 2

    items = runner.stream(write(tmp_path), feed={"numbers": numbers()}, collect="results", quiet=True)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.extend(items))
    thread.start()
    assert began.wait(20)
    threading.Timer(0.05, hold.set).start()
    items.close()
    thread.join(20)
    assert not thread.is_alive()
    assert found in ([-1], [])


def test_two_runs_at_once_are_refused_and_the_first_goes_on(tmp_path):
    path = write(tmp_path)
    with runner.stream(path, feed={"numbers": Feed()}, collect="results", quiet=True) as items:
        next(items)
        for other in (runner.run, runner.stream):
            with pytest.raises(RunnerError, match="a run is under way in this process"):
                other(path, feed={"numbers": [1]}, collect="results")
        assert next(items) == -2


def test_from_threads_and_from_asyncio(tmp_path):
    path = write(tmp_path)

    async def main():
        whole = await asyncio.to_thread(runner.run, path, feed={"numbers": [1]}, collect="results", quiet=True)
        items = await asyncio.to_thread(runner.stream, path, feed={"numbers": [2, 3]}, collect="results", quiet=True)
        streamed = []
        while (item := await asyncio.to_thread(next, items, None)) is not None:
            streamed.append(item)
        return whole.collected["results"] + streamed

    assert asyncio.run(main()) == [-1, -2, -3]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_the_deadline_ends_a_run_whose_caller_is_away(tmp_path):
    path = write(tmp_path, '[run]\ndeadline = "1s"\ngrace = "100ms"\n' + FILE)
    items = runner.stream(path, feed={"numbers": Feed()}, collect="results", quiet=True)
    items._run.thread.join(20)  # the caller does something else meanwhile
    assert items.result is not None
    assert (items.result.exit_code, items.result.left_behind) == (124, ())
    found = list(items)
    assert found == [-number for number in range(1, len(found) + 1)], "what was handed over is not lost"


PRINTS = """
import sys
from runner import task

@task
def show(item):
    print("working on", item)
    return item
"""


def test_what_the_caller_prints_bears_no_workers_name(project, capfd):
    text = FILE.replace('"operator:neg"', '"show"\nmode = "thread"')
    path = project({"tasks.toml": text, "plugins/prints.py": PRINTS}).path / "tasks.toml"
    for out in (sys.stdout, Notebook()):
        with contextlib.redirect_stdout(out):
            for item in runner.stream(path, feed={"numbers": [1, 2]}, collect="results", quiet=True):
                print("got", item)
                os.write(1, b"") if out is sys.stdout else None
        lines = (capfd.readouterr().out if out is sys.stdout else out.text).splitlines()
        assert sorted(lines) == ["got 1", "got 2", "work | working on 1", "work | working on 2"]


LEFT_OPEN = """
import itertools, logging, sys
import runner

items = runner.stream("tasks.toml", feed={"numbers": itertools.count()}, collect="results", quiet=True)
print(next(items), input(), next(items))
logging.warning("as always")
"""


@pytest.mark.slow
def test_a_program_that_ends_with_an_open_stream_ends(tmp_path):
    write(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN], cwd=tmp_path, input="typed\n", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done
    assert done.stdout == "0 typed -1\n"
    assert done.stderr == "WARNING:root:as always\n"


def test_a_copy_of_the_process_does_not_touch_the_stream(tmp_path):
    items = runner.stream(write(tmp_path), feed={"numbers": Feed()}, collect="results", quiet=True)
    next(items)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            next(items)
        except RunnerError:
            items.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert next(items) == -2
    items.close()


def test_large_arrays_stay_after_the_run(tmp_path):
    arrays = [np.full(1 << 17, number, dtype=float) for number in range(20)]
    path = write(tmp_path, mode="process")
    result = runner.run(path, feed={"numbers": arrays}, collect="results", quiet=True)
    assert [array.sum() for array in result.collected["results"]] == [-(1 << 17) * number for number in range(20)]
    streamed = list(runner.stream(path, feed={"numbers": arrays}, collect="results", quiet=True))
    assert [array[0] for array in streamed] == [-number for number in range(20)]
    del result, streamed
    gc.collect()


def test_a_handover_is_bounded_and_both_sides_can_end_it():
    handover = streamed_runs.Handover(2)
    handover.put(1)
    handover.put(2)
    writer = threading.Thread(target=handover.put, args=(3,))
    writer.start()
    assert [handover.take(), handover.take()] == [1, 2]
    writer.join(20)
    handover.refuse_items()
    for _ in range(2):
        with pytest.raises(runner.ShutDown):
            handover.put(4)
    assert handover.take() == 3
    handover.end()
    for _ in range(2):
        with pytest.raises(StopIteration):
            handover.take()
