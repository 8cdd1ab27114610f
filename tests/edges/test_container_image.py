"""The steps of the Dockerfile, performed without a container engine.

In a mount namespace of its own, where /opt, /etc and /home are copies, each RUN is executed as it stands; the entry point
then is process 1 of a process namespace, as the image's user. What is not shown is the base image itself.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from helpers import ROOT

LIMIT = 120.0
KEYWORDS = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "STOPSIGNAL", "ENTRYPOINT"}


@dataclass
class Stage:
    """One stage of the file: its steps in order, as (keyword, rest)."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, keyword: str) -> str:
        return [rest for word, rest in self.steps if word == keyword][-1]

    def all(self, keyword: str) -> list[str]:
        return [rest for word, rest in self.steps if word == keyword]


def stages() -> list[Stage]:
    found: list[Stage] = []
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        keyword, _, rest = line.partition(" ")
        assert keyword in KEYWORDS, f"a step that this test cannot perform: {line}"
        if keyword == "FROM":
            found.append(Stage(rest))
        elif keyword != "ARG":
            found[-1].steps.append((keyword, rest.strip()))
    return found


def is_ignored(path: str) -> bool:
    """Return True if .dockerignore keeps a path at the top out of the build; the last line that fits counts."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().split():
        if fnmatch.fnmatch(path, line.removeprefix("!").removeprefix("**/")):
            ignored = not line.startswith("!")
    return ignored


def test_the_file_says_what_an_image_needs() -> None:
    build, final = stages()
    assert build.base.endswith(" AS build")
    assert "-slim" in final.base
    for copy in build.all("COPY"):
        *sources, _ = copy.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert not is_ignored(source), source
    for name in (".git", ".venv", "tests", "docs", ".runner"):
        assert is_ignored(name), name
    needed = re.findall(
        r'^(?:readme = "(.+)"|license-files = \["(.+?)")', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    copied = " ".join(build.all("COPY"))
    assert all(word in copied for words in needed for word in words if word)
    user, _, group = final.last("USER").partition(":")
    assert int(user) > 0, "not root"
    assert int(group) > 0, "not root's group"
    assert json.loads(final.last("ENTRYPOINT")) == ["runner", "run"]
    assert final.last("STOPSIGNAL") == "SIGTERM"
    assert final.all("COPY") == ["--from=build /opt/runner /opt/runner"], "no build tool is taken along"


# -- performed -------------------------------------------------------------------------------------

MAY_MOUNT = os.geteuid() == 0 and all(map(shutil.which, ("unshare", "setpriv", "mount", "useradd", "install")))

#: The machine as the image shows it: folders of its own, and this Python where every user may execute it.
SETUP = """
set -e
for name in opt etc home; do mount --bind "$IMAGE/$name" "/$name"; done
hidden={hidden}
if [ -n "$hidden" ]; then
    mkdir -p "$IMAGE/python" && mount --bind {python} "$IMAGE/python"
    mount -t tmpfs -o mode=755 tmpfs "$hidden"
    mkdir -p {python} && mount --bind "$IMAGE/python" {python}
fi
export PATH={python}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
"""


def hidden_folder(path: Path) -> str:
    """Return the first folder above a path that other users may not enter; empty if there is none."""
    for folder in (*reversed(path.parents), path):
        if not folder.stat().st_mode & 0o001:
            return str(folder)
    return ""


@dataclass
class Image:
    """The folders of an image, and how a command is executed in it."""

    path: Path

    def script(self, command: str) -> list[str]:
        python = Path(sys.base_prefix)
        setup = SETUP.format(hidden=shlex.quote(hidden_folder(python)), python=shlex.quote(str(python)))
        return ["unshare", "--mount", "sh", "-c", setup + command]

    def build(self) -> None:
        for name in ("opt", "home"):
            (self.path / name).mkdir(parents=True)
        shutil.copytree("/etc", self.path / "etc", symlinks=True, ignore_dangling_symlinks=True)
        first, final = stages()
        workdir = self.path / first.last("WORKDIR").lstrip("/")
        workdir.mkdir()
        for copy in first.all("COPY"):
            *sources, target = copy.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, workdir / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, workdir / target / source)
        self.perform([f"cd {first.last('WORKDIR')}", *first.all("RUN")])
        shutil.rmtree(workdir)  # the final stage begins anew, and takes what it copies
        self.perform(final.all("RUN"))

    def perform(self, commands: list[str]) -> None:
        done = subprocess.run(
            self.script("\n".join(commands)), env=self.environment(), capture_output=True, text=True, timeout=LIMIT * 3
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def environment(self) -> dict[str, str]:
        return {"IMAGE": str(self.path), "HOME": "/home/job", **{n: v for n, v in os.environ.items() if "PIP" in n}}

    def start(self, files: dict[str, str], *words: str) -> subprocess.Popen[str]:
        """Start the entry point on a job, as process 1 and as the user of the image."""
        job = self.path / "home" / "job"
        for path in job.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name, text in files.items():
            (job / name).parent.mkdir(exist_ok=True)
            (job / name).write_text(text)
        final = stages()[-1]
        user, _, group = final.last("USER").partition(":")
        entry = shlex.join([*json.loads(final.last("ENTRYPOINT")), *words])
        variables = f"export {final.last('ENV')}; cd {final.last('WORKDIR')}"
        as_user = f"setpriv --reuid={user} --regid={group} --clear-groups --inh-caps=-all {entry}"
        return subprocess.Popen(
            self.script(f"{variables}\nexec unshare --pid --fork --mount-proc {as_user}"),
            env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )  # fmt: skip


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    if not MAY_MOUNT or subprocess.run(["unshare", "-mpf", "--mount-proc", "true"], check=False).returncode:
        pytest.skip("needs root and namespaces")
    made = Image(tmp_path_factory.mktemp("image"))
    for folder in (made.path, *made.path.parents):
        if folder.stat().st_uid == os.geteuid() and folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    made.build()
    return made


PLUGIN = """
import os, subprocess, time
from runner import task

