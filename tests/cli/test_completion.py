"""Completion: what is offered, that nothing of the project is executed for it, and what real shells make of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from helpers import ROOT, examples
from hypothesis import given
from hypothesis import strategies as st
from topology_runs import wait_for

from runner.cli import completion

SCRIPTS = ROOT / "runner/cli/completions"
BREAKS = "\"'@><=;|&(:"
TASKS = """
    [params]
    kind = { default = "rye", choices = ["rye", "wheat", "$(touch pwned)", "x\\\\\\" <(touch pwned) `touch pwned` 'y"], help = "a 'kind': $(touch pwned)" }
    zed = { default = "zero", choices = ["zero", 'z\\\\\\" <(touch pwned) \\\\\\"'] }
    keys = 1
    out = { type = "path", default = "x" }
    [queues]
    bread = {}
    [tasks.bake]
    outputs = "bread"
    [tasks.eat]
    inputs = "bread"
    help = "eats `touch pwned`"
    [[tests]]
    name = "two perform; $(touch pwned)"
    [[tests]]
    name = "two's company: all"
"""
EVIL = "open('executed', 'w').close()\n"
FILES = {"tasks.toml": TASKS, "plugins/bakery.py": EVIL, "other/data.txt": "", "broken.toml": "[tasks.a\n"}


@pytest.fixture
def made(project):
    return project(FILES)


def offered(made, line, shell="zsh", **env):
    environ = {"_RUNNER_COMPLETE": shell, "_RUNNER_LINE": line, "_RUNNER_WORDBREAKS": BREAKS, **env}
    outcome = made.run(env=environ)
    assert (outcome.exit, outcome.err) == (0, ""), outcome
    assert not (made.path / "executed").exists()
    return outcome.out.splitlines()


def values(made, line, **env):
    return [row.partition("\t")[0] for row in offered(made, line, **env)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("runner sc", ["schema"]),
        ("runner dead re", ["retry"]),
        ("runner run -t ", ["bake", "eat"]),
        ("runner run --skip b", ["bake"]),
        ("runner run -p ke", ["keys="]),
        ("runner run --param=ke", ["--param=keys="]),
        ("runner run --param kind=w", ["kind=wheat"]),
        ("runner run -p out=", []),
        ("runner run --set queues.bread.si", ["queues.bread.size="]),
        ("runner run --engine ", ["local", "agents", "ray"]),
        ("runner run --no-plugin ", ["bakery"]),
        ("runner resume --drop ", ["bread"]),
        ("runner dead retry --task ", ["bake", "eat"]),
        ("runner test -k 'two pe", ["two perform; $(touch pwned)"]),
        ("runner run broken.toml -t ", []),
        ("runner top ", []),
        ("runner run -p", ["-p"]),
        ("runner check --forma", ["--format"]),
    ],
)
def test_what_is_offered(made, line, expected):
    assert values(made, line) == expected


@pytest.mark.parametrize("line", ["", "runner", "runner no-such-verb ", "runner run '", "runner run \\", "a\0b"])
def test_an_odd_line_is_answered_in_silence(made, line):
    if "\0" in line:
        assert completion.split_line(line).current == line
    else:
        offered(made, line)


def test_help_stands_behind_a_word(made):
    assert "eat\teats `touch pwned`" in offered(made, "runner run -t ")
    assert "eat\teats `touch pwned`" in offered(made, "runner run -t ", shell="fish")
    assert offered(made, "runner run -t e", shell="bash") == ["eat"]


def test_the_version_is_not_offered(made):
    assert not [each for each in values(made, "runner --version ") if "0." in each]


def test_runs_are_offered_by_id(made, tmp_path):
    runs = ["20261129-090000", "20261130-100000"]
    for when, run in enumerate(runs):
        made.write({f".runner/runs/{run}/record.json": "{}"})
        os.utime(made.path / f".runner/runs/{run}/record.json", (when, when))
    made.write({f".runner/runs/{runs[1]}/ledger.db": "", f".runner/runs/{runs[0]}/dead.jsonl": ""})
    assert values(made, "runner report ") == [*reversed(runs), "last"]
    assert values(made, "runner report --compare ") == [*reversed(runs), "last"]
    assert values(made, f"runner graph --run {runs[0]}") == [runs[0]]
    assert values(made, "runner resume ") == [runs[1], "last"]
    assert values(made, "runner dead show ") == [runs[0], "last"]
    assert values(made, "runner dead show --state nowhere ") == ["last"]


@pytest.mark.slow
def test_a_run_that_goes_on_is_offered(project):
    made = project({
        "tasks.toml": '[tasks.sleep]\ncall = "std.sleep"\nargs = [0, 60]\nmode = "thread"\n',
    })  # fmt: skip
    running = made.fork("--events", "events.jsonl")
    events = made.path / "events.jsonl"
    wait_for(lambda: events.exists() and "WorkerReady" in events.read_text())
    [run] = [path.name for path in (made.path / ".runner/runs").iterdir()]
    environ = {"_RUNNER_COMPLETE": "bash", "_RUNNER_LINE": "runner stop "}
    done = subprocess.run(
        [sys.executable, "-m", "runner"], cwd=made.path, env={**os.environ, **environ}, capture_output=True, text=True
    )
    running.process.send_signal(signal.SIGINT)
    assert running.finish().exit == 130
    assert done.stdout == f"{run}\n", done


def test_a_command_of_a_plugin_is_offered_and_not_imported(project):
    info = {
        "site/oven-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: oven\nVersion: 1.0\n",
        "site/oven-1.0.dist-info/entry_points.txt": "[runner.commands]\noven = oven:app\n",
        "site/oven.py": EVIL,
    }
    made = project({**FILES, **info})
    path = os.pathsep.join([str(made.path / "site"), *filter(None, sys.path)])
    assert values(made, "runner ov", PYTHONPATH=path) == ["oven"]
    assert values(made, "runner oven ", PYTHONPATH=path) == []
    assert values(made, "runner oven --no", PYTHONPATH=path) == []


LIGHT = """
import os, sys
import typer.main
from runner.cli import app, completion
program = typer.main.get_command(app.app)
for line in ("runner ", "runner run -p ", "runner run -t ", "runner report ", "runner test -k ", "runner run --no-plugin "):
    assert completion.complete_line(program, {"_RUNNER_COMPLETE": "bash", "_RUNNER_LINE": line}), line
heavy = {"pydantic", "jinja2", "pluggy", "sqlite3", "rich.console", "runner.runs"}
print(sorted(heavy & {*sys.modules}))
"""


def test_completion_is_light(made):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT],
        cwd=made.path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[]\n", done
    assert not (made.path / "executed").exists()


@examples(40, 200)
@given(st.lists(st.text(st.characters(exclude_categories=["C"]), min_size=1), max_size=4))
def test_words_that_the_shell_quotes_are_read_as_they_were(words):
    import shlex

    line = "".join(f"{shlex.quote(word)} " for word in words)
    assert completion.split_line(line).words == tuple(words)
    for word in words:
        written = completion._write_bash(word, "", completion.ShellLine((), ""))
        assert shlex.split(written) == [word]
        half = completion.split_line(f'x "{word[:1]}'.replace("\\", "\\\\")) if word[0] not in "\"'" else None
        assert half is None or half.quote == '"'


@examples(40, 200)
@given(st.text())
def test_no_line_is_refused(line):
    found = completion.split_line(line, BREAKS)
    assert 0 <= found.begin <= len(found.current)


def test_typer_takes_runners_scripts(made):
    for shell in ("bash", "zsh", "fish"):
        completion.use_own_scripts()
        from typer._completion_shared import get_completion_script

        script = get_completion_script(prog_name="runner", complete_var="_RUNNER_COMPLETE", shell=shell)
        assert script == (SCRIPTS / f"runner.{shell}").read_text().strip()


# -- real shells ----------------------------------------------------------------------------------------------------

#: How each shell is started without a person's settings, and how a key writes the line to a file.
SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        """bind 'set enable-bracketed-paste off'; bind 'set bell-style none'
source "{script}"
bind -x '"\\C-g": printf "%s" "$READLINE_LINE" >line.new; mv line.new line'
""",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        """autoload -Uz compinit; compinit -D; unsetopt BEEP; bindkey -e
source "{script}"
write-line() {{ print -rn -- "$BUFFER" >line.new; mv line.new line }}; zle -N write-line; bindkey '^G' write-line
""",
    ),
    "fish": (
        ["fish", "--no-config", "-i"],
        """source "{script}"
bind \\cg 'commandline >line.new; mv line.new line'
""",
    ),
}


class ShellSession:
    """A shell at a terminal, in which keys are pressed."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder, self.line = folder, folder / "line"
        command, setup = SHELLS[name]
        (folder / "setup").write_text(setup.format(script=SCRIPTS / f"runner.{name}"))
        self.terminal, inner = pty.openpty()
        termios.tcsetwinsize(inner, (40, 150))
        bin_folder = str(Path(sys.executable).parent)
        env = {"PATH": f"{bin_folder}:/usr/bin:/bin", "HOME": str(folder), "TERM": "dumb", "LC_ALL": "C.UTF-8"}
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=inner, stdout=inner, stderr=inner, env=env, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(inner)
        self.said = b""
        self.press("source ./setup; touch ready\r")
        self.wait_for(folder / "ready")

    def press(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def wait_for(self, file: Path) -> None:
        limit = time.monotonic() + 60
        while not file.exists():
            assert time.monotonic() < limit, self.said.decode(errors="replace")
            if select.select([self.terminal], [], [], 0.02)[0]:
                with contextlib.suppress(OSError):
                    self.said += os.read(self.terminal, 65536)

    def complete(self, typed: str) -> str:
        """Return what the line is after TAB."""
        self.line.unlink(missing_ok=True)
        self.press(typed + "\t\x07")
        self.wait_for(self.line)
        found = self.line.read_text().removesuffix("\n")
        self.press("\x05\x15")  # to the end of the line, and all of it away
        return found

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait()
        os.close(self.terminal)


LINES = [
    ("runner sche", "runner schema "),
    ("runner run -p ke", "runner run -p keys="),
    ("runner run -p kind=wh", "runner run -p kind=wheat "),
    ("runner run --param=kind=wh", "runner run --param=kind=wheat "),
    ("runner run -p out=oth", "runner run -p out=other/"),
    ("runner run -C othe", "runner run -C other/"),
    ("runner run 'bro", {"runner run 'broken.toml' ", "runner run broken.toml "}),
]
#: What is in a file is inserted, quoted, and never executed.
HOSTILE = {
    "bash": [
        ("runner test -k two\\'", "runner test -k two\\'s\\ company:\\ all "),
        ('runner test -k "two p', 'runner test -k "two perform; \\$(touch pwned)" '),
        ("runner run -p 'kind=$", "runner run -p 'kind=$(touch pwned)' "),
        ("runner run -p kind=x", "runner run -p kind=x\\\\\\\"\\ \\<\\(touch\\ pwned\\)\\ \\`touch\\ pwned\\`\\ \\'y "),
    ],
    "zsh": [
        ("runner run -p zed=", "runner run -p zed=z"),  # typer's script executes the second choice
        ("runner test -k 'two p", "runner test -k 'two perform; $(touch pwned)' "),
        ("runner run -p kind=x", "runner run -p kind=x\\\\\\\"\\ \\<\\(touch\\ pwned\\)\\ \\`touch\\ pwned\\`\\ \\'y "),
    ],
    "fish": [
        ("runner test -k 'two p", "runner test -k 'two perform; $(touch pwned)' "),
        ("runner run -p kind=x", "runner run -p kind=x\\\\\\\"\\ \\<\\(touch\\ pwned\\)\\ `touch\\ pwned`\\ \\'y "),
    ],
}


@pytest.mark.slow  # each TAB starts runner, about ten times in a shell
@pytest.mark.parametrize("name", list(SHELLS))
def test_a_real_shell_completes(made, name):
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    shell = ShellSession(name, made.path)
    try:
        for typed, expected in [*LINES, *HOSTILE[name]]:
            found = shell.complete(typed)
            assert found in (expected if isinstance(expected, set) else {expected}), (typed, found, shell.said[-500:])
    finally:
        shell.end()
    assert not (made.path / "pwned").exists()
    assert not (made.path / "executed").exists()
