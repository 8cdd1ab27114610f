"""The fork server of a command is a copy of its process: workers notice nothing of that."""

from __future__ import annotations

import ast
import resource
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the fork server is always an interpreter")

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
        "files": 104,  # as the command has raised it
        "set": "yes",
        "unset": None,
    }


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


@pytest.mark.parametrize(
    ("function", "code"), [("@task(mode='thread')\ndef nothing():\n    pass", 0), ("def nothing(needed):\n    pass", 3)]
)
def test_a_fork_server_without_a_run_ends_with_the_command(project, function, code):
    made = project(
        {"tasks.toml": '[tasks.x]\ncall = "x.nothing"\n', "plugins/x.py": f"from runner import task\n{function}"}
    )
    outcome = made.run()  # which fails if a process is left
    assert outcome.exit == code, outcome
