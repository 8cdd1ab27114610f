"""The fork server of a command is a copy of its process: workers notice nothing of that."""

from __future__ import annotations

import ast
import contextlib
import os
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the fork server is always an interpreter")

#: Not a limit of how quick something is: after that it hangs.
HANG_SECONDS = 30

LOOK = """
    import json, os, resource, sys, traceback
    from multiprocessing import util
    from runner import task

    @task
    def look():
        links = []
        for name in os.listdir("/proc/self/fd"):
            try:
                links.append(os.path.basename(os.readlink(f"/proc/self/fd/{name}")))
            except OSError:  # that of the folder itself
                pass
        return {
            "server": open(f"/proc/{os.getppid()}/cmdline").read().strip("\\0"),
            "typer": [each.filename for each in traceback.extract_stack() if "typer" in each.filename],
            "main": getattr(sys.modules["__main__"], "__spec__", None),
            "hook": sys.excepthook is sys.__excepthook__,
            "held": "held.txt" in links,
            "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "flags": util._args_from_interpreter_flags(),
            "set": os.environ.get("SET_BY_OTHER"),
            "unset": os.environ.get("UNSET_BY_OTHER"),
        }
"""
OTHER = """
    import os
    from runner import task
    os.environ["SET_BY_OTHER"] = "yes"
    os.environ.pop("UNSET_BY_OTHER", None)

    @task
    def nothing():
        pass
"""
TASKS = """
    [tasks.look]
    call = "look.look"
    mode = "process"
    workers = 4
    outputs = ["seen"]
    [tasks.other]
    call = "other.nothing"
    mode = "thread"
    [tasks.show]
    call = "std.print"
    inputs = ["seen"]
    mode = "thread"
    [queues.seen]
"""


def seen(outcome: Any) -> dict[str, Any]:
    assert outcome.exit == 0, outcome
    found: dict[str, Any] = ast.literal_eval(outcome.out[outcome.out.index("{") :].splitlines()[0])
    return found


def test_a_worker_is_as_if_its_fork_server_were_an_interpreter_of_its_own(project, tmp_path):
    made = project({"tasks.toml": TASKS, "plugins/look.py": LOOK, "plugins/other.py": OTHER})
    with Path(tmp_path, "held.txt").open("w") as held:
        outcome = made.run(
            env={"UNSET_BY_OTHER": "no"},
            pass_fds=[held.fileno()],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (80, 4096)),
        )
    found = seen(outcome)
    assert found.pop("server").startswith("runner: fork_server")
    assert found.pop("flags")[-1] == "-P"
    assert found == {
        "typer": [],
        "main": None,
        "hook": True,
        "held": False,
        "files": 108,  # as the command has raised it
        "set": "yes",
        "unset": None,
    }


@pytest.mark.slow
def test_a_run_that_goes_on_has_a_copy_as_well(project):
    fails_once = """
    @task
    def look_again():
        if not os.path.exists("failed"):
            open("failed", "w").close()
            raise ValueError
        return look()
    """
    text = "[run]\ndurable = true\n" + TASKS.replace("look.look", "look.look_again").replace("workers = 4", "")
    made = project({"tasks.toml": text, "plugins/look.py": LOOK + fails_once, "plugins/other.py": OTHER})
    assert made.run().exit == 1
    found = seen(made.start(verb="resume").finish())
    assert found["server"].startswith("runner: fork_server")
    assert found["typer"] == []


@pytest.mark.slow
def test_a_command_that_has_threads_already_starts_an_interpreter(project):
    threads = """
        import threading
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    """
    made = project(
        {"tasks.toml": TASKS, "plugins/look.py": LOOK, "plugins/other.py": OTHER, "sitecustomize.py": threads}
    )
    outcome = made.start(env={"PYTHONPATH": str(made.path)}).finish()
    assert "-c" in seen(outcome)["server"].split("\0")


def test_what_sitecustomize_has_written_ends_in_its_own_file(project):
    """It waits in the buffer of a file whose number a worker would use again."""
    site = """
        kept = [open(f"log-{number}.txt", "a") for number in range(20)]
        for each in kept:
            each.write("begun\\n")
    """
    write = """
        from runner import task
        kept = []

        @task
        def write():
            kept.append(open("out.txt", "w"))
            kept[0].write("written\\n")
    """
    made = project({"tasks.toml": '[tasks.x]\ncall = "x.write"\n', "plugins/x.py": write, "sitecustomize.py": site})
    outcome = made.start(env={"PYTHONPATH": str(made.path)}).finish()
    assert outcome.exit == 0, outcome
    assert "Error" not in outcome.out + outcome.err, outcome
    assert Path(made.path, "out.txt").read_text() == "written\n"
    assert Path(made.path, "log-0.txt").read_text() == "begun\n"


