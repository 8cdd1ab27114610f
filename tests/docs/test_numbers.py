"""Numbers that pages and code share are the same in both.

Each row has a page, words of that page with `{}` in place of each number, and where the code has the numbers:
`module:NAME`, `module:CLASS.field` for the default of a field, or a value. Milliseconds, kibibytes and mebibytes
are asked for by `ms`, `KiB` and `MiB` before a name.
"""

from __future__ import annotations

import importlib
import re

import pytest
from helpers import ROOT

from runner.errors import ConfigError
from runner.supervisor import outcome

RUN = "runner.model:RunSettings"
QUEUE = "runner.model:QueueConfig"
UNITS = {"ms": 1e-3, "KiB": 1 << 10, "MiB": 1 << 20, "%": 0.01}
WORDS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]

SHARED = [
    # time slices and chunks
    ("explanation/how-it-works", "A chunk is the work of about {} ms", ["ms runner.chunk_sizing:TIME_SLICE"]),
    ("explanation/bounds", "A chunk is about {} ms of work and at most {} MiB", ["ms runner.chunk_sizing:TIME_SLICE", "MiB runner.worker.outputs:MAX_CHUNK_BYTES"]),
    ("explanation/bounds", "Two time slices are {} ms (from {} workers on", ["2 ms runner.chunk_sizing:TIME_SLICE", "runner.chunk_sizing:CROWD_WORKERS"]),
    ("explanation/bounds", "at most {} for each worker that reads it", ["runner.supervisor.dispatch:_MAX_ELASTIC_ITEMS_PER_READER"]),
    ("explanation/bounds", "only one), and {} in all", ["runner.supervisor.dispatch:_MAX_ELASTIC_ITEMS"]),
    ("explanation/performance", "{} items](bounds.md#a-queue-without-a-size) each with one or two", ["2 runner.supervisor.dispatch:_MAX_ELASTIC_ITEMS_PER_READER"]),
    ("explanation/scale", "A chunk is about {} ms of work", ["ms runner.chunk_sizing:TIME_SLICE"]),
    ("explanation/scale", "where {} items, {} MiB or", ["runner.worker.outputs:MAX_CHUNK_ITEMS", "MiB runner.worker.outputs:MAX_CHUNK_BYTES"]),
    ("explanation/scale", "from {} workers on, the time slice grows", ["runner.chunk_sizing:CROWD_WORKERS"]),
    ("explanation/performance", "A chunk** is about {} ms of work", ["ms runner.chunk_sizing:TIME_SLICE"]),
    ("explanation/performance", "at most {} items, and at most {} MiB of copied bytes", ["runner.worker.outputs:MAX_CHUNK_ITEMS", "MiB runner.worker.outputs:MAX_CHUNK_BYTES"]),
    ("explanation/performance", "in bursts of {},", ["runner.worker.measurements:MAX_BURST"]),
    ("explanation/performance", "reads the clock after {} items", ["runner.worker.pull:_ITEMS_PER_CLOCK_CHECK"]),
    ("explanation/performance", "runner sets that interval to {} ms", ["ms runner.runs:_SWITCH"]),
    ("reference/glossary", "should take its worker, about {} ms", ["ms runner.chunk_sizing:TIME_SLICE"]),
    # queues and items
    ("explanation/bounds", "the queue holds {} items or two time slices", [f"{QUEUE}.size"]),
    ("explanation/payloads", "buffers of {} KiB and more", ["KiB runner.shm.writer:MIN_SHARED_BYTES"]),
    ("reference/functions", "Buffers of {} KiB and more", ["KiB runner.shm.writer:MIN_SHARED_BYTES"]),
    ("explanation/payloads", "An arena has {} MiB of addresses and at most {} MiB in use", ["MiB runner.shm.writer:ARENA_BYTES", "MiB runner.shm.writer:MAX_BYTES_IN_USE"]),
    ("explanation/payloads", "When {} MiB are in use, the source gives its readers up to {} ms", ["MiB runner.shm.writer:READER_WAIT_BYTES", "ms runner.shm.writer:READER_WAIT_SECONDS"]),
    ("explanation/payloads", "From {} KiB on, an array with a few changed pages", ["KiB runner.shm.reader:_MIN_PATCHED_BYTES"]),
    ("explanation/payloads", "at most {} MiB in pickles", ["MiB runner.chunk_sizing:MAX_GRANT_BYTES"]),
    # deaths and time limits
    ("explanation/failures", "({} bytes, no lock)", ["8 runner.transport.progress_page:_WORDS_PER_SLOT"]),
    ("reference/glossary", "{} bytes of shared memory in which a worker notes", ["8 runner.transport.progress_page:_WORDS_PER_SLOT"]),
    ("explanation/failures", "After {} crashes the item is a dead letter", ["runner.supervisor.workers:MAX_CRASHES"]),
    ("explanation/failures", "after {} seconds if nothing arrives", ["runner.engines.processes:_BROKEN_SOCKET_SECONDS"]),
    ("explanation/failures", "does not answer within {} seconds ({} second once a signal", ["runner.engines.spawn:START_TIMEOUT", "runner.engines.spawn:START_TIMEOUT_AFTER_SIGNAL"]),
    ("explanation/failures", "the supervisor looks at it every {} ms", ["ms runner.supervisor.timeouts:_SAMPLE"]),
    ("explanation/failures", "as soon as it is written, {} seconds later at the latest", ["runner.supervisor.timeouts:_STACK_LIMIT"]),
    ("how-to/failures", "shows it, within {} seconds", ["runner.supervisor.suspect_previews:_LIMIT"]),
    ("how-to/failures", "killed {} workers, each was replaced", ["runner.supervisor.workers:MAX_CRASHES"]),
    ("how-to/install", "about {} descriptors for each process worker", ["runner.engines.process_setup:_FDS_PER_PROCESS"]),
    ("how-to/install", "drains within `grace` ({} s unless", [f"{RUN}.grace"]),
    ("reference/functions", "or {} seconds after the return without a `put`", ["runner.worker.outbox_threads:MAX_SILENCE_SECONDS"]),
    # the displays and the record
    ("how-to/see-a-run", "runner prints a line every {} seconds", ["runner.report.displays:PLAIN_INTERVAL"]),
    ("reference/commands", "a line every {} seconds, or at each tenth", ["runner.report.displays:PLAIN_INTERVAL"]),
    ("how-to/troubleshooting", "or a line every {} seconds", ["runner.report.displays:PLAIN_INTERVAL"]),
    ("reference/commands", "its rate over {} seconds", ["runner.report.progress:RATE_WINDOW"]),
    ("reference/commands", "keeps the last {} records", [f"{RUN}.record"]),
    ("reference/commands", "when the run begins, every {} seconds", ["runner.report.record_builder:WRITE_INTERVAL"]),
    ("reference/commands", "with more than {} workers neighbours share a row", ["runner.report.page:MAX_TIMELINE_ROWS"]),
    ("reference/commands", "a graph of more than {} lines between its layers", ["runner.report.graph_svg:MAX_SEGMENTS"]),
    ("reference/commands", "the load as colour too, in {} classes", ["runner.report.graph:HEAT_LEVELS"]),
    ("reference/events", "after {} unread events", ["runner.report.journal:_MOST_WAITING"]),
    ("reference/events", '{"runner": "0.1.0", "version": {}}', ["runner.report.journal:EVENTS_VERSION"]),
    ("explanation/security", "(the last {} are kept)", [f"{RUN}.record"]),
    ("explanation/security", "a secret of fewer than {} characters", ["runner.secret_masks:MIN_SECRET_LENGTH"]),
    ("explanation/security", "each line of {} characters or more", ["runner.secret_masks:_MIN_LINE_LENGTH"]),
    ("reference/file", "at most {} MiB to a file (E118)", ["MiB runner.config.params:MAX_FILLED_SIZE"]),
    ("explanation/bottleneck", "at least {} % of what is there", ["% runner.report.bottleneck:MIN_REACHED_SHARE"]),
    ("explanation/bottleneck", "threads compute at least {} % of one core", ["% runner.report.bottleneck:MIN_INTERPRETER_SHARE"]),
    ("explanation/bottleneck", "| at least {} % busy, and items wait for it", ["% runner.report.bottleneck:MIN_BUSY_SHARE"]),
    ("explanation/bottleneck", "of which none takes {} % of the time", ["% runner.report.bottleneck:MIN_MAIN_SHARE"]),
]  # fmt: skip


