"""The documentation site: it is built without a warning, holds together, and asks no other machine for anything."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import http.server
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest
from browser import Browser
from doc_blocks import PAGES
from helpers import ROOT

import runner
import runner.testing
from docs.examples import find_examples
from docs.staging import API_PAGES, PROJECT_PAGES, Site
from runner import events
from runner.hookspecs import Hooks

if TYPE_CHECKING:
    from collections.abc import Iterator

EXTRA = all(importlib.util.find_spec(name) for name in ("sphinx", "myst_parser", "furo"))
needs_extra = pytest.mark.skipif(not EXTRA, reason="the site is made with the extra `docs`: pip install -e '.[docs]'")
# 17 s of CPU to build it, on a machine that has other things to do.
built = [pytest.mark.slow, pytest.mark.timeout(400), needs_extra]

EXAMPLE = '# Numbers, printed.\n\ntitle = "Printed"\n\n[tasks.range]\nargs = [3]\noutputs = "n"\n\n[queues]\nn = {}\n\n'
PRINTED = '[tasks.print]\ninputs = "n"\n'


class Page(HTMLParser):
    """One page of the site: the names in it, its links, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.names: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.names |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and "href" in given:
            self.loaded.append(given["href"])
        self.loaded += [given[name] for name in ("src", "srcset", "data", "poster") if name in given]

    def target(self, link: str) -> tuple[Path, str]:
        parts = urlsplit(link)
        path = self.path if not parts.path else Path(os.path.normpath(self.path.parent / unquote(parts.path)))
        return path, unquote(parts.fragment)


def is_elsewhere(link: str) -> bool:
    return bool(urlsplit(link).netloc) or urlsplit(link).scheme in ("http", "https", "mailto")


def build(to: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    code = "import sys; from pathlib import Path; from docs.__main__ import build; sys.exit(build(*map(Path, sys.argv[1:])))"
    command = [sys.executable, "-c", code, str(root), str(to)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=380)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site, once for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "site" / "index.html").exists():
            command = [sys.executable, "-m", "docs", "build", "--to", str(shared / "site")]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=380)
            assert (done.returncode, done.stderr) == (0, ""), done.stderr
            assert done.stdout.strip() == str(shared / "site" / "index.html")
    return shared / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


