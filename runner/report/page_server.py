"""The page of a run while it goes on, for browsers on this machine.

    publish(page) ──▶ GET /TOKEN/         the page, whole, as `runner report` writes it
                      GET /TOKEN/events   a line for each new page (server-sent events), until the last one

The server reads nothing and writes nothing but the pages that it was given. Who does not know the token, which is new
each time and only printed, gets nothing; nor does a page of another site that has its own name lead here.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from runner.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Viewers at a time; a browser has one connection open for each page, and six at most while it loads.
MOST_VIEWERS = 32
#: A viewer that takes nothing for so many seconds is let go; and between two lines that say that the server lives.
_SLOW_VIEWER, _HEARTBEAT = 10.0, 15.0
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class PageServer:
    """Serves the page that was published last, until `close`. UsageError: the port cannot be had.

    >>> server = PageServer()
    >>> server.publish("<!doctype html>")
    >>> server.address.startswith("http://127.0.0.1:")
    True
    >>> server.close()
    """

    def __init__(self, port: int = 0) -> None:
        self.token = secrets.token_urlsafe(24)
        self._page = b""
        self._number = 0
        self._is_last = False
        self._changed = threading.Condition()
        self._viewers = 0
        handler = type("BoundHandler", (_PageHandler,), {"pages": self})
        try:
            self._server = _LoopbackServer(("127.0.0.1", port), handler)
        except OSError as error:
            raise UsageError(f"--port {port}: {error.strerror}") from None
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="runner-page", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Return the address of the page."""
        return f"http://127.0.0.1:{self.port}/{self.token}/"

    @property
    def has_viewers(self) -> bool:
        """Return True while a page is open somewhere."""
        return self._viewers > 0

    def publish(self, page: str, *, last: bool = False) -> None:
        """Show this page from now on; `last`: there will be no other."""
        with self._changed:
            self._page = page.encode("utf-8", "backslashreplace")
            self._number += 1
            self._is_last = last
            self._changed.notify_all()

    def wait_for_viewers(self, timeout: float) -> None:
        """Return once nobody watches any more, or after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._viewers, timeout)

    def close(self) -> None:
        """Serve nothing any more; viewers keep what they have."""
        with self._changed:
            self._is_last = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def current_page(self) -> bytes:
        """Return the page that was published last."""
        with self._changed:
            return self._page

    def next_number(self, after: int, timeout: float) -> tuple[int, bool]:
        """Return the number of the present page and whether it is the last, once it is another one or it is time."""
        with self._changed:
            self._changed.wait_for(lambda: self._number > after or self._is_last, timeout)
            return self._number, self._is_last

    def enter_viewer(self) -> bool:
        """Count one more viewer; return False if there are too many."""
        with self._changed:
            if self._viewers >= MOST_VIEWERS:
                return False
            self._viewers += 1
            return True

    def leave_viewer(self) -> None:
        """Count one viewer less."""
        with self._changed:
            self._viewers -= 1
            self._changed.notify_all()


class _LoopbackServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:  # a viewer that has gone is no error
        pass


class _PageHandler(BaseHTTPRequestHandler):
    """Answers one connection."""

    pages: PageServer
    timeout = _SLOW_VIEWER
    server_version = "runner"
    sys_version = ""

    def log_message(self, *_: object) -> None:
        """Print nothing: the terminal is the run's."""

    def do_GET(self) -> None:
        """Answer with the page, or with the stream of changes."""
        path = self._checked_path()
        if path is None:
            return
        if path == "events":
            self._stream_changes()
        elif path == "":
            self._send(HTTPStatus.OK, self.pages.current_page(), {"Content-Type": "text/html; charset=utf-8"})
        else:
            self._send(HTTPStatus.NOT_FOUND)

    def _checked_path(self) -> str | None:
        """Return the path behind the token; None if the request was refused."""
        if self.headers.get("Host") not in {f"127.0.0.1:{self.pages.port}", f"localhost:{self.pages.port}"}:
            self._send(HTTPStatus.MISDIRECTED_REQUEST)  # a name of another site that leads here
            return None
        token, slash, rest = self.path.partition("?")[0].removeprefix("/").partition("/")
        if not slash or not hmac.compare_digest(token.encode("utf-8", "replace"), self.pages.token.encode()):
            self._send(HTTPStatus.NOT_FOUND)
            return None
        return rest

    def _send(self, status: HTTPStatus, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self._send_head(status, {**(headers or {}), "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _send_head(self, status: HTTPStatus, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _stream_changes(self) -> None:
        if not self.pages.enter_viewer():
            self._send(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        try:
            with contextlib.suppress(OSError):  # it has gone, or takes nothing
                self._send_head(HTTPStatus.OK, {"Content-Type": "text/event-stream"})
                number, is_last = 0, False
                while not is_last:
                    before = number
                    number, is_last = self.pages.next_number(before, _HEARTBEAT)
                    name = "event: last\n" if is_last else ""
                    text = f"{name}data: {number}\n\n" if number > before or is_last else ": going on\n\n"
                    self.wfile.write(text.encode())
        finally:
            self.pages.leave_viewer()
