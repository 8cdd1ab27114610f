import os
import signal
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]  # it has no types
import pytest
from runner_objects import copy, find, read, write

from runner import Context
from runner.testing import file_tests, run_task

pytest_plugins = "runner.testing"

TASKS = Path(__file__).parent.parent / "tasks.toml"

test_tasks = file_tests(TASKS)  # the tests that stand in the file

OBJECTS = {"a.txt": b"A", "sub/b.txt": b"BB", "sub/deep/c.bin": b"\0" * 1000}


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty place in each kind of store."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    return f"memory://{tmp_path.name}" if request.param == "memory" else str(tmp_path / "store")


def fill(url: str, objects: dict[str, bytes] = OBJECTS) -> None:
    fs, base = fsspec.url_to_fs(url)
    for name, data in objects.items():
        fs.makedirs(f"{base}/{name}".rpartition("/")[0], exist_ok=True)
        fs.pipe_file(f"{base}/{name}", data)


def contents(url: str) -> dict[str, bytes]:
    fs, base = fsspec.url_to_fs(url)
    return {path.removeprefix(base).lstrip("/"): fs.cat_file(path) for path in fs.find(base)}


def address(url: str, name: str) -> str:
    fs, base = fsspec.url_to_fs(url)
    return str(fs.unstrip_protocol(f"{base}/{name}"))


def test_objects_are_found_sorted(store: str) -> None:
    fill(store)
    assert run_task(find, with_={"url": store}).items == [address(store, name) for name in sorted(OBJECTS)]
    assert run_task(find, with_={"url": store, "match": "sub/*.bin"}).items == [address(store, "sub/deep/c.bin")]
    assert run_task(find, with_={"url": store + "/nowhere"}).items == []


def test_what_is_found_can_be_read_and_written_elsewhere(store: str) -> None:
    fill(store)
    found = run_task(read, run_task(find, with_={"url": store}).items).items
    assert {each["name"]: each["data"] for each in found} == {"a.txt": b"A", "b.txt": b"BB", "c.bin": b"\0" * 1000}
    run = run_task(write, found, workers=3, with_={"to": store + "/out"})
    assert sorted(run.items) == [address(store, f"out/{name}") for name in ("a.txt", "b.txt", "c.bin")]
    assert contents(store + "/out") == {"a.txt": b"A", "b.txt": b"BB", "c.bin": b"\0" * 1000}


def test_text_is_written_as_utf_8(store: str) -> None:
    assert run_task(write, [{"name": "x", "data": "é"}], with_={"to": store}).balance.done == 1
    assert contents(store) == {"x": "é".encode()}


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "", "a\\..\\x"])
def test_a_name_cannot_leave_its_place(store: str, name: str) -> None:
    run = run_task(write, [{"name": name, "data": b""}], with_={"to": store})
    assert [letter.error for letter in run.dead] == [
        f"Reject: {name!r} is not a name below {fsspec.url_to_fs(store)[1]}"
    ]
    assert contents(store) == {}


def test_large_objects_and_missing_ones_are_dead(store: str) -> None:
    fill(store)
    run = run_task(read, [address(store, "sub/deep/c.bin"), address(store, "gone")], with_={"most": 999})
    assert [letter.error.partition(":")[0] for letter in run.dead] == ["Reject", "FileNotFoundError"]


def test_objects_are_copied_within_a_store_and_to_another(store: str, tmp_path: Path) -> None:
    fill(store)
    urls = run_task(find, with_={"url": store}).items
    for target in (store + "-2", str(tmp_path / "disk"), "memory://far"):
        run = run_task(copy, urls, workers=2, with_={"base": store, "to": target})
        assert sorted(run.items) == [address(target, name) for name in sorted(OBJECTS)]
        assert contents(target) == OBJECTS


def test_what_is_not_below_the_base_is_not_copied(store: str) -> None:
    fill(store)
    run = run_task(copy, [address(store, "a.txt")], with_={"base": store + "/sub", "to": store + "/out"})
    assert "is not below" in run.dead[0].error


def test_written_again_is_written_once(store: str) -> None:
    items = [{"name": "x", "data": b"1"}] * 5
    run_task(write, items, workers=3, with_={"to": store})
    assert contents(store) == {"x": b"1"}


def test_half_an_object_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full in the middle of an object leaves the old one, and no part of the new one."""
    fill(str(tmp_path), {"x": b"old"})
    local = type(fsspec.filesystem("file"))

    def fail(_store: Any, path: str, value: bytes, **_: Any) -> None:
        Path(path).write_bytes(value[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local, "pipe_file", fail)
    run = run_task(write, [{"name": "x", "data": b"newer"}], with_={"to": str(tmp_path)})
    assert run.dead[0].error == "OSError: [Errno 28] No space left on device"
    assert contents(str(tmp_path)) == {"x": b"old"}


class Killed:
    """Writes an object as `write` does, but its first worker is killed when the part is there."""

    def __init__(self, to: str) -> None:
        self.to = to

    def __call__(self, item: dict[str, Any], context: Context) -> str:
        if context.attempt == 1:
            local = type(fsspec.filesystem("file"))
            local.mv = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        return write(item, context, to=self.to)


def test_a_worker_that_is_killed_between_writing_and_moving_leaves_nothing(tmp_path: Path) -> None:
    items = [{"name": f"{number}", "data": b"x" * number} for number in range(3)]
    run = run_task(Killed, items, mode="process", with_={"to": str(tmp_path)})
    assert run.balance.done == 3
    assert run.balance.repeated
    assert contents(str(tmp_path)) == {"0": b"", "1": b"x", "2": b"xx"}


def test_parts_are_not_found(store: str) -> None:
    fill(store, {".x.20260101-1.2.part": b"", "y.part": b""})
    assert run_task(find, with_={"url": store}).items == [address(store, "y.part")]