class TestSite:
    pytestmark = built

    def test_each_page_of_the_repository_is_there(self, site, pages):
        wanted = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in PAGES if "docs" in page.parts}
        wanted |= {Path(page).with_suffix(".html") for page in PROJECT_PAGES.values()}
        wanted |= {Path(example.page).with_suffix(".html") for example in find_examples(ROOT / "examples")}
        assert len(wanted) > 50
        assert not [page for page in wanted if site / page not in pages]

    def test_each_link_leads_to_a_page_and_a_place_in_it(self, pages):
        dead = [
            f"{path.name}: {link}"
            for path, page in pages.items()
            for link in page.links
            if not is_elsewhere(link)
            for target, name in [page.target(link)]
            if not target.is_file() or (name and target in pages and name not in pages[target].names)
        ]
        assert not dead

    def test_each_page_is_reached_from_the_first(self, site, pages):
        reached, waiting = set(), [site / "index.html"]
        while waiting:
            path = waiting.pop()
            if path in pages and path not in reached:
                reached.add(path)
                waiting += [pages[path].target(link)[0] for link in pages[path].links if not is_elsewhere(link)]
        assert {path.name for path in pages.keys() - reached} <= {"search.html"}  # to which its form leads

    def test_nothing_is_loaded_from_another_machine(self, site, pages):
        loaded = [(path.name, link) for path, page in pages.items() for link in page.loaded]
        assert len(loaded) > 200
        assert not [each for each in loaded if is_elsewhere(each[1])]
        assert not [
            (path.name, link)
            for path, page in pages.items()
            for link in page.loaded
            if not link.startswith("data:") and not page.target(link)[0].is_file()
        ]
        styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
        assert styles
        assert not [found for text in styles for found in re.findall(r"(?:@import|url\()\W*(?:https?:)?//", text)]

    def test_each_public_name_has_its_docstring(self, site, pages):
        def names(page: str) -> set[str]:
            return pages[site / "api" / page].names

        assert {f"runner.{name}" for name in runner.__all__ if name != "__version__"} <= names("runner.html")
        assert {f"runner.testing.{name}" for name in runner.testing.__all__} <= names("runner.testing.html")
        assert {"runner.Context.attempt", "runner.Outbox.put", "runner.Result.letters"} <= names("runner.html")
        hooks = [name for name in vars(Hooks) if name.startswith("runner_")]
        assert {f"runner.hookspecs.Hooks.{name}" for name in hooks} <= names("hooks.html")
        kinds = [kind.__name__ for kind in events.Event.__subclasses__()]
        assert len(kinds) > 10
        assert {f"runner.events.{kind}" for kind in kinds} <= names("runner.events.html")
        assert "MISSING" not in (site / "api" / "runner.html").read_text(encoding="utf-8")

    def test_the_gallery_draws_each_file_of_tasks(self, site, pages):
        for example in find_examples(ROOT / "examples"):
            page = pages[site / Path(example.page).with_suffix(".html")]
            drawn = {Path(link).name for link in page.loaded if link.endswith(".svg")}
            assert drawn >= {Path(example.drawing(file)).name for file in example.tasks_files}
            shown = page.path.read_text(encoding="utf-8")
            assert all(f'id="{heading}"' in shown for heading in example.headings().values())

    def test_the_search_index_has_words_of_all_kinds_of_pages(self, site):
        text = (site / "searchindex.js").read_text(encoding="utf-8")
        index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
        assert {"sigkil", "backoff", "lane", "durabl", "prometheus"} <= index["terms"].keys()
        assert {"reference/file", "gallery/crawl", "api/runner"} <= set(index["docnames"])
        assert "runner" in index["objects"]


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; a search looks at the pages that it finds, which no browser allows to files."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class TestBrowser:
    pytestmark = built

    def test_a_phone_shows_the_longest_pages_without_scrolling_sideways(self, site, tmp_path):
        wide, asked = {}, set()
        with Browser(tmp_path) as browser:
            browser.look(width=390, height=844, phone=True)
            for path in sorted(site.rglob("*.html"), key=lambda path: path.stat().st_size)[-20:]:
                browser.open(path)
                if (width := browser.value("document.documentElement.scrollWidth")) > 390:
                    wide[path.name] = width
                asked |= {link for link in browser.requests if not link.startswith(("file:", "data:"))}
                assert not browser.complaints
        assert not wide
        assert not asked

    def test_dark_and_light_are_what_the_reader_prefers_drawings_too(self, site, tmp_path):
        def lightness(browser: Browser) -> int:
            colour = browser.value("getComputedStyle(document.body).backgroundColor")
            return sum(int(number) for number in re.findall(r"\d+", colour)[:3])

        with Browser(tmp_path) as browser:
            for dark, theme, is_dark, scheme in (
                (False, "auto", False, "light dark"),
                (True, "auto", True, "light dark"),
                (True, "light", False, "light"),
                (False, "dark", True, "dark"),
            ):
                browser.look(dark=dark)
                browser.open(site / "gallery" / "index.html")
                browser.value(f"document.body.dataset.theme = '{theme}'")  # as the button of the page does
                assert (lightness(browser) < 200) == is_dark
                drawing = browser.value("getComputedStyle(document.querySelector('img.drawing')).colorScheme")
                assert drawing == scheme

    def test_a_search_finds_a_page_and_asks_nobody_else(self, site, tmp_path):
        with served(site) as address, Browser(tmp_path) as browser:
            browser.open(f"{address}/search.html?q=prometheus")
            browser.wait_for(
                "[...document.querySelectorAll('#search-results li a')].some(a => a.textContent.includes('with Prometheus'))"
            )
            assert all(link.startswith((address, "data:")) for link in browser.requests)


