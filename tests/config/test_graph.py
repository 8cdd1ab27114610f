"""Drawings of topologies: text that fits a terminal, SVG, Mermaid, dot."""

from __future__ import annotations

import itertools
import re
import textwrap
from dataclasses import replace
from xml.etree import ElementTree as ET

import past_runs
import pytest
from helpers import ROOT, examples
from hypothesis import given
from hypothesis import strategies as st

from runner import config
from runner.report.graph import (
    Diagram,
    DiagramBox,
    DiagramEdge,
    diagram_of_config,
    diagram_of_run,
    to_dot,
    to_mermaid,
    to_text,
    top_down_order,
)
from runner.report.graph_svg import arrange_component, to_svg
from runner.text import display_width
from runner.topology import connected_groups

FILES = [ROOT / "tasks.toml", *sorted((ROOT / "examples").rglob("tasks*.toml"))]

DIAMOND = """
[queues]
raw = { fanout = "copy" }
small = {}
large = {}
[tasks.read]
outputs = "raw"
[tasks.shrink]
inputs = "raw"
outputs = "small"
[tasks.grow]
inputs = "raw"
outputs = "large"
[tasks.join]
inputs = ["small", "large"]
"""

CYCLE = """
[queues]
start = {}
there = {}
back = { loop = true }
[tasks.seed]
outputs = "start"
[tasks.go]
mode = "thread"
inputs = ["start", "back"]
outputs = "there"
[tasks.come]
inputs = "there"
outputs = "back"
"""


@pytest.fixture
def graph(tmp_path):
    def make(text):
        (tmp_path / "tasks.toml").write_text(textwrap.dedent(text))
        return diagram_of_config(config.examine(tmp_path / "tasks.toml", env={}, lenient=True))

    return make


def test_a_diamond(graph):
    assert to_text(graph(DIAMOND)).split("\n") == [
        "read: 1 worker",
        "  -> raw (copy) -> shrink, grow",
        "shrink: 1 worker",
        "  -> small -> join",
        "grow: 1 worker",
        "  -> large -> join",
        "join: 1 worker",
    ]


def test_a_cycle(graph):
    assert to_text(graph(CYCLE)).split("\n") == [
        "seed: 1 worker",
        "  -> start -> go",
        "go: 1 thread",
        "  -> there -> come",
        "come: 1 worker",
        "  -> back (loop) -> go (above)",
    ]


def test_all_that_a_file_says_of_a_task_is_in_the_text(graph):
    text = """
    [queues]
    raw = { size = 10 }
    burnt = {}
    [tasks.late]
    after = "read"
    enabled = false
    [tasks.read]
    call = "files.read"
    outputs = "raw"
    [tasks.bury]
    inputs = "burnt"
    [tasks.burn]
    workers = 3
    mode = "process"
    inputs = "raw"
    dead = "burnt"
    """
    assert to_text(graph(text)).split("\n") == [
        "read: files.read, 1 worker",
        "  -> raw (10) -> burn",
        "late: 1 worker, not enabled, after read",
        "burn: 3 processes",
        "  dead letters -> burnt -> bury",
        "bury: 1 worker",
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_file_of_the_repository_fits_a_terminal(file):
    made = diagram_of_config(config.examine(file, env={}, lenient=True))
    text = to_text(made)
    assert all(display_width(line) <= 80 for line in text.split("\n"))
    for box in made.boxes.values():
        assert box.name in text


def test_long_lines_are_wrapped(graph):
    assert to_text(graph(DIAMOND), 20).split("\n")[:4] == [
        "read: 1 worker",
        "  -> raw (copy) ->",
        "      shrink, grow",
        "shrink: 1 worker",
    ]


def test_mermaid(graph):
    assert to_mermaid(graph(CYCLE)).split("\n")[:4] == [
        "flowchart TD",
        '    n0["seed<br/>1 worker"]',
        '    n1["go<br/>1 thread"]',
        '    n2["come<br/>1 worker"]',
    ]


def test_dot_escapes(graph):
    text = to_dot(graph('title = "a \\"b\\""\n[tasks.a]'))
    assert 'label="a \\"b\\""' in text
    assert '"t.a" [label="a\\n1 worker", shape=box, style="rounded"];' in text


def test_svg_is_well_formed_and_escapes(graph):
    text = to_svg(graph('title = "<b>&"\n' + CYCLE))
    root = ET.fromstring(text)
    assert "<b>" not in text
    texts = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"<b>&", "seed", "go", "come", "start", "there", "back (loop)"} <= set(texts)


def test_svg_boxes_do_not_overlap(graph):
    found = []
    for match in re.finditer(
        r'<rect x="([\d.-]+)" y="([\d.-]+)" width="([\d.]+)" height="([\d.]+)"', to_svg(graph(DIAMOND))
    ):
        left, top, wide, high = map(float, match.groups())
        found.append((left, top, left + wide, top + high))
    for number, (left, top, right, bottom) in enumerate(found):
        for x, y, far, low in found[number + 1 :]:
            assert right <= x or far <= left or bottom <= y or low <= top


