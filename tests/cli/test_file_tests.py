"""`runner test`: the tests that stand in a file, on its real tasks, workers and supervisor."""

import json
import signal
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from helpers import Project

FILE = """
    [params]
    factor = 2

    [queues]
    numbers = {}
    products = {}
    rejected = {}

    [tasks.count]
    mode = "thread"
    outputs = "numbers"

    [tasks.multiply]
    with = { factor = "${factor}" }
    inputs = "numbers"
    outputs = "products"
    attempts = 3
    backoff = { first = "1ms" }
    timeout = "1s"
    dead = "rejected"

    [tasks.show]
    mode = "thread"
    inputs = "products"

    [tasks.refuse]
    mode = "thread"
    inputs = "rejected"
"""
PLUGIN = """
    from pathlib import Path

    from runner import Reject, task


    @task
    def count():
        yield from range(3)


    @task
    def multiply(number, *, factor):
        if number == 13:
            raise Reject("unlucky")
        return number * factor


    @task
    def show(number):
        print("product", number)
        Path("shown.txt").open("a").write(f"{number}\\n")


    @task
    def refuse(letter):
        print("refused", letter.item)
"""


@pytest.fixture
def project(tmp_path):
    made = Project(tmp_path)
    made.write({"plugins/numbers.py": PLUGIN})
    return made


def outcome_of(project, tests, *args, file=FILE):
    project.write({"tasks.toml": file + tests})
    return project.run(*args, verb="test")


def results(project, tests, *args, file=FILE):
    """Return the records of `--json`, by name."""
    outcome = outcome_of(project, tests, "--json", *args, file=file)
    return outcome.exit, {each["name"]: each for each in outcome.json}


def test_tests_of_all_kinds_pass(project):
    status, found = results(
        project,
        """
    [[tests]]
    name = "params and a source as it is"
    params.factor = 5
    expect.queues.products.any_order = [0, 5, 10]
    expect.tasks.count.done = 3
    expect.repeated = 0

    [[tests]]
    name = "dead"
    only = "multiply"
    feed.numbers = [13, 1]
    expect.exit = 4
    expect.queues.products.ordered = [2]
    expect.queues.rejected.ordered = [{ item = 13, error = "Reject: unlucky" }]
    expect.tasks.multiply = { done = 1, dead = 1, tries = 2 }

    [[tests]]
    name = "nothing but an end"

    [[tests]]
    name = "stubs"
    stub.multiply = { fails = 2, error = "OSError: down", gives = { n = "${item}", text = "n=${item}" } }
    stub.show = {}
    expect.queues.products = { count = 3, contains = [{ n = 1, text = "n=1" }], matches = "n=[012]" }
    expect.tasks.multiply.tries = 9
    """,
        "-j",
        "2",
    )
    assert {name: each["differences"] for name, each in found.items() if not each["passed"]} == {}
    assert (status, len(found)) == (0, 4)
    assert [name for name, each in found.items() if each["expects_nothing"]] == ["nothing but an end"]
    assert list(project.path.glob("*.txt")) == []  # each test had a folder of its own


def test_a_failing_test_says_all_that_is_wanted(project):
    outcome = outcome_of(
        project,
        """
    [[tests]]
    name = "wrong product"
    only = ["multiply", "show"]
    feed.numbers = [1, 2]
    expect.queues.products.ordered = [2, 5]
    expect.dropped = 1

    [[tests]]
    name = "good"
    """,
    )
    assert outcome.exit == 1
    line = 1 + (project.path / "tasks.toml").read_text().splitlines().index("[[tests]]")
    text = outcome.out
    assert f"  tasks.toml:{line}\n" in text
    assert "  items in queue `products`, in this order:\n    expected [2, 5]\n    got      [2, 4]\n" in text
    assert "    first difference: item 2: expected 5, got 4\n" in text
    assert "  items dropped:\n    expected 1\n    got      0\n" in text
    assert "    show | product 4\n" in text
    assert "(expects nothing: exit 0 and the balance were checked)" in text
    assert "2 tests: 1 passed, 1 failed" in text.splitlines()[-1]


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_and_a_stopped_one_its_time_limit(project):
    status, found = results(
        project,
        """
    [[tests]]
    name = "killed while it executes"
    stub.multiply = { slow = "300ms" }
    fault = [{ kill = "multiply", after = 1 }]
    expect.queues.products.any_order = [0, 1, 2]
    expect.repeated = 1

    [[tests]]
    name = "killed with a quick item"
    fault = [{ kill = "multiply", after = 1 }]
    expect.queues.products.any_order = [0, 2, 4]

    [[tests]]
    name = "stopped"
    stub.multiply = { slow = "300ms" }
    fault = [{ stop = "multiply", after = 1 }]
    expect.queues.products.any_order = [0, 1, 2]
    expect.tasks.multiply.tries = 4

    [[tests]]
    name = "never"
    feed.numbers = [1]
    fault = [{ kill = "multiply", after = 5 }]
    """,
        "-j",
        "2",
    )
    assert status == 1
    assert {name: each["differences"] for name, each in found.items() if not each["passed"]} == {
        "never": [
            {
                "what": "fault",
                "expected": "of `multiply`, after 5",
                "got": "none: the run had ended before",
                "first": "",
            }
        ]
    }
    killed = "\n".join(found["killed while it executes"]["last_lines"])
    assert "killed by SIGKILL" in killed


