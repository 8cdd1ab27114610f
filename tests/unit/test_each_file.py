"""The file of tasks that `runner each` stands for: replacement strings, quotes of a shell, options of GNU Parallel."""

from __future__ import annotations

import subprocess
import tomllib

import pytest
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

from runner.cgroups import usable_cpus
from runner.cli import each_file
from runner.cli.each_file import CommandLine, EachOptions
from runner.errors import UsageError
from runner.std.shell import fill_template
from runner.std.sources import command_arguments

pytestmark = pytest.mark.usefixtures("short_diffs")
VALUES = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=12)
HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "a  b",
    "-n",
    "*",
    "\n",
    "",
    "\\",
    "{}",
]


def commands(words: list[str], *values: str) -> list[str]:
    """What is executed for one job."""
    made = each_file.translate_command(words, len(values))
    return [fill_template(word, (7, *values)) for word in made]


@pytest.mark.parametrize(
    ("words", "values", "made"),
    [
        (["gzip"], ["a b"], ["gzip", "a b"]),
        (["gzip", "-k"], ["a", "b"], ["gzip", "-k", "a", "b"]),
        (["cp", "{}", "{.}.bak"], ["d/x.y.txt"], ["cp", "d/x.y.txt", "d/x.y.bak"]),
        (["f", "{/}", "{//}", "{/.}", "{#}"], ["d/x.txt"], ["f", "x.txt", "d", "x", "7"]),
        (["f", "{2}-{1}", "{1.}", "{2/}"], ["a.b", "c/d"], ["f", "c/d-a.b", "a", "d"]),
        (["f", "<{}>"], ["a", "b"], ["f", "<a b>"]),
        (["awk", "{print $1}", "{}"], ["x"], ["awk", "{print $1}", "x"]),
        (["f", "{{}}", "{a}", "${HOME}"], ["x"], ["f", "{x}", "{a}", "${HOME}"]),
        (["f", "$(x) `y` \"z\" 'q'", "{}"], ["$(v)"], ["f", "$(x) `y` \"z\" 'q'", "$(v)"]),
    ],
)
def test_words_reach_the_program_as_they_are(words: list[str], values: list[str], made: list[str]) -> None:
    assert commands(words, *values) == made


@pytest.mark.parametrize("words", [["{3}"], ["{0}"], ["{%}"], ["{= s/a/b/ =}"], ["f", "{-1}"]])
def test_what_is_not_offered_is_an_error(words: list[str]) -> None:
    with pytest.raises(UsageError):
        each_file.translate_command(words, 2)


#: A program for a shell, and what it prints for a value.
PROGRAMS = {
    "printf '%s|' {}": "{v}|",
    "printf '%s|' a{}b": "a{v}b|",
    'printf "%s|" "a{}b"': "a{v}b|",
    "printf '%s|' 'a{}b'": "a{v}b|",
    "printf '%s|' \"it's {}\" 'say \"{}\"'": 'it\'s {v}|say "{v}"|',
    "printf '%s|' \"$(printf '%s.' \"{}\")\"": "{v}.|",
    "printf '%s|' \"$(printf '%s.' {})\" {#}": "{v}.|7|",
    "x={}; printf '%s|' \"$x\"": "{v}|",
    "printf '%s|' \\\"{} # {}": '"{v}|',
    "(printf '%s|' {}); { printf '%s|' \"{}\"; }": "{v}|{v}|",
    "printf '%s|'": "{v}|",
}


@pytest.mark.parametrize("program", PROGRAMS)
@examples(4, 60)
@given(value=st.one_of(st.sampled_from(HOSTILE), VALUES))
def test_a_value_is_one_word_of_a_shell_whatever_is_in_it(program: str, value: str) -> None:
    done = subprocess.run(commands([program], value), capture_output=True, check=True, timeout=60)
    assert done.stdout == PROGRAMS[program].replace("{v}", value).encode()


