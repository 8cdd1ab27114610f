"""`rate` on a clock of the test's own: exact over a minute, and never more at once than one second's worth."""

from __future__ import annotations

import random

import pytest

from runner.supervisor.rate_limit import TokenBucket


def grants(
    throttle: TokenBucket, seconds: float, seed: int, idle: tuple[float, float] = (0.0, 0.0)
) -> list[tuple[float, int]]:
    """Take whatever is allowed, at every moment that it names and at random ones, but for an idle time."""
    draw = random.Random(seed)
    now, given = 0.0, []
    while now < seconds:
        if not idle[0] <= now < idle[1] and (most := throttle.allowed_items(now)):
            items = draw.randint(1, most)
            throttle.take_tokens(items)
            given.append((now, items))
        now = (
            min(throttle.ready_at(now), now + draw.uniform(0.0001, 0.05))
            if draw.random() < 0.9
            else throttle.ready_at(now)
        )
    return given


@pytest.mark.parametrize("rate", [1, 3, 50, 1000, 50_000])
@pytest.mark.parametrize("seed", range(3))
def test_a_minute_has_its_rate(rate: int, seed: int) -> None:
    given = grants(TokenBucket(rate, 1.0), 60.0, seed)
    total = sum(items for _, items in given)
    assert total <= 60 * rate + 1
    assert total >= 60 * rate * 0.97 - 1


@pytest.mark.parametrize("rate", [5, 50])
def test_a_burst_is_one_seconds_worth_at_most(rate: int) -> None:
    given = grants(TokenBucket(rate, 1.0), 40.0, 1, idle=(5.0, 30.0))
    for start, _ in given:
        within = sum(items for when, items in given if start <= when < start + 1.0)
        assert within <= 2 * rate, "what the bucket held, and what came in meanwhile"
    after = sum(items for when, items in given if 30.0 <= when < 30.001)
    assert after <= rate


def test_a_batch_larger_than_the_bucket_is_paid_for_afterwards() -> None:
    throttle = TokenBucket(2, 1.0)
    assert throttle.allowed_items(0.0, least=10) == 0
    when = throttle.ready_at(0.0, least=10)
    assert throttle.allowed_items(when, least=10) == 10
    throttle.take_tokens(10)
    assert throttle.ready_at(when, least=10) == pytest.approx(when + 5.0, abs=0.1)


def test_what_is_handed_back_may_be_granted_again_at_once_and_fills_no_more_than_the_bucket() -> None:
    throttle = TokenBucket(50, 1.0)
    assert throttle.allowed_items(0.0) == 1
    assert throttle.allowed_items(10.0) == 50
    throttle.take_tokens(50)
    throttle.return_tokens(20)
    assert throttle.allowed_items(10.0) == 20
    throttle.return_tokens(1000)
    assert throttle.allowed_items(10.0) == 50
