"""The reference page of `std` is what the functions say of themselves."""

import inspect

from doc_blocks import assert_page_is
from helpers import ROOT

from runner import std
from runner.plugins import PluginSet
from runner.tasks import MARK_ATTRIBUTE, inspect_shape

PAGE = ROOT / "docs" / "reference" / "std.md"
BEGIN, END = "<!-- generated from the functions -->\n", "<!-- end -->\n"
ORDER = ["lines", "csv", "jsonl", "glob", "range", "arguments", "shell", "sleep"]
ORDER += ["write_lines", "write_csv", "write_jsonl", "write_output", "print"]


def entry(name, target):
    text, _, example = inspect.getdoc(target).partition("\n>>> ")
    given = {inspect_shape(target).context, inspect_shape(target).constructor_context}
    kept = [each for each in inspect.signature(target).parameters.values() if each.name not in given]
    code = f"```text\n{name}({written(kept)})\n```\n"
    head = f">>> from runner.std import {target.__name__}"
    example = f"\n```pycon\n{head}\n>>> {example}\n```\n" if example else ""
    return f"## `{name}`\n\n{code}\n{text.strip()}\n{example}"


class Plain(str):
    """An annotation without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def written(parameters):
    """The parameters that a file can give; one on each line when they are many."""
    parameters = [each.replace(annotation=Plain(each.annotation)) for each in parameters]
    named = [str(each) for each in parameters if each.kind is each.KEYWORD_ONLY]
    words = [str(each) for each in parameters if each.kind is not each.KEYWORD_ONLY]
    words += ["*"] * bool(named) + named
    words = [
        word.replace("'", '"').replace("datetime.timedelta(0)", '"0s"').replace("dt.timedelta", "duration")
        for word in words
    ]
    line = ", ".join(words)
    return line if len(line) < 90 else "".join(f"\n    {word}," for word in words) + "\n"


def test_the_page_is_what_the_functions_say(tmp_path):
    """After a change: `UPDATE_REFERENCE=1 pytest tests/plugins/test_std_reference.py`."""
    page = PAGE.read_text(encoding="utf-8")
    front, rest = page.split(BEGIN)
    functions = {getattr(std, name).__dict__[MARK_ATTRIBUTE].name: getattr(std, name) for name in std.__all__}
    [plugin] = PluginSet(tmp_path).bundled_plugins
    plugin.load_functions()
    assert sorted(functions) == sorted(ORDER) == sorted(plugin.functions)
    made = front + BEGIN + "\n" + "\n".join(entry(name, functions[name]) for name in ORDER) + "\n" + END
    assert_page_is(PAGE, made)
    assert rest.endswith(END)
