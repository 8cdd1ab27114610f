"""The crawl of a site with cycles, duplicates and dead ends: the plain crawler's pages, each fetched once."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from helpers import ROOT

EXAMPLE = ROOT / "examples/crawl"
PAGES = 300
#: Fifty of the pages link to a page that does not exist, five each to the same one.
MISSING = 10


def page(number: int) -> str:
    """Page `number` links to children that reach every page, far away, to itself, twice, and out of the site."""
    children = [child for child in (2 * number + 1, 2 * number + 2) if child < PAGES]
    hrefs = [f"/page/{child}" for child in children]
    hrefs += [f"/page/{number * 7 % PAGES}", f"./{number * 11 % PAGES}#part", f"/page/{number}", "/", "/"]
    hrefs += [f"/missing/{number // 6 % MISSING}"] if number % 6 == 0 else []
    hrefs += [
        "http://elsewhere.invalid/",
        "mailto:somebody@elsewhere.invalid",
        f"/page/{number}?q=1" if not number else "#",
    ]
    return "<html>" + "".join(f'<p><a href="{href}">{href}</a></p>\n' for href in hrefs) + "</html>"


class Site(ThreadingHTTPServer):
    """Counts what it is asked for; its threads are joined when it closes."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.start = f"http://127.0.0.1:{self.server_port}/"
        self.asked = Counter()


class Handler(BaseHTTPRequestHandler):
    timeout = 20

    def do_GET(self):
        self.server.asked[self.path] += 1
        path = self.path.partition("?")[0]
        number = 0 if path == "/" else int(path.rpartition("/")[2])
        found = path == "/" or path.startswith("/page/")
        body = (page(number) if found else "nothing here").encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def site():
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="site")
        thread.start()
        yield server
        server.shutdown()
        thread.join()


DIRECT = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def crawled(path):
    """The lines of a crawl, in the order of their URLs."""
    return sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda line: line["url"])


@pytest.mark.parametrize("file", [pytest.param("tasks.toml", marks=pytest.mark.slow), "tasks-async.toml"])
def test_the_same_pages_as_the_serial_crawler(file, site, project, tmp_path):
    mine, serial = tmp_path / "mine.jsonl", tmp_path / "serial.jsonl"
    script = [sys.executable, EXAMPLE / "plain.py", site.start, serial]
    subprocess.run(script, check=True, timeout=60, env={**os.environ, **DIRECT})
    expected, site.asked = dict(site.asked), Counter()

    outcome = project({}).run(EXAMPLE / file, "-p", f"start={site.start}", "-p", f"out={mine}", env=DIRECT)

    assert outcome.exit == 0, outcome
    assert crawled(mine) == crawled(serial)
    assert site.asked == expected, "each page was asked for, and only once"
    assert set(expected.values()) == {1}
    statuses = Counter(line["status"] for line in crawled(mine))
    # "/" and "/page/0?q=1" are pages as well; "/0" is where "./0" leads from "/"
    assert statuses == {200: PAGES + 2, 404: MISSING + 1}


def test_a_site_of_one_page(site, project, tmp_path):
    out = tmp_path / "pages.jsonl"
    start = f"{site.start}missing/1"
    outcome = project({}).run(EXAMPLE / "tasks.toml", "-p", f"start={start}", "-p", f"out={out}", env=DIRECT)
    assert outcome.exit == 0, outcome
    assert crawled(out) == [{"url": start, "status": 404, "bytes": 0, "links": 0}]
