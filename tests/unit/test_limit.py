"""The sentence about what limits a run, from records made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_loads import SECONDS, Did, beside, line

from runner.events import NodeSummary, RunPlan
from runner.report.bottleneck import find_bottleneck
from runner.report.record import RunRecord

READ = Did("read", 0.02, room=0.9)
SAVE = Did("save", 0.03)


def sentence(record):
    found = find_bottleneck(record)
    return None if found is None else found.sentence


def finds(workers):
    """The end of a sentence that suggests a range of workers."""
    return f'; workers = "{workers}" finds the number'


# -- work -------------------------------------------------------------------------------------


def test_a_busy_stage():
    found = find_bottleneck(line(READ, Did("resize", 0.97, cpu=0.9, workers=2), SAVE))
    assert found.sentence == "resize limits the run: 97 % busy; 3 workers would give about 1.5x" + finds("2..8")
    assert (found.kind, found.task, found.workers) == ("work", "resize", 3)
    assert found.gain == pytest.approx(1 / (0.03 + 0.97 * 2 / 3))


def test_encoding_is_work_too():
    record = line(READ, Did("resize", 0.97, encoding=0.9), SAVE)
    assert sentence(record) == "resize limits the run: 97 % busy; 2 workers would give about 1.9x" + finds("1..4")


def test_a_slow_sink():
    record = line(READ, Did("work", 0.2, room=0.75), Did("save", 0.98, mode="thread"))
    assert sentence(record) == "save limits the run: 98 % busy; 2 workers would give about 2.0x" + finds("1..4")


def test_what_comes_next_bounds_what_is_gained_and_is_named():
    record = line(READ, Did("resize", 0.96), Did("upload", 0.8))
    found = find_bottleneck(record)
    assert (
        found.sentence
        == "resize limits the run: 96 % busy; 2 workers would give about 1.2x (then upload would limit it)"
        + finds("1..4")
    )
    assert found.gain == pytest.approx(1 / (0.04 + 0.8))


def test_of_many_workers_one_more_is_not_worth_a_word():
    found = find_bottleneck(line(READ, Did("upload", 0.95, workers=16, mode="thread"), SAVE))
    assert found.workers == 20
    assert found.gain == pytest.approx(1 / (0.05 + 0.95 * 16 / 20))


def test_free_cores_bound_what_is_gained():
    record = line(READ, Did("crunch", 0.97, cpu=0.95, workers=3), SAVE, cores=4)
    found = find_bottleneck(record)
    assert found.workers == 4
    assert found.gain == pytest.approx(1 / (0.03 + 0.97 * 3 / 4), rel=0.01)
    assert "then" not in found.sentence
    other = find_bottleneck(replace(record, idle=0.15))  # somebody else takes some of the fourth core
    assert other.sentence == (
        "crunch limits the run: 97 % busy; 4 workers would give about 1.2x (then the machine's cores would limit it)"
        + finds("3..4")
    )


def test_a_stage_that_starts_slowly_is_judged_by_what_follows():
    record = line(READ, Did("resize", 0.68, starting=0.3, cpu=0.6), SAVE)
    found = find_bottleneck(record)
    assert found.sentence.startswith("resize limits the run: 97 % busy; 2 workers")
    assert found.gain == pytest.approx(1.94, abs=0.01)


def test_a_source_that_is_done_early_was_not_busy():
    record = line(Did("read", 0.99, end=0.1), Did("resize", 0.96), SAVE)
    assert sentence(record).startswith("resize limits the run: 96 % busy")


def test_a_stage_that_nothing_waits_for_is_no_limit():
    """A ping-pong between two tasks: each waits for the other, and more workers would find nothing."""
    record = line(READ, Did("ask", 0.75), Did("answer", 0.2), most={"q1": 1})
    assert find_bottleneck(record) is None


def test_few_items_promise_nothing():
    record = line(READ, Did("resize", 0.97, items=3, workers=2), SAVE)
    found = find_bottleneck(record)
    assert (found.sentence, found.workers, found.gain) == ("resize limits the run: 97 % busy", None, None)


def test_workers_that_wait_for_their_turn_are_no_limit():
    assert find_bottleneck(line(READ, Did("resize", 0.4, workers=2, turn=0.55, ordered=True), SAVE)) is None


# -- sources ----------------------------------------------------------------------------------


def test_a_slow_source():
    found = find_bottleneck(line(Did("read", 0.98), Did("resize", 0.3, workers=2), SAVE))
    assert found.sentence == (
        "read limits the run: 98 % busy making items; twice as fast, it would give about 2.0x; "
        "more workers elsewhere would give nothing"
    )
    assert (found.kind, found.task, found.workers) == ("work", "read", None)


def test_a_source_that_computes_in_a_thread_is_not_told_to_be_a_process():
    record = line(Did("read", 0.97, cpu=0.95, mode="thread"), Did("resize", 0.3, workers=2), SAVE, cores=2)
    found = find_bottleneck(record)
    assert found.sentence.startswith("read limits the run: 97 % busy making items; twice as fast")
    assert found.gain == pytest.approx(1.94, abs=0.02)


# -- what all share ---------------------------------------------------------------------------


def test_threads_that_compute():
    record = line(READ, Did("crunch", 0.97, cpu=0.48, workers=2, mode="thread"), SAVE, cores=2)
    found = find_bottleneck(record)
    assert found.sentence == (
        "threads share one interpreter, which limits the run: 96 % busy, crunch takes 100 % of it; "
        'mode = "process" would give up to 2.0x'
    )
    assert (found.kind, found.task, found.workers) == ("interpreter", "crunch", 2)


def test_one_thread_that_computes_has_no_use_for_a_second_one():
    found = find_bottleneck(line(READ, Did("crunch", 0.97, cpu=0.95, mode="thread"), SAVE, cores=2))
    assert found.sentence.endswith('mode = "process" and 2 workers would give up to 2.0x')
    assert found.workers == 2


def test_two_thread_tasks_that_compute_are_each_other_s_limit():
    record = line(
        READ,
        Did("parse", 0.95, cpu=0.6, mode="thread"),
        Did("count", 0.9, cpu=0.38, mode="thread"),
        cores=4,
    )
    found = find_bottleneck(record)
    assert found.sentence == (
        "threads share one interpreter, which limits the run: 98 % busy, parse takes 61 % of it; "
        'mode = "process" and 2 workers would give up to 2.5x'
    )


def test_threads_that_let_the_interpreter_go_are_not_held_by_it():
    record = line(READ, Did("matrix", 0.97, cpu=0.95, workers=3, mode="thread"), SAVE, cores=8)
    assert sentence(record) == "matrix limits the run: 97 % busy; 4 workers would give about 1.3x" + finds("3..8")


def test_all_cores_are_busy():
    found = find_bottleneck(line(READ, Did("crunch", 0.98, cpu=0.95, workers=2), SAVE, cores=2))
    assert found.sentence == (
        "the machine limits the run: all 2 cores are busy (95 %), 100 % of that with crunch; "
        "more workers would give nothing"
    )
    assert (found.kind, found.task, found.workers, found.gain) == ("machine", "crunch", None, None)


def test_the_one_core_is_busy():
    assert "the one core is busy (95 %)" in sentence(line(READ, Did("crunch", 0.96, cpu=0.95), SAVE, cores=1))


def test_other_programs_keep_the_cores_busy():
    record = line(READ, Did("crunch", 0.98, cpu=0.9), SAVE, cores=2, idle=0.01)
    assert sentence(record) == (
        "the machine limits the run: all 2 cores are busy (99 %), 55 % of that with other programs; "
        "more workers would only compete with them"
    )


def test_other_programs_are_not_in_the_way_of_who_waits():
    record = line(READ, Did("fetch", 0.98, cpu=0.02), SAVE, cores=2, idle=0.0)
    assert sentence(record) == "fetch limits the run: 98 % busy; 2 workers would give about 2.0x" + finds("1..4")


def test_processes_that_start_are_no_other_program():
    record = line(READ, Did("crunch", 0.67, cpu=0.66, starting=0.3), SAVE, cores=2, idle=0.5)
    assert sentence(record).startswith("crunch limits the run: 96 % busy; 2 workers would give about 1.9x")


def test_runner_itself_is_no_other_program():
    record = line(READ, Did("crunch", 0.98, cpu=0.9), SAVE, cores=2, idle=0.05, cpu=9.0)
    assert "other programs" not in sentence(record)


# -- rate and concurrency ---------------------------------------------------------------------


def test_a_rate():
    found = find_bottleneck(line(READ, Did("upload", 0.12, workers=4, turn=0.8, rate=100.0), SAVE))
    assert found.sentence == (
        "upload limits the run: its rate of 100/s is reached, its workers are 12 % busy; "
        "twice the rate would give about 2.0x"
    )
    assert (found.kind, found.task, found.workers) == ("rate", "upload", None)


def test_behind_a_rate_the_workers_are_the_next_limit():
    found = find_bottleneck(line(READ, Did("upload", 0.7, turn=0.25, rate=100.0), SAVE))
    assert found.sentence.endswith("twice the rate would give about 1.4x (then upload would limit it)")


def test_a_rate_that_is_not_reached_is_no_limit():
    found = find_bottleneck(line(READ, Did("upload", 0.97, rate=1000.0), SAVE))
    assert found.kind == "work"


def test_a_few_items_show_no_rate():
    assert find_bottleneck(line(READ, Did("upload", 0.1, items=2, rate=0.1), SAVE)) is None


def test_async_items_in_flight():
    fetch = Did("fetch", 1.0, cpu=0.1, concurrency=20, times=((0.19, 1000),), mode="thread")
    found = find_bottleneck(line(READ, fetch, SAVE))
    assert found.sentence == (
        "fetch limits the run: as many items as it may have are in flight; concurrency = 40 would give up to 1.9x"
    )
    assert found.kind == "concurrency"


def test_an_event_loop_with_little_in_flight_is_no_limit_however_busy_it_looks():
    fetch = Did("fetch", 1.0, cpu=0.1, concurrency=100, times=((0.19, 1000),), mode="thread")
    assert find_bottleneck(line(READ, fetch, SAVE)) is None


def test_an_event_loop_that_computes():
    fetch = Did("fetch", 1.0, cpu=0.95, concurrency=100, times=((0.05, 1000),))
    assert sentence(
        line(READ, fetch, SAVE)
    ) == "fetch limits the run: 95 % busy; 2 workers would give about 1.9x" + finds("1..8")


# -- balanced ---------------------------------------------------------------------------------


def test_two_that_are_as_busy():
    found = find_bottleneck(line(READ, Did("resize", 0.95), Did("upload", 0.93), SAVE))
    assert found.sentence == (
        "balanced: resize 95 %, upload 93 % busy; more for one alone would give little, "
        "2 for resize, 2 for upload together about 1.9x"
    )
    assert found.kind == "balanced"


def test_a_source_and_a_stage_that_are_as_busy():
    assert sentence(line(Did("read", 0.95), Did("resize", 0.93), SAVE)) == (
        "balanced: read 95 %, resize 93 % busy; more for one alone would give little"
    )


# -- several pipelines ------------------------------------------------------------------------


def test_a_pipeline_beside_a_shorter_one():
    long = line(READ, Did("resize", 0.97), SAVE)
    short = line(Did("find", 0.9, end=0.3), Did("count", 0.9, end=0.3))
    assert sentence(beside(long, short)) == "resize limits the run: 97 % busy; 2 workers would give about 1.9x" + finds(
        "1..4"
    )


def test_what_goes_on_beside_it_bounds_what_is_gained():
    long = line(READ, Did("resize", 0.97), SAVE)
    other = line(Did("find", 0.5, end=0.8), Did("count", 0.5, end=0.8))
    assert find_bottleneck(beside(long, other)).gain == pytest.approx(1 / 0.8)


def test_two_that_take_as_long_say_nothing():
    assert find_bottleneck(beside(line(READ, Did("resize", 0.97)), line(Did("find", 0.5), Did("count", 0.5)))) is None


def test_one_after_the_other():
    first = line(Did("read", 0.02, end=0.8), Did("resize", 0.97, end=0.8), Did("save", 0.03, end=0.8))
    then = line(Did("report", 0.9, begin=0.8, after=("save",)))
    found = find_bottleneck(beside(first, then))
    assert found.sentence == "resize limits the run: 97 % busy; 2 workers would give about 1.6x" + finds("1..4")


def test_parts_of_which_none_is_the_main_one_say_nothing():
    first = line(Did("read", 0.9, end=0.5), Did("resize", 0.97, end=0.5))
    then = line(Did("find", 0.9, begin=0.5), Did("count", 0.97, begin=0.5))
    assert find_bottleneck(beside(first, then)) is None


def test_a_lone_task_that_everything_else_is_over_before():
    bakery = line(Did("bake", 0.9, end=0.2), Did("eat", 0.2, end=0.2))
    assert sentence(beside(line(Did("dance", 1.0)), bakery)) == (
        "dance limits the run: it takes 100 % of the time, and all else is over before"
    )


# -- nothing useful ---------------------------------------------------------------------------


def test_a_task_without_queues():
    assert find_bottleneck(line(Did("dance", 1.0))) is None


def test_a_run_that_was_too_short():
    assert find_bottleneck(line(READ, Did("resize", 0.97), SAVE, seconds=0.3)) is None


def test_a_run_in_which_nobody_is_busy():
    assert find_bottleneck(line(Did("read", 0.4), Did("resize", 0.5), SAVE)) is None


def test_phases_within_one_pipeline():
    assert find_bottleneck(line(READ, Did("sort", 0.9, begin=0.5, after=("read",)), SAVE)) is None


@pytest.mark.parametrize(
    "record", [RunRecord("x", ""), replace(line(READ, SAVE), plan=RunPlan()), RunRecord("x", "", seconds=9)]
)
def test_a_record_that_knows_little(record):
    assert find_bottleneck(record) is None


def test_a_task_that_never_started():
    record = line(READ, Did("resize", 0.97), SAVE)
    skipped = replace(record.tasks[2], workers=(), active=0.0, how="skipped")
    assert find_bottleneck(replace(record, tasks=(*record.tasks[:2], skipped))).task == "resize"


shares = st.floats(0, 1)


@st.composite
def loads(draw, name):
    busy = draw(shares)
    return Did(
        name, busy,
        cpu=draw(st.floats(0, 4)),
        workers=draw(st.integers(1, 20)),
        mode=draw(st.sampled_from(["thread", "process"])),
        items=draw(st.integers(0, 10**9)),
        starting=(1 - busy) * draw(shares),
        rate=draw(st.none() | st.floats(1e-3, 1e9)),
        concurrency=draw(st.none() | st.integers(1, 1000)),
        begin=draw(st.floats(0, 0.5)),
        end=draw(st.floats(0.5, 1)),
    )  # fmt: skip


@given(
    st.tuples(loads("a"), loads("b"), loads("c")),
    st.integers(0, 64),
    st.floats(1e-9, 1e6),
    st.none() | shares,
    st.floats(0, 100),
)
def test_whatever_the_numbers_it_is_one_line_and_promises_no_loss(dids, cores, seconds, idle, cpu):
    found = find_bottleneck(line(*dids, cores=cores, seconds=seconds, idle=idle, cpu=cpu * seconds))
    if found is not None:
        assert "\n" not in found.sentence
        assert found.gain is None or 0.99 <= found.gain <= 25
        assert found.workers is None or found.gain is not None


def test_the_factory_adds_up():
    for task in line(READ, Did("x", 0.5, begin=0.25, end=0.75)).tasks:
        for worker in task.workers:
            spent = worker.spent
            total = spent.starting + spent.item + spent.executing + spent.encoding
            assert total + spent.room + spent.turn + spent.ended == pytest.approx(SECONDS)


# -- other machines ---------------------------------------------------------------------------


def test_the_network_to_a_node_is_full():
    node = NodeSummary("n1", "here", 2, 2, sending=0.95, receiving=0.1, sent=20_000_000, received=1_000_000)
    record = line(READ, Did("resize", 0.3, workers=2, node="n1"), SAVE, nodes=(node,))
    found = find_bottleneck(record)
    assert found.sentence == (
        "the network to node `n1` limits the run: 95 % of the time full with what goes to it, 2 MB/s; "
        "half the bytes would give up to 1.9x"
    )
    assert (found.kind, found.node, found.task) == ("network", "n1", "")
    assert find_bottleneck(replace(record, nodes=(replace(node, sending=0.5),))) is None


def test_what_comes_from_two_nodes_fills_the_network():
    node = NodeSummary("n1", "here", 2, 2, receiving=0.9, sending=0.1, sent=1, received=5_000_000)
    nodes = (node, replace(node, name="n2", host="there", receiving=0.93))
    record = line(READ, Did("resize", 0.6, workers=2, node="n1"), SAVE, nodes=nodes)
    assert sentence(record) == (
        "the network to node `n2` limits the run: 93 % of the time full with what goes from it, 0.5 MB/s, "
        "and so is one more; half the bytes would give up to 1.5x (then resize would limit it)"
    )


def test_workers_that_are_busier_than_the_network_are_the_limit():
    node = NodeSummary("n1", "here", 2, 4, sending=0.8)
    found = find_bottleneck(line(READ, Did("resize", 0.97, cpu=0.9, workers=2, node="n1"), SAVE, nodes=(node,)))
    assert (found.kind, found.task) == ("work", "resize")


def test_a_node_that_was_there_for_a_moment_is_not_the_limit():
    node = NodeSummary("n1", "here", 2, 2, joined=1.0, left=2.0, sending=1.0)
    assert find_bottleneck(line(READ, Did("resize", 0.3, workers=2, node="n1"), SAVE, nodes=(node,))) is None


def test_processors_of_other_machines_are_not_this_one_s():
    """Two cores here would be busy twice over with what eight cores there compute."""
    busy = Did("resize", 0.97, cpu=0.95, workers=8, node="n1")
    node = NodeSummary("n1", "here", 8, 16)
    found = find_bottleneck(line(READ, busy, SAVE, cores=2, nodes=(node,)))
    assert (found.kind, found.task) == ("work", "resize")
    assert sentence(line(READ, busy, SAVE, cores=2, nodes=(replace(node, cpus=8),))) == (
        "the nodes limit the run: their cores are busy (95 %), most with resize; "
        "more nodes would give more, more workers nothing"
    )