@examples(40, 500)
@given(text=st.text("'\"`$(){}\\ #;a\n", max_size=12), value=st.sampled_from(HOSTILE[:4]))
def test_a_value_is_never_executed_whatever_the_program_is(text: str, value: str) -> None:
    """No place of a program has a value in it: all values are its parameters."""
    program, *rest = each_file.translate_command([f"{text} {{}}"], 1)[2:]
    assert value not in fill_template(program, (7, value))
    assert rest[0] == "sh"
    assert {"{1}"} <= {*rest[1:]} <= {"{0}", "{1}"}


@examples(40, 300)
@given(words=st.lists(st.text(st.characters(blacklist_categories=("Cs",)), max_size=8), min_size=1, max_size=4))
def test_the_file_has_the_command_as_it_was_given(words: list[str]) -> None:
    """Whatever is in it: braces, quotes, references to params."""
    words = ["prog", *words]
    try:
        text = each_file.render_file(CommandLine(tuple(words), (["v"],)), EachOptions())
    except UsageError:
        return
    found = tomllib.loads(text)["tasks"]["command"]["with"]["command"]
    assert [word.replace("$${", "${") for word in found] == each_file.translate_command(words, 1)


def test_sources_are_split_as_gnu_parallel_does() -> None:
    split = each_file.split_command_line
    assert split(["f", "x"]) == CommandLine(("f", "x"), ("-",))
    assert split(["f", ":::", "a", "b", ":::", "c"]) == CommandLine(("f",), (["a", "b"], ["c"]))
    assert split(["f", "::::", "l", "-", ":::", "c"]) == CommandLine(("f",), ("l", "-", ["c"]))
    assert split(["f"], ["l"]) == CommandLine(("f",), ("l",))
    assert split(["f", ":::", "a", ":::+", "c"]) == CommandLine(("f",), (["a"], ["c"]), pairs=True)
    assert split([":::", "a b"]) == CommandLine((), (["a b"],))
    assert split(["f", ":::"]) == CommandLine(("f",), ([],))
    for wrong in (["f", ":::+", "a"], ["f", ":::", "a", ":::", "b", ":::+", "c"], ["f", "::::"]):
        with pytest.raises(UsageError):
            split(wrong)


def test_options_of_gnu_parallel_are_translated() -> None:
    cores = usable_cpus()
    assert [each_file.count_jobs(text) for text in ("3", "+2", "-1000", "100%", "200%")] == [
        3,
        cores + 2,
        1,
        cores,
        2 * cores,
    ]
    for wrong in ("x", "", "1.5", "100000"):
        with pytest.raises(UsageError):
            each_file.count_jobs(wrong)
    assert each_file.translate_halt("now,fail=3") == (3, True)
    assert each_file.translate_halt("soon,fail=30%") == ("30%", False)
    for wrong in ("now,success=1", "0", "2", "x")[:2]:
        with pytest.raises(UsageError):
            each_file.translate_halt(wrong)
    with pytest.raises(UsageError):
        each_file.translate_duration("200%")


def test_arguments_of_several_sources(tmp_path) -> None:  # type: ignore[no-untyped-def]
    lines, nulls = tmp_path / "lines", tmp_path / "nulls"
    lines.write_bytes(b"a b\n\n\xff\r\nlast")
    nulls.write_bytes(b"a\nb\0\0last")
    assert list(command_arguments([str(lines)])) == [(1, "a b"), (2, ""), (3, "\udcff\r"), (4, "last")]
    assert list(command_arguments([str(lines)], skip_empty=True)) == [(1, "a b"), (2, "\udcff\r"), (3, "last")]
    assert list(command_arguments([str(nulls)], null=True)) == [(1, "a\nb"), (2, ""), (3, "last")]
    assert list(command_arguments([["x", "y", "z"], ["1", "2"]], pairs=True)) == [(1, "x", "1"), (2, "y", "2")]
    assert list(command_arguments([["x,y", "z"]], columns=",")) == [(1, "x", "y"), (2, "z")]
    assert list(command_arguments([["x"], []])) == list(command_arguments([[]])) == []
    with pytest.raises(ValueError, match="twice"):
        list(command_arguments(["-", "-"]))
