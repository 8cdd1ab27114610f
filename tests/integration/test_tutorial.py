"""The tutorial, in both styles, says what the tutorial says, and ends by itself."""

import re

import pytest
from helpers import ROOT

LOAVES = sorted(f"{baker}{number}" for baker in ("pa", "pb", "pc") for number in range(3))


@pytest.mark.parametrize(
    ("folder", "log"),
    [
        (".", "prefix"),
        ("examples/tutorial", "raw"),
        pytest.param(".", "raw", marks=pytest.mark.slow),
        pytest.param("examples/tutorial", "prefix", marks=pytest.mark.slow),
    ],
)
def test_who_baked_who_bought_who_danced(project, folder, log):
    running = project({}).start(ROOT / folder / "tasks.toml", "--log", log)
    main = running.process.pid
    outcome = running.finish()
    assert outcome.exit == 0, outcome
    # With `--log raw` threads that print at the same moment share a line, as they do without runner.
    assert sorted(loaf for baker, loaf in re.findall(r"(p[abc]) baked (\1\d)", outcome.out, re.MULTILINE)) == LOAVES
    assert sorted(re.findall(r"c[abc] bought (p[abc]\d)", outcome.out, re.MULTILINE)) == LOAVES
    for verb in ("dancing", "singing"):
        lines = re.findall(rf"{verb}.*? pid (\d+), main pid (\d+)", outcome.out, re.MULTILINE)
        assert {int(pid) for _, pid in lines} == {main}, outcome
        assert len({pid for pid, _ in lines} - {str(main)}) == 1, "one process of its own"
    assert "9 done + 0 dead + 0 dropped + 0 left" in outcome.err, outcome


def test_a_param_says_how_many_loaves(project):
    outcome = project({}).run(ROOT / "tasks.toml", "-p", "loaves=1")
    assert outcome.exit == 0, outcome
    assert sorted(re.findall(r"bought (\w+)$", outcome.out, re.MULTILINE)) == ["pa0", "pb0", "pc0"]
