"""The tutorial's original functions, with the standard library's own queue in place of runner's."""

import queue

import pytest
from helpers import load

from runner import ShutDown

classic = load("examples/tutorial/plugins/classic.py")


class Ended(queue.SimpleQueue):
    """A queue that has ended once it is empty."""

    def get(self):
        if self.empty():
            raise ShutDown
        return super().get()


def test_bakers_put_and_eaters_get_until_the_bread_has_ended(capsys):
    bread = Ended()
    classic.bake(bread)
    with pytest.raises(ShutDown):
        classic.eat(bread)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0] == "MainThread baked MainThread0"
    assert lines[-1] == "MainThread bought MainThread2"
