"""Reports of commands (`gives = "report"` of `shell`), and the sink that writes them."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from runner import std
from runner.std.shell import CommandFailed, CommandTimedOut

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("short_diffs")


def report_of(text: str, item: Any = (1, "v"), **options: Any) -> tuple[dict[str, Any], Exception | None]:
    """What one command gives, and how its call ends."""
    with std.Shell(["/bin/sh", "-c", text, "sh", "{1}"], gives="report", **options) as shell:
        given = shell(item)
        report = next(given)
        try:
            assert next(given, None) is None
        except Exception as error:
            return report, error
        return report, None


def test_a_command_that_fails_gives_all_that_it_has_written() -> None:
    report, error = report_of('printf "a\\0b"; printf "\\377" >&2; exit 3')
    assert isinstance(error, CommandFailed)
    assert (report["out"], report["err"], report["code"], report["item"]) == (b"a\0b", b"\xff", 3, (1, "v"))
    report, error = report_of("printf x; kill -9 $$")
    assert (report["out"], report["code"], type(error)) == (b"x", -9, CommandFailed)
    report, error = report_of("printf x; exec sleep 1000", limit=dt.timedelta(seconds=0.3))
    assert (report["out"], report["code"], type(error)) == (b"x", -9, CommandTimedOut)
    assert 0.3 <= report["seconds"] < 60
    report, error = report_of('printf "$1"')
    assert (report["out"], report["code"], error) == (b"v", 0, None)


def test_a_report_has_all_of_standard_error_and_it_counts_as_output() -> None:
    report, error = report_of("head -c 300000 /dev/zero >&2; exit 1")
    assert (len(report["err"]), type(error)) == (300_000, CommandFailed)
    report, error = report_of("head -c 300000 /dev/zero >&2; exit 1", most=100_000)
    assert "wrote more than 100,000 bytes" in str(error)


def test_a_child_that_holds_the_output_open_ends_with_its_command() -> None:
    with std.Shell("sleep 1000 & echo $!", shell=True, gives="out") as shell:
        child = int(shell("x"))
        try:
            left = psutil.Process(child)
        except psutil.NoSuchProcess:
            return
        assert left.wait(5) is None or not left.is_running()


class Written:
    """Stands for a standard stream."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


def sink(**options: Any) -> std.WriteOutput:
    made = std.WriteOutput(**options)
    made._streams = {"out": Written(), "err": Written()}  # type: ignore[dict-item]  # they write as the others do
    return made


def a_report(number: int, **changes: Any) -> dict[str, Any]:
    given = {"item": (number, "v"), "command": ["c"], "start": 1.0, "seconds": 2.0, "code": 0, "out": b"", "err": b""}
    return {**given, **changes}


def test_what_is_written_is_in_one_piece_and_each_stream_has_its_own() -> None:
    with sink() as write:
        write(a_report(1, out=b"a\0", err=b"\xff"))
        write(a_report(2, out=b"b\n"))
        assert [each.data for each in write._streams.values()] == [b"a\0b\n", b"\xff"]
    with sink(tag=True) as write:
        write(a_report(1, item=(1, "a\nb", "c"), out=b"x\n\ny"))
        assert write._streams["out"].data == b"a\\nb c\tx\na\\nb c\t\na\\nb c\ty"


def test_a_log_goes_on_where_it_was_and_a_new_run_begins_it_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("of an earlier run\n")

    def numbers() -> list[str]:
        return [line.split("\t")[0] for line in path.read_text().splitlines()]

    with sink(joblog=str(path)) as write:
        write(a_report(1))
        assert numbers() == ["Seq", "1"]  # at once
        place = write.save()
        write(a_report(2))
    context: Any = SimpleNamespace(saved=place, retried_run="")
    with sink(joblog=str(path), context=context) as write:
        write(a_report(2))
    assert numbers() == ["Seq", "1", "2"]
    context = SimpleNamespace(saved=None, retried_run="20261130")
    with sink(joblog=str(path), context=context) as write:
        write(a_report(3))
    assert numbers() == ["Seq", "1", "2", "3"]
    with sink(joblog=str(path)) as write:
        write(a_report(4))
    assert numbers() == ["Seq", "4"]
    with pytest.raises(OSError, match="nowhere"):
        sink(joblog=str(tmp_path / "nowhere" / "log")).__enter__()