@pytest.mark.slow
def test_an_interrupted_run_ends_with_130_and_goes_on_if_it_is_durable(project):
    source = """
    [[tests]]
    name = "interrupted"
    stub.count = { gives = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], slow = "50ms" }
    fault = [{ interrupt_run = 2 }]
    """
    status, found = results(project, source + "expect.exit = 130")
    assert (status, found["interrupted"]["exit_code"]) == (0, 130)
    durable = "[run]\ndurable = true\n" + FILE
    everything = "expect.queues.products.any_order = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]"
    status, found = results(project, source + everything, file=durable)
    assert found["interrupted"]["differences"] == []
    assert "Ctrl-C: sources stop" in "\n".join(found["interrupted"]["last_lines"])


def test_a_test_that_hangs_or_dies_is_over_all_the_same(project):
    project.write({"plugins/bad.py": "import os\nfrom runner import task\n@task\ndef leave(): os._exit(3)\n"})
    status, found = results(
        project,
        """
    [tasks.leave]
    mode = "thread"
    enabled = true
    after = ["count"]

    [[tests]]
    name = "hangs"
    only = "count"
    timeout = "500ms"
    stub.count = { gives = [1], slow = "1m" }

    [[tests]]
    name = "leaves"
    only = "leave"
    """,
        "-j",
        "2",
    )
    assert status == 1
    assert found["hangs"]["differences"][0]["expected"] == "an end within 0.5 s"
    assert found["leaves"]["differences"][0]["got"] == "its process exited with code 3 before the run had ended"


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGINT, signal.SIGTERM))],
)
def test_nothing_is_left_of_tests_when_the_command_ends(project, number):
    tests = """
    [[tests]]
    name = "goes on"
    only = "multiply"
    feed.numbers = [1]
    timeout = "1m"
    stub.multiply = { slow = "50s" }
    """
    project.write({"tasks.toml": FILE.replace('timeout = "1s"', "") + tests})
    running = project.start(verb="test", env={"TMPDIR": str(project.path)})
    end = time.monotonic() + 60
    while len(running.processes()) < 3 or not list(project.path.glob("runner-test-*/output")):
        assert running.process.poll() is None
        assert time.monotonic() < end
    running.process.send_signal(number)
    outcome = running.finish()  # fails if a process is left
    assert outcome.exit == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    if number != signal.SIGKILL:
        assert not list(project.path.glob("runner-test-*"))


TWO = """
    [[tests]]
    name = "multiplied by two"
    expect.queues.products.count = 3

    [[tests]]
    name = "by three"
    expect.queues.products.count = 4

    [[tests]]
    name = "by four"
"""


@pytest.mark.slow
def test_some_tests_again_and_again_until_one_fails(project):
    outcome = outcome_of(project, TWO, "-k", "MULTI", "--repeat", "2")
    assert outcome.exit == 0
    assert [line.partition("  ")[0] for line in outcome.out.splitlines()[:2]] == ["ok", "ok"]
    assert "multiplied by two (2 of 2)" in outcome.out
    outcome = outcome_of(project, TWO, "-x")
    assert outcome.exit == 1
    assert "3 tests: 1 passed, 1 failed, 1 not run" in outcome.out


@pytest.mark.slow
def test_results_for_ci_servers(project):
    outcome = outcome_of(project, TWO, "--junit", "results.xml", "-j", "3")
    assert outcome.exit == 1
    [suite] = ET.parse(project.path / "results.xml").getroot()
    assert {key: suite.get(key) for key in ("name", "tests", "failures", "errors")} == {
        "name": "tasks.toml", "tests": "3", "failures": "1", "errors": "0",
    }  # fmt: skip
    assert [case.get("name") for case in suite] == ["multiplied by two", "by three", "by four"]
    [failure] = suite.findall("testcase/failure")
    assert failure.get("message") == "items in queue `products`: expected 4, got 3"


