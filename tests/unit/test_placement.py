"""Shares of machines: CPUs, GPUs, memory. `cluster.placement`, and the table `resources` of a task."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

from runner.cluster.placement import MachineShares
from runner.config.reader import InvalidValue
from runner.config.resources import RESOURCES
from runner.model import Resources

GB = 10**9


def test_a_machine_has_room_until_something_is_short():
    machine = MachineShares(2, (), 4 * GB)
    assert machine.take(1, Resources(1, 0, 3 * GB))
    assert not machine.take(2, Resources(1, 0, 2 * GB))
    assert machine.take(3, Resources(1, 0, GB))
    assert not machine.take(4, Resources(0.1))
    machine.release(1)
    machine.release(1)
    assert machine.take(5, Resources(1, 0, 3 * GB))


def test_ten_tenths_are_one():
    machine = MachineShares(1, ("0",))
    assert all(machine.take(slot, Resources(0.1, 0.1)) for slot in range(10))
    assert not machine.take(11, Resources(0.01))
    for slot in range(10):
        machine.release(slot)
    assert machine.take(12, Resources(1, 1))


def test_cpus_may_be_short_where_a_run_would_stand_still_and_gpus_never():
    machine = MachineShares(1, ("0",), GB)
    assert machine.take(1, Resources(1, 1))
    assert machine.take(2, Resources(4), crowded=True)
    assert not machine.take(3, Resources(1, 0.1), crowded=True)
    assert not machine.take(4, Resources(1, 0, 2 * GB), crowded=True)
    assert machine.could_fit(Resources(1, 1, GB))
    assert not machine.could_fit(Resources(2))
    assert not machine.could_fit(Resources(1, 2))
    assert not machine.could_fit(Resources(1, 0, 2 * GB))
    assert MachineShares(1).could_fit(Resources(1, 0, 10**15))


def test_shares_of_gpus_are_packed_so_that_whole_ones_stay_free():
    machine = MachineShares(64, ("3", "5", "7"))
    for slot in range(6):
        assert machine.take(slot, Resources(1, 0.25))
    assert [machine.gpu_names(slot) for slot in range(6)] == ["3"] * 4 + ["5"] * 2
    assert machine.take(6, Resources(1, 1))
    assert machine.gpu_names(6) == "7"
    assert not machine.take(7, Resources(1, 1))
    machine.release(0)
    assert machine.take(8, Resources(1, 0.25))
    assert machine.gpu_names(8) == "3"


def test_a_worker_s_environment_has_its_gpus_and_as_many_threads_as_cpus():
    machine = MachineShares(8, ("0", "1"))
    machine.take(1, Resources(2.5, 2))
    env = machine.worker_env(1, Resources(2.5, 2), {"MKL_NUM_THREADS": "7", "MINE": "x"})
    assert (
        env.items()
        >= {"CUDA_VISIBLE_DEVICES": "0,1", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "7", "MINE": "x"}.items()
    )
    machine.take(2, Resources(0.5))
    assert machine.worker_env(2, Resources(0.5), {}) == dict.fromkeys(
        ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"],
        "1",
    )


@examples(50, 2000)
@given(st.integers(0, 10**6))
def test_nothing_is_given_twice_and_everything_comes_back(seed):
    chance = random.Random(seed)
    cpus, gpus, memory = chance.randint(1, 8), chance.randint(0, 3), chance.randint(1, 8) * GB
    machine = MachineShares(cpus, [str(number) for number in range(gpus)], memory)
    held = {}
    for slot in range(60):
        if held and chance.random() < 0.4:
            gone = chance.choice(list(held))
            del held[gone]
            machine.release(gone)
        wanted = Resources(
            chance.choice([0.1, 0.5, 1, 2, 3.3]), chance.choice([0, 0, 0.1, 0.5, 1, 2]), chance.choice([0, GB, 2 * GB])
        )
        if machine.take(slot, wanted):
            assert machine.could_fit(wanted)
            held[slot] = wanted
        assert sum(round(each.cpus * 100) for each in held.values()) <= 100 * cpus
        assert sum(each.memory for each in held.values()) <= memory
        by_device = dict.fromkeys(map(str, range(gpus)), 0)
        for taken, each in held.items():
            names = [name for name in machine.gpu_names(taken).split(",") if name]
            for name in names:
                by_device[name] += round(100 * each.gpus / len(names))
        assert all(parts <= 100 for parts in by_device.values())
    for slot in held:
        machine.release(slot)
    assert machine.take(99, Resources(cpus, gpus, memory))


def converted(name, value):
    return RESOURCES[name].type.convert(value, SimpleNamespace())


@pytest.mark.parametrize(
    ("name", "value", "made"),
    [
        ("cpus", 1, 1.0),
        ("cpus", 0.25, 0.25),
        ("gpus", 0, 0.0),
        ("gpus", 0.25, 0.25),
        ("gpus", 4, 4.0),
        ("memory", "2GB", 2 * GB),
    ],
)
def test_values_that_may_be(name, value, made):
    assert converted(name, value) == made


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cpus", 0, "must be at least 0.01, not 0"),
        ("cpus", "2", 'must be a number, not "2"'),
        ("cpus", True, "must be a number, not true"),
        ("cpus", float("nan"), "must be a number, not nan"),
        ("cpus", float("inf"), "must be at most 4,096, not inf"),
        ("gpus", -1, "must be at least 0, not -1"),
        ("gpus", 1.5, "must be a share of one GPU, such as 0.25, or a whole number, not 1.5"),
        ("gpus", 1000, "must be at most 256, not 1000"),
        ("memory", 5, "must be a size, not 5, which has no unit"),
        ("memory", "2 trees", 'must be a size, not "2 trees"'),
    ],
)
def test_values_that_may_not(name, value, message):
    with pytest.raises(InvalidValue) as caught:
        converted(name, value)
    assert caught.value.message == message


def test_the_defaults_are_those_of_the_model():
    assert Resources(**{name: converted(name, key.parse_default()) for name, key in RESOURCES.items()}) == Resources()
