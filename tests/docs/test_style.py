"""Pages keep to the style of sentences that CONTRIBUTING.md asks for, as far as single words show it."""

from __future__ import annotations

import re

import pytest
from doc_blocks import FENCE, PAGES
from helpers import ROOT

AVOIDED = re.compile(r"\b(somebody|nobody|whoever|everybody|so many|(?<!there )is no)\b", re.IGNORECASE)
GENERATED = re.compile(
    r"<!-- (?:keys: \w+|events|generated from the functions|bench: begin) -->.*?<!-- (?:bench: )?end -->", re.DOTALL
)
WRITTEN = [page for page in PAGES if page.name != "CONTRIBUTING.md"]  # which lists the words


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_names_its_actors_and_quantities(page):
    text = FENCE.sub("", GENERATED.sub("", page.read_text(encoding="utf-8")))
    assert not [line for line in text.splitlines() if AVOIDED.search(line)]