@pytest.mark.slow
def test_a_file_of_tests_for_another_file(project):
    project.write({"tests/numbers.test.toml": 'file = "../tasks.toml"\n[[tests]]\nname = "a"\nonly = "count"\n'})
    project.write({"tasks.toml": FILE})
    outcome = project.run("tests/numbers.test.toml", verb="test")
    assert outcome.exit == 0, outcome
    assert project.run("tests", "tests/numbers.test.toml", verb="list").out == (
        "a  tests/numbers.test.toml:2  only count; expects nothing but a good end\n"
    )
    project.write({"tests/numbers.test.toml": 'file = "../tasks.toml"\n[[tests]]\nname = "a"\nonly = "cound"\n'})
    outcome = project.run("tests/numbers.test.toml", verb="test")
    assert outcome.exit == 3
    assert "numbers.test.toml:4:8: E201 test `a` has only task `cound`, which does not exist" in outcome.err


def test_a_file_of_tests_is_checked(project):
    project.write({"tasks.toml": FILE, "numbers.test.toml": 'file = "tasks.toml"\n[[tests]]\nname = "a"\n'})
    outcome = project.run("numbers.test.toml", verb="check")
    assert (outcome.exit, outcome.out) == (0, "numbers.test.toml: no problems (1 test of tasks.toml)\n")
    project.write({"numbers.test.toml": '[[tests]]\nname = "a"\nfeed = { numbers = 3 }\n'})
    outcome = project.run("numbers.test.toml", verb="check")
    assert outcome.exit == 3
    assert "E109 the file needs `file`" in outcome.out
    assert "1 error, 0 warnings" not in outcome.out  # `feed.numbers` is wrong as well
    assert "E103" in outcome.out
    assert "E203" not in outcome.out


@pytest.mark.slow
def test_files_beside_the_file(project):
    file = """
    [params]
    list = { type = "path", required = true }
    [queues]
    lines = {}
    [tasks.read]
    call = "std.lines"
    with = { path = "${list}" }
    outputs = "lines"
    [tasks.print]
    call = "builtins:print"
    inputs = "lines"
    """
    project.write({"data/list.txt": "one\ntwo\n"})
    tests = """
    [[tests]]
    name = "read"
    params.list = "${folder}/data/list.txt"
    expect.queues.lines.ordered = ["one", "two"]
    """
    assert outcome_of(project, tests, file=file).exit == 0


@pytest.mark.parametrize(
    ("tests", "args", "status", "said"),
    [
        ("", (), 2, "no test in tasks.toml; a test is a table `[[tests]]`"),
        (TWO, ("-k", "nothing"), 2, "no test whose name has 'nothing' in it"),
        (TWO, ("-",), 2, "not from standard input"),
        (TWO, ("none.toml",), 3, "E101"),
        ('[[tests]]\nname = "a"\nonly = "x"', (), 3, "E201 test `a` has only task `x`"),
        ('[[tests]]\nname = "a"\nparams.factor = "x"', (), 3, "param `factor` must be a whole number"),
    ],
)
def test_what_cannot_be_run(project, tests, args, status, said):
    outcome = outcome_of(project, tests, *args)
    assert outcome.exit == status, outcome
    assert said in outcome.out + outcome.err


def test_a_secret_is_not_shown(project):
    file = FILE.replace("factor = 2", 'factor = { default = 2, secret = true, type = "int" }')
    tests = """
    [[tests]]
    name = "secret"
    params.factor = 987654
    feed.numbers = [1]
    expect.queues.products.ordered = [1]
    """
    outcome = outcome_of(project, tests, "--json", file=file)
    assert outcome.exit == 1
    assert "expected 1, got ***" in outcome.json[0]["differences"][0]["first"]
    assert "987654" not in outcome.out + outcome.err


def test_names_of_tests_are_completed(project, monkeypatch):
    from types import SimpleNamespace

    from runner.cli import shared_options

    project.write({"tasks.toml": FILE + TWO})
    monkeypatch.chdir(project.path)
    context = SimpleNamespace(params={"files": ["tasks.toml"]}, args=[])
    assert shared_options.complete_test(context, [], "by") == ["by three", "by four"]


def test_a_listing_for_programs(project):
    project.write({"tasks.toml": FILE + TWO})
    listed = json.loads(project.run("tests", "--json", verb="list").out)
    assert [(each["name"], each["expects_nothing"]) for each in listed] == [
        ("multiplied by two", False), ("by three", False), ("by four", True),
    ]  # fmt: skip
    assert all(Path(each["file"]).name == "tasks.toml" and each["line"] for each in listed)


def test_a_file_for_many_machines_is_tested_on_this_one(project):
    """And it waits for no run of the file that goes on."""
    more = """
    [run]
    engine = "agents"
    overlap = "refuse"

    [[tests]]
    name = "doubled"
    feed.numbers = [1, 2]
    expect.queues.products.any_order = [2, 4]
    """
    project.write({"tasks.toml": FILE + more})
    outcome = project.run(verb="test")
    assert outcome.exit == 0, outcome
    assert "1 test: 1 passed" in outcome.out + outcome.err