@pytest.mark.slow
def test_a_worker_inherits_what_another_plugin_has_changed(project):
    look = """
        import os, resource
        from runner import task

        @task
        def look():
            umask = os.umask(0)
            return {"umask": umask, "nice": os.nice(0), "size": resource.getrlimit(resource.RLIMIT_FSIZE)[0]}
    """
    change = """
        import os, resource
        from runner import task
        os.umask(0o57)
        os.nice(3)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))

        @task
        def nothing():
            pass
    """
    made = project({"tasks.toml": TASKS, "plugins/look.py": look, "plugins/other.py": change})
    outcome = made.start(preexec_fn=lambda: os.nice(2)).finish()
    assert seen(outcome) == {"umask": 0o57, "nice": 5, "size": 1 << 30}


@pytest.mark.slow
def test_killall_does_not_find_workers_by_the_name_of_the_command(project):
    """A worker that ends by SIGTERM loses the item that it has at hand; the command lets it finish."""
    look = """
        import os
        from runner import task

        @task
        def look():
            return {pid: open(f"/proc/{pid}/comm").read().strip() for pid in ("self", os.getppid())}
    """
    made = project({"tasks.toml": TASKS, "plugins/look.py": look, "plugins/other.py": OTHER})
    command = Path(made.path, "begin-run")
    command.write_text(f"#!{sys.executable}\nfrom runner.__main__ import main\nmain()\n")
    command.chmod(0o700)
    done = subprocess.run([command, "run"], cwd=made.path, capture_output=True, text=True, timeout=60, check=True)
    found = ast.literal_eval(done.stdout[done.stdout.index("{") :].splitlines()[0])
    assert set(found.values()) == {Path(sys.executable).name[:15]}


@pytest.mark.slow
def test_a_daemon_that_a_plugin_forks_at_import_does_not_keep_the_fork_server(project):
    daemon = """
        import os, signal, time
        from pathlib import Path

        children = Path("/proc/self/task", str(os.getpid()), "children").read_text()
        told, tell = os.pipe()
        if not os.fork():
            os.setsid()
            signal.alarm(60)
            Path("said").write_text(f"{os.getpid()} {children}")
            os.close(tell)
            signal.pause()
        os.close(tell)
        os.read(told, 1)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    made = project({"tasks.toml": '[tasks.x]\ncall = "x.x"\n', "plugins/x.py": daemon})
    command = [sys.executable, "-m", "runner", "run"]
    done = subprocess.run(command, cwd=made.path, stdout=subprocess.DEVNULL, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    daemon_pid, server_pid = map(int, Path(made.path, "said").read_text().split())
    try:
        with contextlib.suppress(ProcessLookupError), os.fdopen(os.pidfd_open(server_pid)) as server:
            assert select.select([server], [], [], HANG_SECONDS)[0]
    finally:
        os.kill(daemon_pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "exits"),
    [
        ("from runner.cli.app import app; app(prog_name='runner')", 0),
        (
            "import atexit; atexit.register(print, 'exit', flush=True); from runner.__main__ import main; main()",
            1,
        ),
        pytest.param(
            "import sys; sys.setprofile(lambda *_: None); from runner.__main__ import main; main()",
            0,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_program_that_has_more_than_the_command_in_it_is_not_copied(project, start, exits):
    made = project({"tasks.toml": TASKS, "plugins/look.py": LOOK, "plugins/other.py": OTHER})
    done = subprocess.run(
        [sys.executable, "-c", start, "run"], cwd=made.path, capture_output=True, text=True, timeout=60, check=True
    )
    assert "-c" in ast.literal_eval(done.stdout[done.stdout.index("{") :].splitlines()[0])["server"].split("\0")
    assert "Traceback" not in done.stderr
    assert done.stdout.count("exit") == exits


@pytest.mark.parametrize(
    ("function", "code"), [("@task(mode='thread')\ndef nothing():\n    pass", 0), ("def nothing(needed):\n    pass", 3)]
)
def test_a_fork_server_without_a_run_ends_with_the_command(project, function, code):
    made = project(
        {"tasks.toml": '[tasks.x]\ncall = "x.nothing"\n', "plugins/x.py": f"from runner import task\n{function}"}
    )
    outcome = made.run()  # which fails if a process is left
    assert outcome.exit == code, outcome
