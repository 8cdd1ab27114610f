"""What is read: references that would grow without bound, thousands of secrets, and graphs of a thousand tasks."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from runner import check, config
from runner.config import params
from runner.config.source_map import SourceMap
from runner.errors import ConfigError
from runner.problems import render_problems
from runner.report import graph_svg
from runner.report.graph import Diagram, DiagramBox, DiagramEdge, to_dot, to_mermaid, to_text
from runner.report.graph_svg import DiagramTooLarge, to_svg

#: No machine takes so long for what should take a second; before, it took minutes.
HANGS = 30.0


def problems(folder, text):
    (folder / "tasks.toml").write_text(text)
    try:
        loaded = config.examine(folder / "tasks.toml", env={}, lenient=True)
    except ConfigError as error:
        return list(error.problems)
    return check.check_file(loaded)


HEAD = '[params]\na = "' + "x" * 100_000 + '"\n[tasks.a]\n'
BOMBS = {
    "one string": HEAD + 'with = { k = "' + "${a}" * 20_000 + '" }\n',
    "many strings": HEAD + "args = [" + "'y${a}'," * 5_000 + "]\n",
    "whole texts": HEAD + "args = [" + "'${a}'," * 5_000 + "]\n",
    "lists": "[params]\na = [" + "1," * 100_000 + "]\n[tasks.a]\nargs = [" + "'${a}'," * 5_000 + "]\n",
    "help": HEAD + 'help = "' + "${a}" * 20_000 + '"\n',
    "env": HEAD + "[tasks.a.env]\n" + "".join(f"K{number} = '${{a}}${{a}}'\n" for number in range(2000)),
}


@pytest.mark.parametrize(
    "name",
    [
        "one string",
        "env",
        *(pytest.param(name, marks=pytest.mark.slow) for name in BOMBS if name not in {"one string", "env"}),
    ],
)
def test_references_do_not_make_gigabytes(name, tmp_path):
    found = problems(tmp_path, BOMBS[name])
    assert [each.code for each in found if each.severity == "error"] == ["E118"]


def test_a_bomb_takes_no_memory(tmp_path):
    tracemalloc.start()
    try:
        problems(tmp_path, BOMBS["one string"])
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


def test_a_long_text_may_be_used_and_repeated_within_the_bound(tmp_path):
    (tmp_path / "tasks.toml").write_text('[params]\na = "x"\n[tasks.a]\nargs = ["${a}", "${a}${a}"]\n')
    most = config.examine(tmp_path / "tasks.toml", params={"a": "y" * (20 << 20)})
    assert [each.code for each in most.problems] == ["E118"]  # the second use
    some = config.examine(tmp_path / "tasks.toml", params={"a": "y" * (5 << 20)})
    assert len(some.tasks["a"].args[1]) == 10 << 20


def test_too_many_params_are_one_error(tmp_path):
    text = "[params]\n" + "".join(f"p{number} = 1\n" for number in range(3000)) + "[tasks.a]\n"
    assert [each.code for each in problems(tmp_path, text)] == ["E117"]


def test_two_thousand_secrets_and_two_hundred_errors(tmp_path):
    secrets = "".join(f'p{number} = {{ default = "geheim{number}", secret = true }}\n' for number in range(1900))
    text = f"[params]\n{secrets}[tasks.a]\n" + "".join(f'z{number} = "geheim{number}"\n' for number in range(250))
    began = time.monotonic()
    shown = render_problems(problems(tmp_path, text))
    assert time.monotonic() - began < HANGS
    assert "geheim" not in shown


def test_secrets_that_touch_are_masked():
    places = SourceMap("f", 'a = "onetwo"\nb = "two"\n')
    places.hide_secret(("a",), "onetwo")
    places.hide_secret(("b",), "two")
    assert places.mask_secrets("onetwo two three") == "****** *** three"
    assert places._masked_lines() == ["a = ********", "b = *****", ""]


# -- graphs -----------------------------------------------------------------------------------


def graph(pairs, style="flow"):
    names = dict.fromkeys(name for pair in pairs for name in pair)
    boxes = {name: DiagramBox(name, name, "task", ("1 worker",)) for name in names}
    return Diagram("large", boxes, [DiagramEdge(tail, head, style) for tail, head in pairs])


N = 1000
SHAPES = {
    "chain": [(f"t{n}", f"t{n + 1}") for n in range(N)],
    "star": [("t", f"t{n}") for n in range(N)],
    "funnel": [(f"t{n}", "t") for n in range(N)],
    "bipartite": [(f"a{n}", f"b{m}") for n in range(60) for m in range(60)],
    "wide bipartite": [(f"a{n}", f"b{m}") for n in range(200) for m in range(200)],
    "cycle": [(f"t{n}", f"t{(n + 1) % N}") for n in range(N)],
    "ladder": [(f"t{n}", f"t{m}") for n in range(150) for m in range(n)],
    "loose": [(f"a{n}", f"b{n}") for n in range(N // 2)],
}


@pytest.mark.parametrize(
    "shape",
    [pytest.param(shape, marks=pytest.mark.slow) if shape not in {"chain", "cycle"} else shape for shape in SHAPES],
)
def test_a_graph_of_a_thousand_tasks(shape):
    made = graph(SHAPES[shape])
    began = time.monotonic()
    text = to_text(made, 120)
    assert text.count(": 1 worker") == len(made.boxes)
    assert max(map(len, text.splitlines())) <= 120
    if sum(1 for _ in made.edges) > graph_svg.MAX_SEGMENTS or shape == "ladder":
        with pytest.raises(DiagramTooLarge):
            to_svg(made)
    elif shape != "bipartite":
        assert to_svg(made).count("<rect") == len(made.boxes)
    assert len(to_mermaid(made)) + len(to_dot(made)) > len(made.edges)
    assert time.monotonic() - began < HANGS


# -- planted bugs -----------------------------------------------------------------------------


def test_planted_a_bound_that_counts_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(params.Params, "_count_filled", lambda self, size: None)
    text = BOMBS["one string"].replace("x" * 100_000, "x" * 1000)  # 20 MB, not 2 GB
    assert [each.code for each in problems(tmp_path, text) if each.severity == "error"] == []
    monkeypatch.undo()
    assert [each.code for each in problems(tmp_path, text) if each.severity == "error"] == ["E118"]
