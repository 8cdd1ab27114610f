"""The HTML report: one file, no code but its own, everything escaped, small and quick."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import past_runs
import pytest

from runner.events import STATES, NodeSummary, TaskSummary
from runner.report import page
from runner.report.record import RunRecord, Series

#: uPlot 1.6.32. docs/explanation/dependencies.md says how to renew it.
VENDORED = {
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


class Tags(HTMLParser):
    """What a browser would make elements of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if self._open:
            self.inside.setdefault(self._open[-1], []).append(data)


@pytest.fixture(scope="module")
def made():
    return page.render_page(past_runs.past_run())


@pytest.fixture(scope="module")
def big():
    return page.render_page(past_runs.big())


def test_what_ships_is_what_was_published():
    for name, digest in VENDORED.items():
        assert hashlib.sha256(page._read_asset(name).encode()).hexdigest() == digest
    assert "MIT License" in page._read_asset("uPlot.LICENSE")


@pytest.mark.slow
def test_a_run_of_ten_million_items_stays_below_a_megabyte(big):
    assert len(big.encode()) < 1_000_000


@pytest.mark.slow
def test_no_number_of_anything_makes_it_big():
    record = past_runs.past_run(tasks=60, workers=240, queues=120, bins=400, failures=400, trace='"<&>"' * 10_000)
    moments = record.moments * 1_000
    huge = replace(record, moments=moments, plan=replace(record.plan, resolved="<" * 10**6))
    assert len(page.render_page(huge).encode()) < 1_000_000


def test_only_the_two_scripts_and_the_style_may_run(made):
    tags = Tags(made)
    policy = next(
        a["content"] for tag, a in tags.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert parts.keys() == {"default-src", "base-uri", "form-action", "script-src", "style-src"}
    assert parts["default-src"] == parts["base-uri"] == parts["form-action"] == "'none'"

    def digest(text):
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert parts["style-src"] == digest(re.search(r"<style>(.*?)</style>", made, re.DOTALL)[1])
    assert parts["script-src"].split() == [
        digest(text) for text in re.findall(r"<script>(.*?)</script>", made, re.DOTALL)
    ]
    assert not [a for _, a in tags.tags if any(name.startswith("on") or name == "style" for name in a)]


def test_nothing_is_loaded_from_anywhere(made):
    tags = Tags(made)
    assert not {tag for tag, _ in tags.tags} & {"link", "img", "iframe", "object", "embed", "base", "form"}
    assert not [a for _, a in tags.tags if "src" in a]
    assert all(a["href"].startswith("#") for tag, a in tags.tags if tag == "a")
    assert "url(http" not in made
    assert "@import" not in made


def test_hostile_texts_stay_texts():
    harmless, hostile = Tags(page.render_page(past_runs.past_run())), page.render_page(past_runs.hostile())
    tags = Tags(hostile)
    assert {tag for tag, _ in tags.tags} <= {tag for tag, _ in harmless.tags} | {"p", "b"}
    assert not [a for _, a in tags.tags if "onerror" in a]
    assert sum(tag == "script" for tag, _ in tags.tags) == 3
    assert not {"\x00", "\u202e", "\ud800"} & set(hostile)
    assert "49" not in "".join(tags.inside["h1"]), "a template has worked on foreign text"
    assert r"\u202egnp" in "".join(tags.inside["h1"])


def test_the_figures_survive_as_json():
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.render_page(past_runs.hostile()), re.DOTALL
    )
    data = json.loads(found[1])
    assert data["timeline"][0]["task"].startswith("</script><img src=x")
    assert data["rates"][0]["name"] == data["timeline"][0]["task"]


