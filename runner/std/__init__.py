"""The plugin `std`: sources, sinks and transforms that need no Python of yours.

    lines csv jsonl glob range arguments  ──▶  shell sleep  ──▶  write_lines write_csv write_jsonl write_output print

A file calls them by these names, or as `std.lines`; a function of the project's own plugins that has the same name is
meant by the bare one. Workers import this package and little else: what only one function needs is imported there.
"""

from runner.std.command_reports import WriteOutput
from runner.std.shell import Shell, sleep
from runner.std.sinks import WriteCsv, WriteJsonl, WriteLines, print_items
from runner.std.sources import command_arguments, csv_rows, glob_paths, jsonl, lines, numbers

__all__ = [
    "Shell",
    "WriteCsv",
    "WriteJsonl",
    "WriteLines",
    "WriteOutput",
    "command_arguments",
    "csv_rows",
    "glob_paths",
    "jsonl",
    "lines",
    "numbers",
    "print_items",
    "sleep",
]