@task
def tell():
    print("user", os.getuid(), os.getgid(), "first", open("/proc/1/cmdline").read().split("\\0")[1:-1])

@task
def orphan():
    '''A program whose parent has ended is reaped by process 1: it does not stay as a zombie.'''
    pid = int(subprocess.run(["sh", "-c", "true & echo $!"], capture_output=True, text=True).stdout)
    until = time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < until, open(f"/proc/{pid}/status").read()
        time.sleep(0.01)
    print("reaped")

@task
def fail():
    raise ValueError("as it should")

@task
def numbers():
    for number in range(10**9):
        yield number
        open("going", "a").close()
        time.sleep(0.01)
"""
TELL = '[tasks.{0}]\ncall = "{0}"\nmode = "process"\n'
STREAM = '[queues]\na = {}\n[tasks.numbers]\ncall = "numbers"\noutputs = ["a"]\n[tasks.show]\ncall = "builtins:abs"\ninputs = ["a"]\n'


def job(tasks: str) -> dict[str, str]:
    return {"tasks.toml": tasks, "plugins/x.py": PLUGIN}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_image_has_runner_and_no_build_tools(image: Image) -> None:
    installed = {path.name for path in (image.path / "opt" / "runner" / "bin").iterdir()}
    assert "runner" in installed
    assert not {name for name in installed if name.startswith(("pip", "easy_install", "hatch", "wheel"))}
    libraries = {path.name for path in (image.path / "opt" / "runner").glob("lib/python*/site-packages/*")}
    assert {"runner", "msgspec", "psutil"} <= libraries
    assert not {"pip", "setuptools", "hatchling", "wheel", "pytest"} & libraries
    assert [path.name for path in (image.path / "opt").iterdir()] == ["runner"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_process_1_is_no_root_reaps_and_ends_as_the_run(image: Image) -> None:
    good = image.start(job(TELL.format("tell") + TELL.format("orphan")))
    out, err = good.communicate(timeout=LIMIT)
    assert good.returncode == 0, err
    assert "user 10001 10001 first ['/opt/runner/bin/runner', 'run']" in out
    assert "reaped" in out
    assert (image.path / "home" / "job" / ".runner").stat().st_uid == 10001
    bad = image.start(job(TELL.format("fail")))
    assert "as it should" in bad.communicate(timeout=LIMIT)[1]
    assert bad.returncode == 1
    wrong = image.start(job("[tasks.none]\n"), "tasks.toml")
    wrong.communicate(timeout=LIMIT)
    assert wrong.returncode == 3


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_sigterm_to_process_1_drains(image: Image) -> None:
    running = image.start(job(STREAM), "tasks.toml")
    going = image.path / "home" / "job" / "going"
    until = time.monotonic() + LIMIT
    while not going.exists() and running.poll() is None:
        assert time.monotonic() < until
        threading.Event().wait(0.01)
    [first] = psutil.Process(running.pid).children()  # of `unshare`, which `sh` has become
    first.send_signal(signal.Signals[stages()[-1].last("STOPSIGNAL")])
    out, err = running.communicate(timeout=LIMIT)
    assert running.returncode == 128 + signal.SIGTERM, out + err
    assert re.search(r"(\d+) read = \1 done \+ 0 dead \+ 0 dropped \+ 0 left", err), err