def test_everything_of_a_run_is_on_it(made):
    text = re.sub(r"<[^>]+>", " ", made.replace("&#39;", "'").replace("&#34;", '"'))
    for wanted in (
        "Thumbnails", "20261123-101500", "ended, and some items are dead", "1m00s", "`resize` limits the run",
        "10,000", "9,960", "37 × OSError", "first: item 'cat.jpg' (12.0)", '"bucket" does not answer', "'cat.jpg'",
        "killed by signal 9", "12 times", "thumbs.upload", "Linux 6.1 x86_64", "17GB", "3.12.1",
        'call = "thumbs.read"', '{"rows": 9960}', "waiting for its turn",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_it_can_be_read_without_seeing_it(made):
    tags = Tags(made)
    names = [tag for tag, _ in tags.tags]
    assert names.count("main") == names.count("h1") == 1
    assert {"header", "nav", "section", "h2", "caption", "figcaption", "noscript"} <= set(names)
    ids = {a["id"] for _, a in tags.tags if "id" in a}
    for _, attributes in tags.tags:
        for key in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(key) is None or attributes[key] in ids
    assert {a["href"][1:] for tag, a in tags.tags if tag == "a"} <= ids
    assert all(a.get("scope") for tag, a in tags.tags if tag == "th")
    assert dict(tags.tags)["html"] == {"lang": "en"}


def test_a_run_of_which_nothing_is_known_has_a_page():
    text = page.render_page(RunRecord("r", "t"))
    assert "going on, or was killed" in text
    assert "<figure" not in text


def test_a_comparison_is_on_the_page():
    before = past_runs.past_run(seconds=120.0, run="20261122-090000")
    text = page.render_page(past_runs.past_run(), before)
    assert "Compared with 20261122-090000" in text
    assert "-50 %" in text


def test_a_long_text_keeps_its_end():
    text = page.fit_escaped("<" * 5000 + "the end", 1000)
    assert text.endswith("the end")
    assert "characters" in text


# -- the figures behind the plots -------------------------------------------------------------


def test_rows_that_are_too_many_share():
    shares = {f"w{n}": ((0.0,) * 2 + ((n % 2) * 1.0,) + (0.0,) * 3 + (1.0 - n % 2,),) * 3 for n in range(1000)}
    rows = page.timeline_rows(Series((1.0, 2.0, 3.0), workers={"t": shares}))
    assert len(rows) <= page.MAX_TIMELINE_ROWS
    assert rows[0]["name"] == "w0 to w7"
    assert rows[0]["cells"] == "666666.."


@pytest.mark.slow
def test_a_long_timeline_has_longer_intervals():
    executing = tuple(float(state == "executing") for state in STATES)
    workers = {f"w{n}": (executing,) * 4000 for n in range(16)}
    rows = page.timeline_rows(Series(tuple(map(float, range(1, 4001))), workers={"t": workers}))
    assert rows[0]["every"] == 2
    assert rows[0]["cells"] == "cccccc" + "." * 1999


def test_a_source_is_as_fast_as_it_sends():
    record = past_runs.past_run()
    assert [rate["name"] for rate in page.throughput_plot(record)] == ["read", "resize", "upload", "manifest"]


def test_a_queue_without_a_bound_is_counted_in_items():
    record = past_runs.past_run()
    plan = replace(record.plan, queues=(*record.plan.queues[:-1], replace(record.plan.queues[-1], size=None)))
    found = page.queue_fill_plot(replace(record, plan=plan))
    assert [queue["unit"] for queue in found] == [" %", " %", " %", ""]
    assert found[-1]["values"] == list(record.series.queues["rejected"])


def test_items_of_all_tasks_stand_on_one_grid():
    found = page.item_times_plot(
        (TaskSummary("a", "ok", times=((0.001, 3), (0.00105, 1))), TaskSummary("b", "ok", times=((0.01, 5),)))
    )
    assert all(len(task["values"]) == len(found["edges"]) for task in found["tasks"])
    assert [sum(task["values"]) for task in found["tasks"]] == [100, 100]
    assert page.item_times_plot((TaskSummary("a", "ok", times=((0.0, 3), (float("inf"), 1))),)) == {
        "edges": [],
        "tasks": [],
    }


def test_quantiles_of_a_histogram():
    task = TaskSummary("a", "ok", times=((0.001, 90), (0.01, 9), (1.0, 1)))
    assert page.time_quantiles(task) == ["1.0ms", "1.0ms", "1.0ms", "10ms", "1s"]


def test_rows_of_workers_stand_with_those_of_their_machine():
    record = past_runs.past_run(tasks=2, workers=4)
    names = {task.name: [worker.name for worker in task.workers] for task in record.tasks}
    assert "node" not in page.build_plots(record)["timeline"][0]
    places = ("n2", "n1", "", "n1")
    tasks = tuple(
        replace(
            task, workers=tuple(replace(each, node=place) for each, place in zip(task.workers, places, strict=False))
        )
        for task in record.tasks
    )
    nodes = tuple(
        NodeSummary(name, f"host-{name}", 4, 8, workers=2, sent=5_000_000, sending=0.25) for name in ("n1", "n2")
    )
    record = replace(record, tasks=tasks, nodes=nodes)
    rows = page.build_plots(record)["timeline"]
    assert [row["node"] for row in rows] == sorted(row["node"] for row in rows)
    expected = {(worker.node, task.name, worker.name) for task in tasks for worker in task.workers}
    assert {(row["node"], row["task"], row["name"]) for row in rows} == expected
    assert sum(len(each) for each in names.values()) == len(rows)
    made = page.render_page(record)
    assert 'id="nodes"' in made
    assert "host-n2" in made
    assert 'id="nodes"' not in page.render_page(past_runs.past_run())
