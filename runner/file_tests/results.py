"""Results of tests: in words, for programs as JSON, and as the XML that JUnit's readers know."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

from runner.text import count_with_noun, format_duration, printable_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runner.file_tests.comparison import Difference
    from runner.file_tests.processes import TestResult


def describe_result(result: TestResult) -> list[str]:
    """Return one line for a test that has passed; for another one, all that is known of its failure."""
    planned = result.planned
    took = format_duration(result.seconds)
    if result.has_passed:
        note = "" if planned.test.expect is not None else "  (expects nothing: exit 0 and the balance were checked)"
        return [f"ok     {planned.name}  {took}{note}"]
    return [f"{'error' if result.is_error else 'FAILED'} {planned.name}  {took}", *failure_lines(result)]


def failure_lines(result: TestResult) -> list[str]:
    """Return what a test expected, what it got, where both first differ, and the last lines of its run."""
    lines = [f"  {result.planned.location}"]
    for each in result.differences:
        lines += [f"  {line}" for line in _difference_lines(each)]
    if result.last_lines:
        lines.append("  the run's last lines:")
        lines += [f"    {printable_text(line)}" for line in result.last_lines]
    return lines


def _difference_lines(each: Difference) -> Iterator[str]:
    yield from each.what.splitlines() if not each.expected else [f"{each.what}:"]
    if each.expected:
        yield f"  expected {each.expected}"
        yield f"  got      {each.got}"
    if each.first:
        yield f"  first difference: {each.first}"


def describe_all(results: Sequence[TestResult], seconds: float, planned: int) -> str:
    """Return the last line: how many passed, and how many did not."""
    counts = {
        "passed": sum(each.has_passed for each in results),
        "failed": sum(not each.has_passed and not each.is_error for each in results),
        "could not be run": sum(each.is_error for each in results),
        "not run": planned - len(results),
    }
    told = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
    return f"{count_with_noun(planned, 'test')}: {told}  in {format_duration(seconds)}"


def result_record(result: TestResult) -> dict[str, Any]:
    """Return a result for programs."""
    planned, place = result.planned, result.planned.test.place
    return {
        "name": planned.test.name,
        "file": place.file,
        "line": place.line,
        "repetition": planned.repetition,
        "passed": result.has_passed,
        "error": result.is_error,
        "expects_nothing": planned.test.expect is None,
        "seconds": round(result.seconds, 3),
        "exit_code": result.exit_code,
        "balance": result.balance,
        "differences": [
            {word: getattr(each, word) for word in ("what", "expected", "got", "first")} for each in result.differences
        ],
        "last_lines": list(result.last_lines),
    }


def junit_xml(results: Sequence[TestResult]) -> str:
    """Return the results as JUnit's XML, a suite for each file."""
    suites: dict[str, list[TestResult]] = defaultdict(list)
    for result in results:
        suites[result.planned.test.place.file].append(result)
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<testsuites>"]
    for file, found in suites.items():
        failures = sum(not each.has_passed and not each.is_error for each in found)
        errors = sum(each.is_error for each in found)
        total = sum(each.seconds for each in found)
        counts = f'tests="{len(found)}" failures="{failures}" errors="{errors}" time="{total:.3f}"'
        lines.append(f"  <testsuite name={_attribute(file)} {counts}>")
        for each in found:
            place = f'file={_attribute(file)} line="{each.planned.test.place.line}"'
            case = f"<testcase classname={_attribute(file)} name={_attribute(each.planned.name)} {place}"
            case += f' time="{each.seconds:.3f}"'
            if each.has_passed:
                lines.append(f"    {case}/>")
                continue
            kind, first = "error" if each.is_error else "failure", each.differences[0]
            message = f"{first.what}: expected {first.expected}, got {first.got}" if first.expected else first.what
            text = escape(_xml_text("\n".join(failure_lines(each))))
            lines += [f"    {case}>", f"      <{kind} message={_attribute(message)}>{text}</{kind}>", "    </testcase>"]
        lines.append("  </testsuite>")
    return "\n".join([*lines, "</testsuites>", ""])


def _attribute(text: str) -> str:
    return quoteattr(_xml_text(" ".join(text.splitlines())))


def _xml_text(text: str) -> str:
    r"""Return the text without what XML cannot hold.

    >>> _xml_text("a\x00b")
    'a?b'
    """
    return "".join(
        char if char in "\t\n" or (ord(char) >= 32 and not 0xD800 <= ord(char) < 0xE000) else "?" for char in text
    )
