"""What `kill -9` does to durable runs: `python -m bench.kills [--kills N]`, a table of what is lost, or there twice.

    job (warm: runner is imported) ── fork ──▶ `runner run --resume` in a session of its own
                                   ── at a random moment ──▶ kill -9 to its process group, and the same command again
                                   ◀── it ends by itself: the files that it has written, and what was executed, are read

A run is killed some times, unless it ends before that, and then comes to its end; another one begins, of another form;
in half of them each commit takes 5 or 20 ms longer. Nothing of runner's own is asked: what is there is counted in the
files that its sinks have written, and an id of two items is found in what its function has noted of each call.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import ctypes
import itertools
import json
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NoReturn

from msgspec import Struct, field, structs

#: What a command imports, so that the copy of this process that becomes one has it.
WARM = (
    "runner.cli.app",
    "runner.cli.durable_command",
    "runner.cli.run",
    "runner.runs",
    "runner.check",
    "runner.engines.early_fork",
    "runner.engines.processes",
    "runner.engines.threads",
    "runner.plugins.hooks",
    "runner.plugins.lookup",
    "runner.report.console",
    "runner.std.sinks",
    "runner.std.sources",
    "runner.store.durable_folder",
    "runner.store.run_lock",
    "runner.supervisor.loop",
    "runner.transport.lease_page",
    "typer._adapters",  # private; for verbs that take a path
)
PLUGIN = """
import asyncio
import time
from runner import Context, Inbox, Outbox, task

@task
def numbers(count: int):
    yield from range(count)

@task
def put_numbers(outbox: Outbox, *, count: int):
    for number in range(count):
        outbox.put(number)

@task
def saved_numbers(count: int, *, context: Context):
    for number in range(context.saved or 0, count):
        yield number
        if number % 40 == 39:
            context.save(number + 1)

@task
def large_numbers(count: int):
    for number in range(count):
        yield number.to_bytes(4, "big") * (20_000 if number % 40 == 0 else 1)

@task
def laned_numbers(count: int):
    for number in range(count):
        yield {"lane": number % LANES, "number": number}

def number_of(item):
    if isinstance(item, bytes):
        return int.from_bytes(item[:4], "big")
    return item["number"] if isinstance(item, dict) else int(item)

def note(item, context):
    number = number_of(item)
    with open("executed", "a") as file:
        file.write(f"{context.run}:{context.item_id} {number}\\n")
    return number

def execute(item, fails, context):
    number = note(item, context)
    if fails and number % 7 == 3:
        raise ValueError(f"not {number}")
    return number

@task
def call(item, *, seconds: float, fails: bool, context: Context):
    time.sleep(seconds)
    return execute(item, fails, context)

@task
def pieces(item, *, seconds: float, fails: bool, context: Context):
    time.sleep(seconds)
    yield execute(item, fails, context)

@task
async def side_by_side(item, *, seconds: float, fails: bool, context: Context):
    await asyncio.sleep(seconds)
    return execute(item, fails, context)

@task
class Made:
    def __init__(self, *, seconds: float, fails: bool, context: Context):
        self.seconds, self.fails, self.context = seconds, fails, context

    def __call__(self, item):
        time.sleep(self.seconds)
        return execute(item, self.fails, self.context)

@task
def batches(items: list, *, seconds: float, fails: bool, context: Context):
    time.sleep(seconds * len(items))
    with open("executed", "a") as file:
        file.write("batch\\n" * len(items))
    yield from map(number_of, items)

@task
def pulled(inbox: Inbox, outbox: Outbox, *, seconds: float, fails: bool, context: Context):
    for item in inbox:
        time.sleep(seconds)
        outbox.put(note(item, context))

@task
def failed(letter):
    return int(letter.error.rpartition(" ")[2])

@task
def copied(item, *, context: Context):
    return note(item, context)
"""
#: For the runs whose commits take longer: what is between an effect and its commit is then hit more often.
SLOW_COMMITS = """
from runner.store.ledger_file import LedgerFile

write_groups = LedgerFile.write_groups

def write_slowly(self, groups, notes=None):
    time.sleep(SECONDS)
    write_groups(self, groups, notes)