def constant(where: str) -> float:
    """Return what the code has: `[factor] [unit] module:NAME`, or `module:CLASS.field` for a field's default.

    >>> constant("2 ms runner.chunk_sizing:TIME_SLICE"), constant(f"{RUN}.record")
    (100.0, 20)
    """
    *scales, path = where.split()
    module, _, name = path.partition(":")
    value = importlib.import_module(module)
    if "." in name:
        kind, _, field = name.partition(".")
        return getattr(value, kind).__dataclass_fields__[field].default
    value = getattr(value, name)
    for scale in scales:
        value = value / UNITS[scale] if scale in UNITS else value * int(scale)
    return value


def number(text: str) -> float:
    """Return the number that a page writes.

    >>> number("8,192"), number("0.5"), number("three")
    (8192.0, 0.5, 3.0)
    """
    return float(WORDS.index(text) if text in WORDS else text.replace(",", ""))


@pytest.mark.parametrize(("page", "words", "code"), SHARED, ids=[f"{page}: {words}" for page, words, _ in SHARED])
def test_a_page_and_the_code_have_the_same_numbers(page, words, code):
    text = " ".join((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").split())
    pattern = re.escape(words).replace(re.escape("{}"), rf"(\d[\d,.]*\d|\d|{'|'.join(WORDS)})")
    found = re.findall(pattern, text, re.IGNORECASE)
    assert found, f"docs/{page}.md no longer has these words; change the row, or remove it"
    for numbers in found:
        shown = [number(each.lower()) for each in ([numbers] if isinstance(numbers, str) else numbers)]
        assert shown == pytest.approx([constant(each) for each in code])


def test_the_page_of_exit_codes_has_those_of_the_code():
    page = (ROOT / "docs" / "reference" / "exit-codes.md").read_text(encoding="utf-8")
    shown = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", page, re.MULTILINE) for code in row.split(",")}
    ends = {
        outcome.EXIT_OK,
        outcome.EXIT_FAILED,
        outcome.EXIT_DEAD,
        outcome.EXIT_HALTED,
        outcome.EXIT_FAULT,
        outcome.EXIT_DEADLINE,
    }
    assert shown == ends | {2, ConfigError.exit_code, 128 + 2, 128 + 15}
