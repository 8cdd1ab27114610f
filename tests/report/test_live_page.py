"""The page of a run while it goes on: who is answered, with what, and what a browser makes of it."""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import past_runs
import pytest
from browser import Browser

from runner.cli import live_page
from runner.errors import UsageError
from runner.report import page, page_server
from runner.report.journal import dump_json
from runner.report.page_server import PageServer
from runner.store import records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.report.record import RunRecord


@pytest.fixture
def server() -> Iterator[PageServer]:
    made = PageServer()
    made.publish("<!doctype html><title>one</title>")
    yield made
    made.close()
    gone = time.monotonic() + 30
    while any("process_request_thread" in each.name for each in threading.enumerate()):
        assert time.monotonic() < gone, "a viewer's thread is left"
        time.sleep(0.01)


def ask(server: PageServer, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    answer.connection = connection  # type: ignore[attr-defined]
    return answer


def test_who_knows_the_address_is_given_the_page(server: PageServer) -> None:
    answer = ask(server, f"/{server.token}/")
    assert (answer.status, answer.read()) == (200, b"<!doctype html><title>one</title>")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in answer.headers
    server.publish("two")
    assert ask(server, f"/{server.token}/?x=1").read() == b"two"


@pytest.mark.parametrize("path", ["/", "/events", "/x/", "/x/events", "//", "/\xe9/", "/..%2f/", "/" + "a" * 32 + "/"])
def test_who_does_not_is_given_nothing(server: PageServer, path: str) -> None:
    answer = ask(server, path.encode("latin-1").decode("latin-1").replace("\xe9", "%E9"))
    assert (answer.status, answer.read()) == (404, b"")


@pytest.mark.parametrize("path", ["", "x", "events/", "../", "events/x"])
def test_there_is_nothing_else_behind_the_token(server: PageServer, path: str) -> None:
    answer = ask(server, f"/{server.token}/{path}")
    assert answer.status == (200 if not path else 404)


def test_half_a_token_or_a_longer_one_is_not_enough(server: PageServer) -> None:
    for token in (server.token[:-1], server.token + "a", server.token.swapcase()):
        assert ask(server, f"/{token}/").status == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "0.0.0.0", "[::1]", ""])
def test_a_name_of_another_site_that_leads_here_is_refused(server: PageServer, host: str) -> None:
    assert ask(server, f"/{server.token}/", Host=host).status == 421
    assert ask(server, f"/{server.token}/", Host=f"localhost:{server.port}").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_it_can_only_be_read(server: PageServer, method: str) -> None:
    assert ask(server, f"/{server.token}/", method).status == 501


def test_it_is_on_this_machine_only(server: PageServer) -> None:
    assert server._server.server_address[0] == "127.0.0.1"
    with pytest.raises(UsageError, match="Address already in use"):
        PageServer(server.port)


def test_changes_are_told_until_the_last_one(server: PageServer) -> None:
    stream = ask(server, f"/{server.token}/events")
    assert stream.headers["Content-Type"] == "text/event-stream"
    assert stream.fp.readline() == b"data: 1\n"
    stream.fp.readline()
    server.publish("two")
    assert stream.fp.readline() == b"data: 2\n"
    stream.fp.readline()
    server.publish("three", last=True)
    assert stream.fp.read() == b"event: last\ndata: 3\n\n"
    server.wait_for_viewers(30)
    assert not server.has_viewers
    assert ask(server, f"/{server.token}/events").read() == b"event: last\ndata: 3\n\n"  # who comes later


def test_many_viewers_and_one_too_many(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_server, "MOST_VIEWERS", 3)
    streams = [ask(server, f"/{server.token}/events") for _ in range(3)]
    for stream in streams:
        assert stream.fp.readline() == b"data: 1\n"
    assert ask(server, f"/{server.token}/events").status == 503
    assert ask(server, f"/{server.token}/").status == 200
    server.publish("two", last=True)
    for stream in streams:
        assert stream.fp.read().endswith(b"event: last\ndata: 2\n\n")


