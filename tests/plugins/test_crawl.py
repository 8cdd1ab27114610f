"""The crawler's parts, and the plain crawler, without runner."""

import asyncio
import http.server
import threading

import pytest
from helpers import load

from runner import To

crawl = load("examples/crawl/plugins/crawl.py")
PAGE = '<a href="b">B</a> <a class=x href="/c#top">C</a> <a name="n">N</a> <a href="//other/d">D</a> <a href="b">B</a>'


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"you asked for {self.path}".encode()
        self.send_response(404 if "missing" in self.path else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def url(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def asynchronous(url):
    return asyncio.run(crawl.fetch_async(url))


@pytest.mark.parametrize("fetch", [crawl.fetch, asynchronous], ids=["threads", "async"])
def test_a_page_is_fetched(url, fetch):
    for path in ("/a", "/a?q=1"):
        assert fetch(url + path) == crawl.Answer(url + path, 200, f"you asked for {path}")
    assert fetch(url + "/missing") == crawl.Answer(url + "/missing", 404, "")


def test_links_are_absolute_without_fragment_and_stay_on_the_host():
    answer = crawl.Answer("http://host/a/", 200, PAGE)
    assert crawl.links(answer) == ["http://host/a/b", "http://host/c", "http://host/a/b"]


def test_a_page_goes_to_one_port_and_its_links_to_the_other():
    first, *rest = crawl.parse(crawl.Answer("http://host/a/", 200, PAGE))
    assert first == To("pages", {"url": "http://host/a/", "status": 200, "bytes": len(PAGE), "links": 3})
    assert rest == [To("links", f"http://host/{path}") for path in ("a/b", "c", "a/b")]


def test_the_frontier_lets_each_url_through_once():
    frontier = crawl.Frontier()
    assert [url for given in "abacba" for url in frontier(given)] == ["a", "b", "c"]


def test_one_json_line_is_written_for_each_page(tmp_path):
    with crawl.Write(out=tmp_path / "pages.jsonl") as write:
        write({"url": "u", "status": 200})
        write({"url": "v", "status": 404})
    assert (tmp_path / "pages.jsonl").read_text().splitlines() == [
        '{"url": "u", "status": 200}',
        '{"url": "v", "status": 404}',
    ]
