"""The sentence is right: pipelines whose limit is known are run, what it says is done, and the run measured again."""

from __future__ import annotations

import pytest

from bench.limit import CASES, busy_elsewhere, measure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def right(outcome):
    """Whether what was said came true: at least two thirds of the gain, and a sixth more at most; else nothing."""
    said, case = outcome.said, outcome.case
    assert said is not None, "nothing was said"
    assert said.kind == case.kind, said.sentence
    assert case.task in {"", said.task}, said.sentence
    if said.gain is not None:
        assert outcome.gain is not None
        most = 1.17 * said.gain if "up to" not in said.sentence else said.gain * 1.25
        assert 1 + (said.gain - 1) * 2 / 3 <= outcome.gain <= most, f"{said.sentence}: it was {outcome.gain:.2f}x"
    if outcome.otherwise is not None:
        assert outcome.otherwise <= 1.15, f"{said.sentence}: but {case.useless} gave {outcome.otherwise:.2f}x"


@pytest.mark.parametrize("name", CASES)
def test_what_it_says_comes_true(name):
    outcome = measure(CASES[name], rounds=2)
    if busy_elsewhere(outcome):
        pytest.skip(
            "other programs keep this machine's cores busy: there is nothing to gain by computing on more of them"
        )
    right(outcome)
