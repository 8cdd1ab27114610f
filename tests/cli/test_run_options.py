"""Options of `runner run` for trials: params from a file, and the first items of each source."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runner.cli import notify

FILE = """
    [params.count]
    type = "int"
    required = true
    [params.name]
    default = "x"
    [params.token]
    default = ""
    secret = true
    [queues]
    a = {}
    [tasks.numbers]
    with = { count = "${count}", name = "${name}" }
    env = { TOKEN = "${token}" }
    outputs = "a"
    [tasks.keep]
    call = "std.write_jsonl"
    with = { path = "out.jsonl" }
    inputs = "a"
"""
PLUGIN = """
    from runner import task

    @task
    def numbers(count: int, name: str):
        for number in range(count):
            yield f"{name}{number}"
"""


def make(project: Any, **files: str) -> Any:
    return project({"tasks.toml": FILE, "plugins/work.py": PLUGIN, **files})


def written(made: Any) -> list[str]:
    return [json.loads(line) for line in (made.path / "out.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("mode", ["process", pytest.param("thread", marks=pytest.mark.slow)])
def test_a_trial_takes_the_first_items(project: Any, mode: str) -> None:
    made = make(project)
    sets = ["--set", f'tasks.numbers.mode="{mode}"', "--set", "tasks.numbers.env={}"]
    outcome = made.run("--limit", "3", "-p", "count=1000000", *sets)
    assert outcome.exit == 0, outcome
    assert "3 read = 3 done + 0 dead + 0 dropped + 0 left; `numbers` had not ended" in outcome.err
    assert written(made) == ["x0", "x1", "x2"]


def test_a_trial_of_a_durable_run_is_refused(project: Any) -> None:
    outcome = make(project).run("--limit", "3", "--durable", "-p", "count=9")
    assert outcome.exit == 2, outcome
    assert "--limit is for a trial" in outcome.err
    outcome = make(project).run("--limit", "3", "--set", "run.durable=true", "-p", "count=9")
    assert outcome.exit == 2, outcome


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.toml", 'count = 2\nname = "y"\n'),
        ("p.json", '{"count": 2, "name": "y"}'),
        ("p.env", "# of this job\nexport count=2\nname='y' # a name\n"),
        ("noname", "count = 2\nname=y\n"),
    ],
)
def test_params_come_from_a_file_and_the_command_line_goes_first(project: Any, name: str, text: str) -> None:
    made = make(project, **{name: text})
    outcome = made.run("--params", name)
    assert outcome.exit == 0, outcome
    assert written(made) == ["y0", "y1"]
    outcome = made.run("--params", name, "-p", "name=z")
    assert outcome.exit == 0, outcome
    assert written(made) == ["z0", "z1"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.toml", 'token = "hidden\n', "--params p.toml:1: it is not valid TOML"),
        ("p.json", '{"token": "hidden"', "--params p.json:1: it is not JSON"),
        ("p.json", '["hidden"]', "--params p.json: an object with the params' names is needed"),
        ("p.env", "count=1\n=hidden\n", "--params p.env:2: it is not NAME=VALUE"),
        ("other", "", "--params p.env: No such file or directory"),
    ],
)
def test_a_file_that_has_none_is_refused_and_its_secrets_are_not_shown(
    project: Any, name: str, text: str, said: str
) -> None:
    outcome = make(project, **{name: text}).run("--params", name if text else "p.env")
    assert outcome.exit == 2, outcome
    assert said in outcome.err
    assert "hidden" not in outcome.err


@pytest.mark.parametrize("text", ["count=1\nwrong=hidden\n", "count=hidden\n"])
def test_a_param_that_does_not_fit_is_an_error_of_the_file(project: Any, text: str) -> None:
    outcome = make(project, **{"p.env": text}).run("--params", "p.env")
    assert outcome.exit == 3, outcome
    assert "E111" in outcome.err or "E113" in outcome.err


NOTIFY = 'env | grep ^RUNNER_ | sort > told; echo "$RUNNER_OUTCOME"'


def test_a_command_is_told_how_the_run_has_ended(project: Any) -> None:
    made = make(project)
    outcome = made.run("-p", "count=3", "--notify", NOTIFY)
    assert outcome.exit == 0, outcome
    told = dict(line.split("=", 1) for line in (made.path / "told").read_text().splitlines())
    assert told["RUNNER_EXIT_CODE"] == "0"
    assert told["RUNNER_OUTCOME"] in outcome.out
    assert told["RUNNER_OUTCOME"].startswith(f"{told['RUNNER_READ']} read = {told['RUNNER_DONE']} done")
    assert told["RUNNER_RUN"] in [each.name for each in (made.path / ".runner" / "runs").iterdir()]


def test_a_command_that_fails_or_hangs_changes_no_exit_code(
    project: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make(project)
    outcome = made.run("-p", "count=3", "--notify", "exit 7")
    assert outcome.exit == 0, outcome
    assert "--notify: exit 7: exit 7" in outcome.err
    notify.notify("sleep 60 & sleep 60", {}, limit=0.05)
    assert capsys.readouterr().err == "--notify: sleep 60 & sleep 60: ended after 50ms\n"


CAPPED = """
    [queues]
    a = {}
    b = {}
    c = {}
    [tasks.make]
    call = "std.range"
    args = [0, 30]
    mode = "process"
    workers = 3
    outputs = ["a"]
    [tasks.first]
    call = "work.who"
    workers = 5
    inputs = ["a"]
    outputs = ["b"]
    [tasks.second]
    call = "work.who"
    workers = "auto"
    inputs = ["b"]
    outputs = ["c"]
    [tasks.threads]
    call = "work.who"
    mode = "thread"
    workers = 4
    inputs = ["c"]
