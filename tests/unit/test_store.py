"""What a run leaves on the disk, and what is read of it afterwards, whatever has happened to the files meanwhile."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from runner.errors import UsageError
from runner.store import dead_letters, records, run_folders

if TYPE_CHECKING:
    from pathlib import Path

RUN = "20260101-000000-a"


def write_letters(state: Path, count: int, run: str = RUN) -> dead_letters.DeadLetterFile:
    file = dead_letters.DeadLetterFile(state, run, {"title": "T"})
    for number in range(count):
        file.append({"id": f"1.{number}", "preview": repr(number), "error": "ValueError"})
    return file


def test_letters_are_in_the_file_at_once_and_come_back_as_they_were(tmp_path: Path) -> None:
    file = write_letters(tmp_path, 3)
    found = list(dead_letters.read_letters(dead_letters.find_dead_letters(tmp_path)))
    file.close()
    assert [(letter["item"], letter["id"], letter["error"]) for letter in found] == [
        (0, "1.0", "ValueError"),
        (1, "1.1", "ValueError"),
        (2, "1.2", "ValueError"),
    ]
    assert (file.count, file.written_count, file.write_error) == (3, 3, "")


def test_a_long_text_is_cut_and_a_million_letters_fit(tmp_path: Path) -> None:
    file = dead_letters.DeadLetterFile(tmp_path, RUN, {})
    file.append({"id": "1.0", "preview": "0", "traceback": "x" * 1_000_000})
    file.close()
    assert file.path.stat().st_size < 100_000


def test_what_is_not_a_letter_is_left_out_and_counted(tmp_path: Path) -> None:
    file = write_letters(tmp_path, 2)
    file.close()
    whole = file.path.read_bytes()
    file.path.write_bytes(whole + b"not a letter\n" + whole.splitlines()[-1] + b'\n{"id": "cut of')
    assert [letter["id"] for letter in dead_letters.read_letters(file.path)] == ["1.0", "1.1", "1.1"]
    assert dead_letters.count_unreadable_lines(file.path) == 1


def test_a_letter_that_the_disk_refuses_leaves_no_half_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_letters(tmp_path, 1)
    with monkeypatch.context() as patch:

        def refuse(fd: int, data: bytes) -> None:
            os.write(fd, data[:7])
            raise OSError(28, os.strerror(28))

        patch.setattr(run_folders, "write_all", refuse)
        file.append({"id": "1.1", "preview": "1"})
    file.append({"id": "1.2", "preview": "2"})
    file.close()
    assert [letter["id"] for letter in dead_letters.read_letters(file.path)] == ["1.0", "1.2"]
    assert dead_letters.count_unreadable_lines(file.path) == 0
    assert (file.count, file.written_count) == (3, 2)
    assert "1 of 3 dead letters cannot be written" in file.write_error


def test_a_record_is_the_old_one_or_the_new_one_and_never_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = records.RecordFile(tmp_path, RUN)
    record.write_record('{"title": "old"}')
    path = records.find_record(tmp_path)
    seen: list[str] = []
    write = run_folders.write_all

    def look(fd: int, data: bytes) -> None:
        write(fd, data[:5])
        seen.append(path.read_text())
        write(fd, data[5:])
        seen.append(path.read_text())

    monkeypatch.setattr(run_folders, "write_all", look)
    record.write_record('{"title": "new"}')
    assert seen == ['{"title": "old"}'] * 2
    assert path.read_text() == '{"title": "new"}'
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_record_that_the_disk_refuses_says_so_and_leaves_no_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = records.RecordFile(tmp_path, RUN)
    record.write_record("{}")

    def refuse(fd: int, data: bytes) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(run_folders, "write_all", refuse)
    record.write_record('{"title": "new"}')
    assert "the record of this run cannot be kept" in record.write_error
    assert records.recorded_runs(tmp_path) == []


def test_runs_are_found_by_age_and_by_how_their_ids_begin(tmp_path: Path) -> None:
    names = ["20260103-a", "20260101-b", "20260102-c"]
    for at, name in enumerate(names):
        records.RecordFile(tmp_path, name).write_record("{}")
        os.utime(tmp_path / "runs" / name / records.RECORD_FILE, (at, at))
    assert records.recorded_runs(tmp_path) == names
    found = [records.find_record(tmp_path, run).parent.name for run in ("last", "last~1", "last~2", "20260101")]
    assert found == ["20260102-c", "20260101-b", "20260103-a", "20260101-b"]
    for wrong in ("last~3", "2026", "x"):
        with pytest.raises(UsageError):
            records.find_record(tmp_path, wrong)


def test_only_the_last_records_are_kept_and_letters_stay(tmp_path: Path) -> None:
    names = [f"2026010{at}-a" for at in range(1, 6)]
    for at, name in enumerate(names):
        write_letters(tmp_path, 1, name).close()
        records.RecordFile(tmp_path, name).write_record("{}")
        os.utime(tmp_path / "runs" / name / records.RECORD_FILE, (at, at))
    records.RecordFile(tmp_path, names[-1]).prune_old_records(2)
    assert records.recorded_runs(tmp_path) == names[-2:]
    assert sorted(dead_letters.runs_with_dead_letters(tmp_path)) == names
