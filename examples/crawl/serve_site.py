"""Serve a site on three hosts while a file crawls it: `serve_site.py FILE [ARGUMENTS]`; then say how it was asked."""

import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

PAGES = 12  # on each host


class Host(ThreadingHTTPServer):
    """One host of the site, which writes down how politely it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.name = f"127.0.0.1:{self.server_port}"
        self.asked: list[str] = []
        self.together = self.most = 0
        self.ended, self.gap = 0.0, float("inf")
        self.lock = threading.Lock()
        self.others: list[Host] = []


class Handler(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        host, path = self.server, urlsplit(self.path).path
        if path == "/robots.txt":
            self.answer("User-agent: *\nDisallow: /private\n", "text/plain")
            return
        with host.lock:
            host.asked.append(path)
            host.together += 1
            host.most = max(host.most, host.together)
            host.gap = min(host.gap, time.monotonic() - host.ended)
        number = int("0" + path.strip("/")) if path != "/private" else PAGES
        nexts = [f"/{child}" for child in (2 * number + 1, 2 * number + 2) if child < PAGES]
        hrefs = [*nexts, "/", "/private", *(f"http://{other.name}/" for other in host.others)]
        with host.lock:
            host.together -= 1
            host.ended = time.monotonic()
        self.answer("".join(f'<a href="{href}">{href}</a>\n' for href in hrefs), "text/html; charset=utf-8")

    def answer(self, text: str, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        pass


if __name__ == "__main__":
    hosts = [Host() for _ in range(3)]
    for host in hosts:
        host.others = [other for other in hosts if other is not host]
        threading.Thread(target=host.serve_forever, args=(0.05,), daemon=True).start()
    params = ["-p", f"start=http://{hosts[0].name}/"]
    if "polite" in sys.argv[1]:
        params += ["-p", "hosts=" + ",".join(host.name for host in hosts[1:])]
    done = subprocess.run([sys.executable, "-m", "runner", "run", *sys.argv[1:], *params], check=False)
    for number, host in enumerate(hosts, 1):
        private = sum(path.startswith("/private") for path in host.asked)
        gap = f", at least {host.gap:.2f}s apart" if len(host.asked) > 1 else ""
        print(f"host {number}: {len(host.asked)} requests, {host.most} at a time, {private} for forbidden pages{gap}")
        host.shutdown()
    sys.exit(done.returncode)
