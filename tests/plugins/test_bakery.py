"""The tutorial's functions are only functions: a test calls them."""

import threading

from helpers import load

bakery = load("plugins/bakery.py")


def in_thread(name, function):
    """Run `function` in a thread called `name`, as a worker would, and give what it returned."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()), name=name)
    thread.start()
    thread.join(10)
    return results[0]


def test_each_loaf_bears_its_bakers_name(capsys):
    loaves = in_thread("pa", lambda: list(bakery.bake(count=3, seconds=0)))
    assert loaves == ["pa0", "pa1", "pa2"]
    assert capsys.readouterr().out.splitlines() == ["pa baked pa0", "pa baked pa1", "pa baked pa2"]


def test_the_eater_says_what_it_bought(capsys):
    in_thread("ca", lambda: bakery.eat("pb1", seconds=0))
    assert capsys.readouterr().out == "ca bought pb1\n"


def test_a_loaf_is_given_away_before_the_next_is_baked(capsys):
    loaves = bakery.bake(count=2, seconds=0)
    next(loaves)
    assert len(capsys.readouterr().out.splitlines()) == 1