def test_a_viewer_that_takes_nothing_holds_up_nobody(server: PageServer) -> None:
    server._server.RequestHandlerClass.timeout = 5.0  # of this server's own class
    server.publish("x" * 50_000_000)
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(f"GET /{server.token}/ HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
        other = ask(server, f"/{server.token}/")
        assert len(other.read()) == 50_000_000
        assert any("process_request_thread" in each.name for each in threading.enumerate()), (
            "it waited for the slow one"
        )


@pytest.mark.parametrize("data", [b"\r\n\r\n", b"GET", b"\x16\x03\x01\x00", b"GET / HTTP/9\r\n\r\n", b"A" * 70_000])
def test_whatever_is_sent_the_next_one_is_answered(
    server: PageServer, data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as odd:
        odd.sendall(data)
    assert ask(server, f"/{server.token}/").status == 200
    assert capfd.readouterr() == ("", "")


class GoingRun:
    """A run's folder whose record is written by the test, as if the run went on."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / ".runner" / "runs" / "20260101-000000-aa"
        self.folder.mkdir(parents=True, mode=0o700)
        self.goes_on = True
        #: How often the server has looked whether it does.
        self.looks = 0
        monkeypatch.setattr(live_page, "find_holder", self._find_holder)
        monkeypatch.setattr(live_page, "FETCH_SECONDS", 0.5)
        self.server = PageServer()
        self._thread = threading.Thread(target=live_page.serve_page, args=(self.folder, self.server))

    def _find_holder(self, _: Path) -> GoingRun | None:
        self.looks += 1
        return self if self.goes_on else None

    def wait_for_looks(self, more: int) -> None:
        until, most = time.monotonic() + 30, self.looks + more
        while self.looks < most:
            assert time.monotonic() < until
            time.sleep(0.01)

    def write(self, record: RunRecord) -> None:
        new = self.folder / "new"
        new.write_text(dump_json(record), encoding="utf-8")
        new.replace(self.folder / records.RECORD_FILE)

    def begin(self, record: RunRecord) -> None:
        self.write(record)
        self._thread.start()
        until = time.monotonic() + 30
        while not self.server.current_page():
            assert time.monotonic() < until
            time.sleep(0.01)

    def end(self, record: RunRecord) -> None:
        self.write(record)
        self.goes_on = False
        self._thread.join(60)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.goes_on = False
        if self._thread.is_alive():
            self._thread.join(60)
        self.server.close()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GoingRun]:
    made = GoingRun(tmp_path, monkeypatch)
    yield made
    made.close()


def with_done(done: int, exit_code: int | None = None) -> RunRecord:
    usual = past_runs.past_run()
    return replace(usual, exit_code=exit_code, balance=replace(usual.balance, done=done))


def test_the_page_follows_the_record_and_stays_with_its_last_state(run: GoingRun) -> None:
    run.begin(with_done(1_111))
    text = run.server.current_page().decode()
    assert "1,111" in text
    assert "connect-src 'self'" in text
    run.end(with_done(2_222, 0))
    text = run.server.current_page().decode()
    assert "2,222" in text
    assert "ended well" in text
    assert (run.folder / records.RECORD_WATCHED_FILE).exists()


@pytest.mark.parametrize(("share", "drawn"), [(1e-9, 2), (1e9, 3)])
def test_a_page_that_takes_long_is_drawn_seldom(
    run: GoingRun, monkeypatch: pytest.MonkeyPatch, share: float, drawn: int
) -> None:
    pages: list[str] = []
    draw = live_page._render
    monkeypatch.setattr(live_page, "_render", lambda *args, **more: pages.append(draw(*args, **more)) or pages[-1])
    monkeypatch.setattr(live_page, "_MOST_SHARE", share)
    run.begin(with_done(1_111))
    run.write(with_done(2_222))
    run.wait_for_looks(3)
    run.end(with_done(2_222, 0))  # the last page is drawn, however long it takes
    assert len(pages) >= drawn if drawn > 2 else len(pages) == drawn
    assert "ended well" in pages[-1]


def test_a_record_that_cannot_be_read_leaves_the_page_as_it_was(run: GoingRun) -> None:
    run.begin(with_done(1_111))
    (run.folder / records.RECORD_FILE).write_bytes(b"{")
    run.goes_on = False
    run._thread.join(60)
    assert "1,111" in run.server.current_page().decode()


def test_a_page_that_is_kept_asks_nobody() -> None:
    assert "connect-src" not in page.render_page(past_runs.past_run())


def test_run_web_serves_the_page_until_the_run_has_ended(project: Any) -> None:
    work = """
        import time
        from pathlib import Path
        from runner import task

        @task
        def wait():
            while not Path("go").exists():
                time.sleep(0.01)
    """
    made = project({"tasks.toml": '[tasks.wait]\nmode = "thread"\n', "plugins/work.py": work})
    running = made.start("--web", "--progress", "none")
    line = running.process.stderr.readline()  # type: ignore[union-attr]
    assert line.startswith("live page: http://127.0.0.1:"), line
    _, _, host, token, _ = line.split("live page: ")[1].strip().split("/")
    connection = http.client.HTTPConnection(host, timeout=30)
    until, text = time.monotonic() + 30, ""
    while "going on" not in text:
        assert time.monotonic() < until, text
        connection.request("GET", f"/{token}/")
        text = connection.getresponse().read().decode()
    connection.close()
    (made.path / "go").touch()
    assert running.finish().exit == 0


def test_a_run_without_a_record_has_no_page(project: Any) -> None:
    made = project({"tasks.toml": '[tasks.sleep]\ncall = "std.sleep"\nargs = [0]\n'})
    outcome = made.run("--web", "--no-record")
    assert outcome.exit == 2, outcome
    assert "none is kept" in outcome.err
    taken = socket.create_server(("127.0.0.1", 0))
    with taken:
        outcome = made.run("--web", "--port", str(taken.getsockname()[1]))
    assert outcome.exit == 2, outcome
    assert "Address already in use" in outcome.err


# -- in a browser -----------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A browser for one test: it has a process for each site that it has seen."""
    with Browser(tmp_path / "browser") as found:
        yield found


DONE = "[...document.querySelectorAll('.balance dd')].map(each => each.textContent)[2]"


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)], ids=["phone-light", "desktop-dark"])
def test_values_move_in_a_browser(browser: Browser, run: GoingRun, width: int, dark: bool) -> None:
    browser.look(width=width, dark=dark, phone=width < 500)
    run.begin(with_done(1_111))
    browser.open(run.server.address)
    browser.wait_for(f"{DONE} == '1,111' && document.querySelector('#rates canvas') !== null")
    run.write(with_done(1_222))
    browser.wait_for(f"{DONE} == '1,222' && document.querySelector('#rates canvas') !== null")
    browser.open(run.server.address)  # a reload
    browser.wait_for(f"{DONE} == '1,222'")
    run.end(with_done(1_333, 0))
    browser.wait_for(f"{DONE} == '1,333' && document.documentElement.dataset.live == 'ended'")
    run.server.close()
    run.server = PageServer()  # for `close`
    assert browser.value(DONE) == "1,333"
    assert "ended well" in browser.value("document.querySelector('.badge').textContent")
    assert browser.value("document.querySelectorAll('#main').length") == 1
    assert browser.complaints == []
    assert {each.rpartition("/")[0] for each in browser.requests} == {browser.requests[0].rpartition("/")[0]}
    assert browser.value("document.documentElement.scrollWidth") <= width
    if folder := os.environ.get("REPORT_PICTURES"):
        browser.picture(Path(folder) / f"live-{width}-{'dark' if dark else 'light'}.png")


@pytest.mark.slow
def test_a_large_run_is_painted_at_once(browser: Browser, run: GoingRun) -> None:
    run.begin(replace(past_runs.big(), exit_code=None))
    browser.look()
    browser.open(run.server.address)
    browser.wait_for("document.documentElement.dataset.drawn == 'yes'")
    painted = browser.value("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    print(f"first paint of a large run: {painted:.0f} ms")
    assert painted < 10_000, "it hangs"


@pytest.mark.slow
def test_lines_that_a_reader_has_hidden_stay_hidden(browser: Browser, run: GoingRun) -> None:
    run.begin(with_done(1))
    browser.look()
    browser.open(run.server.address)
    head = "document.querySelector('#rates .u-legend .u-series:nth-child(2) th')"
    browser.wait_for(f"{head} !== null")
    browser.value(f"{head}.click()")
    pressed: Callable[[], object] = lambda: browser.value(f"{head}.getAttribute('aria-pressed')")  # noqa: E731
    assert pressed() == "false"
    run.write(with_done(2))
    browser.wait_for(f"{DONE} == '2'")
    assert pressed() == "false"
