"""The bytes of dead items: what is kept of which items, within which bound, for whom to read, and what never is."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

import pytest

from runner.store.dead_items import ITEMS_FILE, read_items
from runner.transport import item_codec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from helpers import Project

WORK = """
    import sys, threading, os
    from runner import task

    class Loaf:
        def __init__(self, number): self.number = number
        def __repr__(self): return f"Loaf({self.number})"

    class Stone:
        def __reduce__(self): raise SystemExit("no pickle of this")

    def array(number):
        import numpy  # here, as most runs do without

        return numpy.full(30_000, number)

    @task
    def numbers(): yield from range(40)
    @task
    def texts(): yield from (f"text {number}" for number in range(40))
    @task
    def loaves(): yield from map(Loaf, range(40))
    @task
    def arrays(): yield from map(array, range(40))
    @task
    def blobs(): yield from (bytes([number]) * 100_000 for number in range(40))
    @task
    def long_texts(): yield from (chr(65 + number) * 100_000 for number in range(40))
    @task
    def pairs(): yield from ((number, array(number), bytearray(100_000)) for number in range(40))
    @task
    def stones(): yield from (Stone() for number in range(3))
    @task
    def secrets(*, token): yield from ({"number": number, "token": token if number == 3 else ""} for number in range(40))

    def number_of(item):
        if isinstance(item, dict): return item["number"]
        if isinstance(item, Loaf): return item.number
        if isinstance(item, (bytes, tuple)): return item[0]
        if isinstance(item, str): return int(item[5:]) if item[0] == "t" else ord(item[0]) - 65
        return int(item if isinstance(item, int) else item[0])

    @task
    def eat(item):
        if isinstance(item, Stone) or number_of(item) in (3, 30): raise ValueError("burnt")

    @task
    def eat_all(items):
        for item in items: eat(item)

    @task
    async def eat_async(item): eat(item)

    @task
    def leave(item):
        if number_of(item) in (3, 30): raise SystemExit

    @task
    def kill(item):
        if number_of(item) in (3, 30): os._exit(9)
"""
FILE = """
    [run]
    {run}
    [params]
    token = {{ default = "swordfish", secret = true }}
    [queues]
    items = {{}}
    [tasks.make]
    call = "{source}"
    mode = "{mode}"
    outputs = "items"
    {source_options}
    [tasks.take]
    call = "{call}"
    mode = "{mode}"
    inputs = "items"
    {options}
"""


def died(
    project: Callable[..., Project],
    source: str,
    mode: str,
    call: str = "eat",
    options: str = "",
    run: str = "",
    source_options: str = "",
) -> tuple[Path, list[dict[str, Any]], str]:
    """Return the run's folder, its letters, and what it said."""
    text = FILE.format(source=source, mode=mode, call=call, options=options, run=run, source_options=source_options)
    made = project({"tasks.toml": text, "plugins/work.py": WORK})
    outcome = made.run()
    assert outcome.exit == 4, outcome
    (folder,) = (made.path / ".runner" / "runs").iterdir()
    lines = [json.loads(line) for line in (folder / "dead.jsonl").read_text().splitlines()]
    return folder, lines[1:], outcome.err