# -- any graph --------------------------------------------------------------------------------

names = st.integers(0, 9).map(str)
graphs = st.lists(st.tuples(names, names, st.sampled_from(["flow", "dead", "after"])), max_size=20)


@examples(40, 150)
@given(graphs)
def test_any_graph_can_be_laid_out(pairs):
    edges = [DiagramEdge(*pair) for pair in dict.fromkeys(pairs)]
    boxes = [str(number) for number in range(10)]
    parts = connected_groups(boxes, [(edge.tail, edge.head) for edge in edges])
    assert sorted(name for part in parts for name in part) == boxes
    assert all(edge.head in part for edge in edges for part in parts if edge.tail in part)
    for part in parts:
        inside = [edge for edge in edges if edge.tail in part]
        layout = arrange_component(dict.fromkeys(part, 5.0), inside, 2, 1)
        assert sorted(name for layer in layout.layers for name in layer if name in part) == sorted(part)
        for layer in layout.layers:
            for left, right in itertools.pairwise(layer):
                apart = (layout.widths[left] + layout.widths[right]) / 2 + 2
                assert layout.centres[right] - layout.centres[left] >= apart - 1e-6


@examples(40, 150)
@given(graphs)
def test_an_edge_that_leads_up_closes_a_cycle(pairs):
    edges = [DiagramEdge(*pair) for pair in dict.fromkeys(pairs)]
    boxes = [str(number) for number in range(10)]
    order = top_down_order(boxes, edges)
    assert sorted(order) == boxes
    reached = {name: {name} for name in boxes}  # by any number of edges
    for _ in boxes:
        for edge in edges:
            reached[edge.tail] |= reached[edge.head]
    for edge in edges:
        assert order.index(edge.tail) < order.index(edge.head) or edge.tail in reached[edge.head]


@examples(40, 150)
@given(graphs)
def test_any_graph_can_be_drawn(pairs):
    edges = [DiagramEdge(f"t{tail}", f"t{head}", style) for tail, head, style in dict.fromkeys(pairs)]
    boxes = {f"t{number}": DiagramBox(f"t{number}", f"box{number}", "task", ("note",)) for number in range(10)}
    made = Diagram("any", boxes, edges)
    lines = to_text(made, 10_000).split("\n")
    for box in boxes.values():
        assert sum(line.startswith(f"{box.name}: note") for line in lines) == 1
    assert sum("->" in line for line in lines) == sum(edge.style != "after" for edge in edges)
    assert sum(line.count("after box") for line in lines) == sum(edge.style == "after" for edge in edges)
    assert len(ET.fromstring(to_svg(made)).findall(".//{*}rect")) == 10


# -- of a run ---------------------------------------------------------------------------------


def test_counts_of_a_run_stand_in_the_text():
    text = to_text(diagram_of_run(past_runs.past_run()), 120)
    for wanted in ("thumbs.resize", "3 threads", "10,000 sent", "9,960 done", "40 dead", "90% busy", "thumbs (10,000 in, at most 300)", "full at 1,000"):  # fmt: skip
        assert wanted in text


def test_the_load_of_a_run_is_its_colour():
    made = diagram_of_run(past_runs.past_run())
    assert 'style="rounded,filled", fillcolor="#ffad7a"' in to_dot(made)
    assert "class n1 load4" in to_mermaid(made)
    root = ET.fromstring(to_svg(made))
    classes = [group.get("class") for group in root.iter("{http://www.w3.org/2000/svg}g") if group.get("class")]
    assert classes[:2] == ["task load2", "task load4"]
    assert "queue load4" in classes


def test_a_page_brings_the_style_of_its_picture():
    assert "<style>" not in to_svg(diagram_of_run(past_runs.past_run()), alone=False)


def test_what_was_not_started_and_what_is_not_known():
    record = past_runs.past_run()
    skipped = replace(record, tasks=(replace(record.tasks[0], how="skipped"),), queues=())
    made = diagram_of_run(skipped)
    assert made.boxes["t.read"].is_faint
    assert made.boxes["t.read"].notes[-1] == "not started"
    assert made.boxes["t.resize"].notes == ("thumbs.resize", "3 threads")
    assert made.boxes["q.paths"].heat_level is None


def test_names_of_a_run_are_harmless():
    made = diagram_of_run(past_runs.hostile())
    for text in (to_text(made, 1000), to_mermaid(made), to_dot(made), to_svg(made)):
        assert not [char for char in text if not char.isprintable() and char != "\n"]
    assert not ET.fromstring(to_svg(made)).findall(".//{*}img")