LedgerFile.write_groups = write_slowly
"""
#: The functions of `work`; those of the second line do not fail: a batch is one letter, what `pulled` raises ends it.
CALLS = ("call", "pieces", "side_by_side", "Made")
CALLS_THAT_DO_NOT_FAIL = ("batches", "pulled")
#: So many lanes have the items of `laned_numbers`.
LANES = 11
SOURCES = {
    **{
        name: f'call = "{name}"\nwith = {{ count = COUNT }}'
        for name in ("numbers", "put_numbers", "saved_numbers", "large_numbers", "laned_numbers")
    },
    "range": 'call = "std.range"\nargs = [0, COUNT]',
    "lines": 'call = "std.lines"\nwith = { path = "in.txt" }',
    "keyed_lines": 'call = "std.lines"\nwith = { path = "in.txt" }\nkey = "."',
}
COUNT = 300
ITEM_SECONDS = 0.0008
#: A run is killed so often at most; by then most have come to their end.
MOST_KILLS = 20
#: So long after its first items a command is killed at most, in seconds.
LONGEST_WORK = 0.15
#: The share of commands that are killed at some moment of their start; the others, after their first items.
EARLY_SHARE = 0.3
#: So often a command is looked at.
POLL_SECONDS = 0.003
#: A command that has not ended by then hangs.
HANG_SECONDS = 120.0
#: An item that is executed at three deaths of everything is a dead letter, as it should be; here none is to blame. So
#: from then on a run is as after a power failure, after which nothing is known of what was executed.
BLAMED_KILLS = 2
_PR_SET_CHILD_SUBREAPER = 36


class Tally(Struct):
    """What has come of all runs of a kind: the sums that make a row of the table."""

    runs: int = 0
    kills: int = 0
    #: Kills of commands that had executed an item by then; the others were about to begin, or to go on.
    at_work: int = 0
    items: int = 0
    lost: int = 0
    twice: int = 0
    ids: int = 0
    disorder: int = 0
    #: Commands that have not ended as they should: what they said.
    odd: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add another one."""
        for name in structs.asdict(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def is_good(self) -> bool:
        """Return True if nothing was lost, nothing is there twice, and all runs ended as they should."""
        return not (self.lost or self.twice or self.ids or self.disorder or self.odd)


class Form(Struct, frozen=True):
    """What a run looks like."""

    source: str
    call: str
    mode: str
    workers: str
    ordered: bool
    copied: bool
    fails: bool
    commit_seconds: float

    @property
    def plugin(self) -> str:
        """Return its plugin."""
        slow = SLOW_COMMITS.replace("SECONDS", str(self.commit_seconds)) if self.commit_seconds else ""
        return f"LANES = {LANES}\n{PLUGIN}{slow}"

    @property
    def text(self) -> str:
        """Return its file."""
        work = f'call = "{self.call}"\nworkers = {self.workers}\n'
        work += f"with = {{ seconds = {ITEM_SECONDS}, fails = {str(self.fails).lower()} }}"
        work += "\nbatch = 7" * (self.call == "batches") + "\nconcurrency = 4" * (self.call == "side_by_side")
        lane = ', lane = "lane"' * self.laned
        tables = [
            f'[run]\ndurable = true\nrecord = 3\n\n[queues]\na = {{ fanout = "copy"{lane} }}\nb = {{}}',
            f'[tasks.source]\n{SOURCES[self.source].replace("COUNT", str(COUNT))}\noutputs = "a"\nmode = "{self.mode}"',
            f'[tasks.work]\n{work}\ninputs = "a"\noutputs = "b"\nmode = "{self.mode}"',
        ]
        tables[-1] += "\nordered = true" * self.ordered + '\ndead = "bad"' * self.fails
        if self.fails:
            tables += [
                '[queues.bad]\n\n[queues.d]\n\n[tasks.failed]\ninputs = "bad"\noutputs = "d"',
                write_task("bad.txt", "d"),
            ]
        if self.copied:
            tables += ['[queues.c]\n\n[tasks.copied]\ninputs = "a"\noutputs = "c"', write_task("copy.txt", "c")]
        return "\n\n".join([*tables, write_task("out.txt", "b")]) + "\n"

    @property
    def laned(self) -> bool:
        """Return True if its items have lanes."""
        return self.source == "laned_numbers"

    @property
    def is_ordered(self) -> bool:
        """Return True if `out.txt` has the order of the source, of each lane if there are lanes."""
        alone = self.workers == "1" and self.call != "side_by_side"
        return self.ordered or alone or self.laned

    @property
    def failing(self) -> set[int]:
        """Return the items that fail."""
        return {number for number in range(COUNT) if self.fails and number % 7 == 3}

    @property
    def expected(self) -> dict[str, set[int]]:
        """Return what each file has in the end."""
        files = {"out.txt": set(range(COUNT)) - self.failing}
        if self.fails:
            files["bad.txt"] = self.failing
        return files | ({"copy.txt": set(range(COUNT))} if self.copied else {})


def write_task(path: str, queue: str) -> str:
    """Return a task that writes what is in a queue."""
    return f'[tasks.write_{queue}]\ncall = "std.write_lines"\nwith = {{ path = "{path}" }}\ninputs = "{queue}"'


def draw_form(draw: random.Random) -> Form:
    """Return a form by chance; what `runner check` would refuse is left out."""
    source = draw.choice([*SOURCES])
    call = draw.choice([*CALLS, *CALLS, *CALLS_THAT_DO_NOT_FAIL])
    return Form(
        source,
        call,
        draw.choice(["process", "thread"]),
        draw.choice(["1", "2", "3", '"1..3"']),
        ordered=source != "laned_numbers" and call != "pulled" and draw.random() < 0.3,
        copied=draw.random() < 0.3,
        fails=call in CALLS and draw.random() < 0.3,
        commit_seconds=draw.choice([0.0, 0.0, 0.005, 0.02]),
    )


class Job:
    """Kills runs, one after the other, in a folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self._draw = folder, random.Random(seed)
        #: How long commands take until they execute something, as far as is known.
        self._start_seconds = 0.3

    def kill_runs(self, kills: int) -> dict[str, Tally]:
        """Kill runs, so often in all; return what has come of them, by mode."""
        found = {"process": Tally(), "thread": Tally()}
        number = 0
        while (left := kills - sum(tally.kills for tally in found.values())) > 0:
            number += 1
            form = draw_form(self._draw)
            most = min(left, self._draw.randint(2, MOST_KILLS))
            found[form.mode].add(self._kill_run(form, self.folder / str(number), most))
        return found

    def _kill_run(self, form: Form, folder: Path, most: int) -> Tally:
        """Kill one run, until it ends before that, or often enough; then let it end."""
        (folder / "plugins").mkdir(parents=True)
        (folder / "tasks.toml").write_text(form.text)
        (folder / "plugins" / "jobs.py").write_text(form.plugin)
        (folder / "in.txt").write_text("".join(f"{number}\n" for number in range(COUNT)))
        tally, code = Tally(runs=1), -signal.SIGKILL
        while code == -signal.SIGKILL:
            early = self._draw.random() < EARLY_SHARE
            after = self._start_seconds * self._draw.uniform(0.3, 1.1) if early else self._draw.uniform(0, LONGEST_WORK)
            size = _size(folder / "executed")
            code = self._execute(folder, after if tally.kills < most else None, from_first_item=not early)
            tally.kills += code == -signal.SIGKILL
            if code == -signal.SIGKILL and _size(folder / "executed") > size:
                tally.at_work += 1
            if tally.kills >= BLAMED_KILLS:
                for page in folder.glob(".runner/runs/*/cells"):
                    page.unlink()
        if code != (4 if form.fails else 0):
            tally.odd.append(f"{form}: exit {code}: {(folder / 'said').read_text()[-2000:]}")
        _count(form, folder, tally)
        if tally.is_good:
            shutil.rmtree(folder)
        return tally

    def _execute(self, folder: Path, after: float | None, *, from_first_item: bool = False) -> int:
        """Execute the command; kill it after so many seconds, unless it has ended. Return its exit code.

        `from_first_item`: the seconds begin when it has executed one.
        """
        executed = folder / "executed"
        size, began, has_begun = _size(executed), time.monotonic(), False
        pid = os.fork()
        if not pid:
            _become_command(folder)
        while True:
            now = time.monotonic() - began
            if not has_begun and _size(executed) > size:
                has_begun = True
                self._start_seconds += 0.1 * (now - self._start_seconds)
                if after is not None and from_first_item:
                    after += now
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                break
            is_due = after is not None and now >= after and (has_begun or not from_first_item)
            if now > HANG_SECONDS or is_due:
                with contextlib.suppress(ProcessLookupError):  # it has no session yet
                    os.killpg(pid, signal.SIGKILL)
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                break
            time.sleep(POLL_SECONDS)
        if now > HANG_SECONDS:
            raise TimeoutError(f"{folder}: it hangs; {(folder / 'said').read_text()[-2000:]}")
        with contextlib.suppress(ChildProcessError):  # what its processes have left: this is their parent now
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        return os.waitstatus_to_exitcode(status)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _become_command(folder: Path) -> NoReturn:
    """Be the process of a command, in all in which it differs from a job's; see `tests/command_server.py`."""
    code: Any = 70
    try:
        os.setsid()
        said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for number, fd in enumerate((os.open(os.devnull, os.O_RDONLY), said, said)):
            os.dup2(fd, number)
        tracker: Any = resource_tracker._resource_tracker  # type: ignore[attr-defined]  # private
        tracker._pid = None  # the job's: it is used, and neither waited for nor ended
        atexit._ncallbacks = lambda: 0  # as in an interpreter that has imported nothing yet
        os.chdir(folder)
        sys.argv[1:] = ["run", "--resume", "--progress", "none"]
        sys.path[0] = str(folder)
        runpy.run_module("runner", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _count(form: Form, folder: Path, tally: Tally) -> None:
    """Count what is lost, and what is there twice."""
    for name, expected in form.expected.items():
        try:
            lines = (folder / name).read_text().splitlines()
        except FileNotFoundError:
            lines = []
        numbers = [int(line) for line in lines]
        counts = Counter(numbers)
        tally.items += len(expected)
        tally.lost += len(expected - counts.keys())
        tally.twice += sum(count - 1 for count in counts.values()) + len(counts.keys() - expected)
        if name == "out.txt" and form.is_ordered:
            for lane in range(LANES if form.laned else 1):
                order = [number for number in numbers if not form.laned or number % LANES == lane]
                tally.disorder += sum(after < before for before, after in itertools.pairwise(order))
    named: dict[str, str] = {}
    for line in (folder / "executed").read_text().splitlines():
        name, _, number = line.partition(" ")
        tally.ids += bool(number) and named.setdefault(name, number) != number


def kill_runs(folder: Path, kills: int, seed: int, jobs: int) -> dict[str, Tally]:
    """Kill runs in some processes at a time; return what has come of them, by mode."""
    resource_tracker.ensure_running()
    warm_up()
    pipes = []
    for job in range(jobs):
        read_end, write_end = os.pipe()
        share = kills // jobs + (job < kills % jobs)
        pid = os.fork()
        if not pid:
            _be_job(Job(folder / f"job{job}", seed * 1000 + job), share, write_end)
        os.close(write_end)
        pipes.append((pid, read_end))
    found: dict[str, Tally] = {}
    for pid, read_end in pipes:
        with os.fdopen(read_end, "rb") as pipe:
            text = pipe.read()
        os.waitpid(pid, 0)
        if not text:
            raise RuntimeError("a job has failed; see above")
        for mode, values in json.loads(text).items():
            found.setdefault(mode, Tally()).add(Tally(**values))
    return found


def warm_up() -> None:
    """Import what a command does, and make its parser, so that its process has both."""
    for module in WARM:
        __import__(module)
    import typer  # not before: it would be imported by each process that only reads this file's tables

    from runner.cli.app import app

    group: Any = typer.main.get_command(app)
    run = group.get_command(None, "run")
    group.get_command = lambda _, name: {"run": run}[name]
    typer.main.get_command = lambda _: group


def _be_job(job: Job, kills: int, write_end: int) -> NoReturn:
    try:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # else nothing may reap what runs leave
        found = job.kill_runs(kills)
        os.write(
            write_end, json.dumps({mode: structs.asdict(tally) for mode, tally in found.items()}).encode()[:60_000]
        )
    finally:
        if (error := sys.exception()) is not None:
            sys.excepthook(type(error), error, error.__traceback__)
        sys.stderr.flush()
        os._exit(0)


def rows(found: dict[str, Tally]) -> list[str]:
    """Return the table.

    >>> for row in rows({"thread": Tally(3, 40, 30, 900, lost=1)}): print(row)
    | tasks in | kills | while executing | runs | items | lost | twice | ids of two items | out of order | odd ends |
    | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |
    | thread | 40 | 30 | 3 | 900 | 1 | 0 | 0 | 0 | 0 |
    | both | 40 | 30 | 3 | 900 | 1 | 0 | 0 | 0 | 0 |
    """
    total = Tally()
    for tally in found.values():
        total.add(tally)
    heads = ("tasks in", "kills", "while executing", "runs", "items")
    heads += ("lost", "twice", "ids of two items", "out of order", "odd ends")
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' --: |' * (len(heads) - 1)}"]
    for mode, each in {**found, "both": total}.items():
        counts = (
            each.kills,
            each.at_work,
            each.runs,
            each.items,
            each.lost,
            each.twice,
            each.ids,
            each.disorder,
            len(each.odd),
        )
        lines.append(f"| {mode} | {' | '.join(f'{count:,}' for count in counts)} |")
    return lines


def main() -> int:
    """Kill, print the table, and say what was odd."""
    parser = argparse.ArgumentParser(prog="python -m bench.kills", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time; default: one a core")
    given = parser.parse_args()
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="bench-kills-"))
    found = kill_runs(folder, given.kills, given.seed, given.jobs)
    print("\n".join(rows(found)))
    seconds = time.monotonic() - began
    print(f"\n{seconds:.0f} s, {1000 * seconds / max(1, given.kills):.0f} ms for each kill; seed {given.seed}")
    for tally in found.values():
        for text in tally.odd:
            print(f"\n{text}")
    if all(tally.is_good for tally in found.values()):
        shutil.rmtree(folder)
        return 0
    print(f"\nwhat is wrong is in {folder}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