def write_repository(root: Path, page: str) -> None:
    """A repository with one page of each kind."""
    files = {name: f"# {name}\n" for name in [*PROJECT_PAGES, "LICENSE"]}
    files["README.md"] = "# Readme\n\n[a page](docs/how-to/page.md), [all](examples)\n"
    files |= {"docs/how-to/page.md": page, "tests/faults/x.py": ""}
    files |= {f"docs/reference/{name}.md": f"# {name}\n" for name in ("api", "testing")}
    files["docs/reference/plugins.md"] = "# Plugins\n\n## Events\n\n## Hooks\n"
    files["docs/tutorial/first.md"] = "# First\n"
    files["docs/explanation/ideas.md"] = "# Ideas\n"
    files["examples/printed/tasks.toml"] = EXAMPLE + PRINTED
    files["examples/printed/plugins/own.py"] = "X = 1\n"
    files["examples/printed/.runner/left.py"] = ""
    files["examples/real/README.md"] = "# Real jobs\n\nTwo.\n"
    files["examples/real/one/README.md"] = (
        "# One\n\nSee [its file](tasks.toml) and [the page](../../../docs/how-to/page.md#b).\n"
    )
    files["examples/real/one/tasks.toml"] = EXAMPLE + PRINTED
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_links_stay_within_the_site_and_nested_examples_are_found(tmp_path):
    page = "# Page\n\n## B\n\n[x](../../README.md) [`[[t]]`](../reference/api.md#api) [f](../../tests/faults) [e](../../examples/real/one)\n"
    write_repository(
        tmp_path, page + "[no](nothing.md) [far](https://example.org/a.md)\n\n```text\n[x](../../README.md)\n```\n"
    )
    (tmp_path / "examples" / "README.md").write_text("# Jobs\n\nAs [one](real/one/README.md).\n", encoding="utf-8")
    site = Site(tmp_path, tmp_path / "made")
    assert [example.page for example in site.examples] == [
        "gallery/printed.md",
        "gallery/real.md",
        "gallery/real-one.md",
    ]
    printed, real, one = site.examples
    assert list(printed.headings()) == ["tasks.toml", "plugins/own.py"]
    assert (printed.title, printed.summary) == ("Printed", "Numbers, printed.")
    assert (real.title, real.summary, real.files) == ("Real jobs", "Two.", ())
    path = tmp_path / "docs/how-to/page.md"
    made = site.relinked(path.read_text(encoding="utf-8"), path.parent, "how-to/page.md")
    assert "[x](../index.md) [`[[t]]`](../reference/api.md#api) f [e](../gallery/real-one.md)" in made
    assert "[no](nothing.md) [far](https://example.org/a.md)" in made
    assert "```text\n[x](../../README.md)\n```" in made
    assert site.relinked(one.readme, one.folder, one.page).endswith(
        "[its file](real-one.md#taskstoml) and [the page](../how-to/page.md#b).\n"
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
@needs_extra
def test_a_dead_link_a_dead_anchor_and_a_wrong_heading_are_errors(tmp_path):
    page = "# Page\n\n[1](nothing.md) [2](../reference/api.md#nowhere) [3](#nowhere)\n\n#### B\n"
    write_repository(tmp_path / "repository", page)
    done = build(tmp_path / "site", tmp_path / "repository")
    assert done.returncode == 1
    for words in ("nothing.md", "'nowhere'", "H1 to H4"):
        assert words in done.stderr
    assert "api" not in {Path(line.split(":")[0]).stem for line in done.stderr.splitlines()}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    done = build(tmp_path / "other", tmp_path / "repository")
    assert (done.returncode, [path.name for path in (tmp_path / "other").iterdir()]) == (1, ["mine.txt"])
    assert "not empty, and not a site" in done.stderr


def test_the_pages_made_of_docstrings_lead_to_pages_that_are_there():
    for _, page in API_PAGES.values():
        assert (ROOT / "docs" / "api" / page.partition("#")[0]).resolve().is_file()
