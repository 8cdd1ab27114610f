"""`runner.testing`: whole files, what goes in and what comes out, and runs that are still going on."""

import os
import signal
import threading

import pytest

from runner import ConfigError, RunnerError
from runner.events import ItemFailed, TaskEnded, WorkerDied, WorkerReady
from runner.testing import Project, file_tests, run_file

pytestmark = pytest.mark.usefixtures("fork_server")

FILE = """
    [params]
    factor = { default = 2, help = "by which numbers are multiplied" }

    [queues]
    numbers = {}
    products = {}
    rejected = {}

    [tasks.count]
    mode = "thread"
    outputs = ["numbers"]

    [tasks.multiply]
    with = { factor = "${factor}" }
    inputs = ["numbers"]
    outputs = ["products"]
    dead = "rejected"

    [tasks.show]
    mode = "thread"
    inputs = ["products"]

    [tasks.refuse]
    mode = "thread"
    inputs = ["rejected"]
"""
PLUGIN = """
    from runner import Reject, task


    @task
    def count():
        yield from range(4)


    @task
    def multiply(number, *, factor):
        if number == 3:
            raise Reject("three")
        return number * factor


    @task
    def show(number):
        print("product", number)


    @task
    def refuse(letter):
        print("refused", letter.item)
"""


@pytest.fixture
def numbers(tmp_path):
    return Project(tmp_path).write({"tasks.toml": FILE, "plugins/numbers.py": PLUGIN})


def test_a_file_as_it_is(numbers):
    run = numbers.run()
    assert run.result.exit_code == 4
    assert sorted(run.printed) == ["product 0", "product 2", "product 4", "refused 3"]
    assert str(run.balance) == "4 read = 3 done + 1 dead + 0 dropped + 0 left"
    assert "4 read = 3 done" in run.err
    assert [event.item != "" for event in run.of(ItemFailed)] == [True]


def test_feeding_a_queue_takes_the_place_of_its_source_and_collecting_gives_a_copy(numbers):
    run = numbers.run(params={"factor": 10}, feed={"numbers": [5, 3]}, collect=["products", "rejected"])
    assert run.outputs["products"] == [50]
    assert [letter.item for letter in run.outputs["rejected"]] == [3]
    assert sorted(run.printed) == ["product 50", "refused 3"]
    assert set(run.result.tasks) == {"multiply", "show", "refuse"}
    assert {event.task for event in run.of(TaskEnded)} == {"multiply", "show", "refuse"}


def test_what_is_skipped_can_be_collected_instead(numbers):
    run = numbers.run(skip=["show", "refuse"], collect=["products", "rejected"], set={"tasks.multiply.mode": "thread"})
    assert run.outputs["products"] == [0, 2, 4]
    assert run.out == ""


def test_only_some_tasks(numbers):
    run = numbers.run(only=["multiply"], feed={"numbers": range(3)}, collect=["products", "rejected"])
    assert run.outputs["products"] == [0, 2, 4]


def test_a_file_anywhere(numbers):
    assert run_file(numbers.path / "tasks.toml", feed={"numbers": [1]}, collect=["products"]).outputs["products"] == [2]


def test_wrong_files_and_wrong_names(numbers):
    with pytest.raises(ConfigError, match="unknown param `faktor`"):
        numbers.run(params={"faktor": 3})
    with pytest.raises(RunnerError, match=r"unknown queue `product` in .*; did you mean `products`\?"):
        numbers.run(collect=["product"])
    with pytest.raises(RunnerError, match="unknown task `cound`; did you mean `count`"):
        numbers.run(only=["cound"])


def test_a_queue_that_tasks_share_cannot_be_copied(numbers):
    numbers.write({"more.toml": FILE + '\n[tasks.too]\ncall = "show"\nmode = "thread"\ninputs = ["products"]\n'})
    with pytest.raises(RunnerError, match="shared by `show` and `too`"):
        numbers.run("more.toml", set={"queues.products.fanout": "share"}, collect=["products"])


def test_a_plugin_that_was_edited_is_read_anew(numbers):
    assert numbers.run(collect=["products"]).outputs["products"] == [0, 2, 4]
    numbers.write({"plugins/numbers.py": PLUGIN.replace("number * factor", "number + 100")})
    assert numbers.run(collect=["products"]).outputs["products"] == [100, 101, 102]
    numbers.write({"plugins/numbers.py": PLUGIN.replace("range(4)", "range(2)")})
    assert numbers.run(collect=["products"]).outputs["products"] == [0, 2]


WAIT = """
    import threading

    from runner import Context, task


    @task
    def wait(context: Context):
        context.log.info("waiting")
        while not context.stopping:
            threading.Event().wait(0.01)
"""


def test_waiting_for_an_event_and_interrupting(tmp_path):
    project = Project(tmp_path).write({"tasks.toml": '[tasks.wait]\nmode = "thread"\n', "plugins/waiting.py": WAIT})
    running = project.start()
    ready = running.wait_for(lambda event: isinstance(event, WorkerReady))
    assert (ready.worker, ready.pid) == ("wait", os.getpid())
    running.interrupt()
    run = running.finish()
    assert run.result.exit_code == 130
    assert running.wait_for(lambda event: isinstance(event, TaskEnded)).task == "wait"
    with pytest.raises(TimeoutError, match=r"no such event in the whole run; seen: RunStarted, TaskStarted, "):
        running.wait_for(lambda event: isinstance(event, WorkerDied))


def test_a_worker_that_is_killed_is_replaced(numbers):
    gate = threading.Event()

    def items():
        gate.wait(10)
        yield from range(3)

    running = numbers.start(feed={"numbers": items()}, collect=["products"])
    ready = running.wait_for(lambda event: isinstance(event, WorkerReady) and event.task == "multiply")
    os.kill(ready.pid, signal.SIGKILL)
    assert running.wait_for(lambda event: isinstance(event, WorkerDied)).why == "killed by SIGKILL"
    gate.set()
    assert running.finish().outputs["products"] == [0, 2, 4]


def test_the_tests_of_a_file_are_tests_of_pytest(numbers):
    tests = """
    [[tests]]
    name = "good"
    only = "count"

    [[tests]]
    name = "wrong"
    feed.numbers = [1]
    expect.queues.products.ordered = [3]
    """
    numbers.write({"tasks.toml": FILE + tests})
    test = file_tests(numbers.path / "tasks.toml")
    [mark] = test.pytestmark
    good, wrong = mark.args[1]
    assert [mark.kwargs["ids"](each) for each in (good, wrong)] == ["good", "wrong"]
    test(good)
    with pytest.raises(pytest.fail.Exception, match=r"first difference: item 1: expected 3, got 2"):
        test(wrong)


def test_a_file_without_tests_is_no_file_of_tests(numbers):
    with pytest.raises(RunnerError, match="no test in"):
        file_tests(numbers.path / "tasks.toml")
    with pytest.raises(ConfigError, match="E101"):
        file_tests("nowhere.toml")
