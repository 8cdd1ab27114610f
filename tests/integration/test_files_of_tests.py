"""The tests that stand in the files of this repository; each file that runs has some."""

import re
from pathlib import Path

import pytest
from helpers import ROOT, needs

from runner.testing import file_tests

test_the_tutorial = file_tests("../../tasks.toml")
test_etl = pytest.mark.slow(file_tests("../../examples/etl/tasks.toml"))
test_the_classic_tutorial = pytest.mark.slow(file_tests("../../examples/tutorial/tasks.toml"))
test_census = pytest.mark.slow(file_tests("../../examples/census/tasks.toml"))
test_shell = pytest.mark.slow(file_tests("../../examples/shell/tasks.toml"))
test_metrics = pytest.mark.slow(file_tests("../../examples/metrics/tasks.toml"))
test_crawl = pytest.mark.slow(file_tests("../../examples/crawl/tasks.toml"))
test_crawl_async = pytest.mark.slow(file_tests("../../examples/crawl/tasks-async.toml"))
test_crawl_politely = pytest.mark.slow(file_tests("../../examples/crawl/tasks-polite.toml"))
test_logs = needs("pyarrow")(pytest.mark.slow(file_tests("../../examples/logs/tasks.toml")))
test_thumbnails = needs("PIL")(pytest.mark.slow(file_tests("../../examples/thumbnails/tasks.toml")))
test_scoring = needs("sklearn")(pytest.mark.slow(file_tests("../../examples/scoring/tasks.toml")))
test_montecarlo = file_tests("../../examples/montecarlo/tasks.toml")


def test_each_file_is_here():
    named = re.findall(r'= .*file_tests\("../../(.+)"\)', Path(__file__).read_text(encoding="utf-8"))
    own = ROOT / "examples/plugins"  # distributions, whose files are tested with them (`plugins/test_distributions.py`)
    there = [ROOT / "tasks.toml", *(path for path in (ROOT / "examples").rglob("*.toml") if own not in path.parents)]
    assert sorted(named) == sorted(path.relative_to(ROOT).as_posix() for path in there)