"""
WHO = """
    from runner import Context, task

    @task
    def who(item: object, context: Context) -> object:
        with open(f"{context.task}.workers", "a") as file:
            file.write(context.worker + "\\n")
        return item
"""


@pytest.mark.parametrize(
    ("jobs", "first", "second"),
    [
        pytest.param("1", 1, 1, marks=pytest.mark.slow),
        pytest.param("4", 2, 2, marks=pytest.mark.slow),
        ("7", 4, 3),
        pytest.param("100", 5, 95, marks=pytest.mark.slow),
    ],
)
def test_jobs_caps_the_processes_of_tasks_with_inputs(project: Any, jobs: str, first: int, second: int) -> None:
    outcome = project({"tasks.toml": CAPPED, "plugins/work.py": WHO}).run("-j", jobs, "--dry-run")
    assert outcome.exit == 0, outcome
    assert f"{3 + first + second} processes and 4 threads" in outcome.out


@pytest.mark.parametrize(("jobs", "told"), [("7", "9 to 10"), pytest.param("2", "5", marks=pytest.mark.slow)])
def test_of_a_range_jobs_caps_the_most(project: Any, jobs: str, told: str) -> None:
    text = CAPPED.replace("workers = 5", 'workers = "2..5"')
    outcome = project({"tasks.toml": text, "plugins/work.py": WHO}).run("-j", jobs, "--dry-run")
    assert outcome.exit == 0, outcome
    assert f" {told} processes and 4 threads" in outcome.out


@pytest.mark.slow
def test_no_other_worker_executes_an_item(project: Any) -> None:
    made = project({"tasks.toml": CAPPED.replace("workers = 3", "workers = 1"), "plugins/work.py": WHO})
    outcome = made.run("-j", "2")
    assert outcome.exit == 0, outcome
    assert "30 read = 30 done" in outcome.err
    assert {*(made.path / "first.workers").read_text().split()} == {"first-1"}
    assert len({*(made.path / "second.workers").read_text().split()}) == 1
    assert len((made.path / "threads.workers").read_text().split()) == 30


@pytest.mark.parametrize(
    ("option", "environment", "colored"),
    [
        pytest.param("always", "", True, marks=pytest.mark.slow),
        ("always", "1", True),
        pytest.param("never", "", False, marks=pytest.mark.slow),
        pytest.param("auto", "", False, marks=pytest.mark.slow),
    ],
)
def test_color_goes_before_the_environment(project: Any, option: str, environment: str, colored: bool) -> None:
    text = "[tasks.say]\n"
    plugin = "from runner import task\n@task(mode='thread')\ndef say() -> None:\n    print('x')\n"
    env = {"NO_COLOR": environment} if environment else {}
    outcome = project({"tasks.toml": text, "plugins/work.py": plugin}).run("--color", option, env=env)
    assert (outcome.exit, "\x1b[" in outcome.out) == (0, colored), outcome


def test_a_color_that_there_is_not(project: Any) -> None:
    outcome = make(project).run("--color", "blue", "-p", "count=1")
    assert (outcome.exit, "--color knows auto, always, never" in outcome.err) == (2, True), outcome