@pytest.mark.parametrize(
    ("source", "mode"),
    [
        *(("numbers", "process"), ("loaves", "thread"), ("arrays", "process"), ("pairs", "thread")),
        *(
            pytest.param(source, mode, marks=pytest.mark.slow)
            for source in ("numbers", "texts", "loaves", "arrays", "blobs", "long_texts", "pairs")
            for mode in ("thread", "process")
        ),
    ],
)
def test_each_kind_of_item_is_kept_by_itself(project: Any, source: str, mode: str) -> None:
    folder, letters, _ = died(project, source, mode)
    assert len(letters) == 2
    payloads = read_items(folder, [letter["kept"] for letter in letters])
    largest = max(map(len, payloads))
    assert largest < (500_000 if source in {"arrays", "blobs", "long_texts", "pairs"} else 500), (
        "neighbours are with it"
    )
    if source != "loaves":  # a class of the project, which this process does not know
        for payload, number in zip(payloads, sorted((3, 30)), strict=True):
            assert isinstance(payload, bytes)
            (encoded,) = item_codec.decode_payload(payload)
            item = item_codec.decode_item(encoded)
            expected = {"numbers": number, "texts": f"text {number}", "long_texts": chr(65 + number) * 100_000}
            assert item == expected[source] if source in expected else item[0] == number
    assert stat.S_IMODE((folder / ITEMS_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("mode", "call", "options", "dead"),
    [
        ("process", "eat_all", "batch = 5", 10),
        ("thread", "eat_all", "batch = 5", 10),
        ("process", "eat_async", "", 2),
        ("thread", "eat_async", "", 2),
        ("process", "kill", "", 2),
        ("thread", "eat", "attempts = 2\nbackoff = { first = '1ms' }", 2),
    ],
)
def test_items_are_kept_however_they_die(project: Any, mode: str, call: str, options: str, dead: int) -> None:
    folder, letters, _ = died(project, "texts", mode, call, options)
    payloads = read_items(folder, [letter["kept"] for letter in letters])
    items = {item_codec.decode_item(item_codec.decode_payload(payload)[0]) for payload in payloads}
    assert items == {letter["preview"].strip("'") for letter in letters}
    assert len(items) == dead


def test_the_bound_holds_and_each_letter_and_the_summary_say_what_is_beyond_it(project: Any) -> None:
    folder, letters, said = died(project, "blobs", "process", run='dead_items = "150KB"')
    assert ["kept" in letter for letter in letters] == [True, False]
    assert (folder / ITEMS_FILE).stat().st_size <= 150_000
    assert "of `dead_items`" in letters[1]["not_kept"]
    assert "1 dead item not kept for a retry: runner dead show says why" in said


def test_an_object_of_a_thread_that_cannot_be_pickled_is_not_kept_and_harms_nobody(project: Any) -> None:
    folder, letters, said = died(project, "stones", "thread")
    assert [letter["not_kept"] for letter in letters] == ["it cannot be pickled: SystemExit: no pickle of this"] * 3
    assert not (folder / ITEMS_FILE).exists()
    assert "3 dead items not kept" in said


def test_an_object_that_ended_its_thread_is_not_kept_and_its_letter_says_so(project: Any) -> None:
    _, letters, _ = died(project, "loaves", "thread", "leave")
    assert [letter["not_kept"] for letter in letters] == [
        "its worker, a thread, has ended, and the item is an object without bytes"
    ] * 2


def test_a_secret_is_not_written_into_the_file_either(project: Any) -> None:
    folder, letters, _ = died(project, "secrets", "process", source_options='with = { token = "${token}" }')
    assert ["kept" in letter for letter in letters] == [False, True]
    assert "secret" in letters[0]["not_kept"]
    assert not any(b"swordfish" in path.read_bytes() for path in folder.iterdir())


def test_no_items_are_kept_where_the_file_wants_none(project: Any) -> None:
    folder, letters, said = died(project, "texts", "process", run='dead_items = "0B"')
    assert not (folder / ITEMS_FILE).exists()
    assert all("not_kept" in letter for letter in letters)
    assert "not kept" not in said


def test_damaged_bytes_are_noticed(project: Any) -> None:
    folder, letters, _ = died(project, "texts", "process")
    data = bytearray((folder / ITEMS_FILE).read_bytes())
    data[letters[0]["kept"]["size"] // 2] ^= 1
    (folder / ITEMS_FILE).write_bytes(data)
    first, second = read_items(folder, [letter["kept"] for letter in letters])
    assert isinstance(first, str)
    assert isinstance(second, bytes)
    assert isinstance(read_items(folder, [{"at": -1, "size": 3, "crc": 0}])[0], str)
    assert isinstance(read_items(folder, [{"at": 10**9, "size": 3, "crc": 0}])[0], str)
