"""Every code has a page, and every page's example shows exactly its own mistake."""

from __future__ import annotations

import re

import pytest
from helpers import ROOT

from runner import check, config
from runner.cli.explain import EXPLANATIONS
from runner.errors import ConfigError

CODES = re.compile(r"\"([EW]\d{3})\"")


def problems(folder, text, *, functions):
    (folder / "tasks.toml").write_text(text)
    try:
        loaded = config.examine(folder / "tasks.toml", env={})
    except ConfigError as error:
        return list(error.problems)
    return check.check_everything(loaded).problems if functions else check.check_file(loaded)


def test_every_code_that_is_used_has_a_page_and_every_page_a_use():
    used = {
        code
        for path in (ROOT / "runner").rglob("*.py")
        if path.name != "codes.py"
        for code in CODES.findall(path.read_text())
    }
    assert used == set(EXPLANATIONS)


@pytest.mark.parametrize("page", [each for each in EXPLANATIONS.values() if each.wrong], ids=lambda page: page.code)
def test_the_wrong_example_has_this_mistake_and_no_other(page, tmp_path):
    functions = page.code.startswith("E3")
    assert {each.code for each in problems(tmp_path, page.wrong, functions=functions)} == {page.code}


@pytest.mark.parametrize("page", [each for each in EXPLANATIONS.values() if each.right], ids=lambda page: page.code)
def test_the_right_example_is_right(page, tmp_path):
    assert problems(tmp_path, page.right, functions=page.code.startswith("E3")) == []
