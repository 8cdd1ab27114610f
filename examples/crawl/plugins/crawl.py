"""Fetch pages, find their links, and let each link through once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urldefrag, urljoin, urlsplit
from urllib.request import Request, urlopen
from urllib.robotparser import RobotFileParser

from runner import Retry, To, task

SECONDS = 20
AGENT = "runner-example-crawler"


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    url: str
    status: int
    body: str = field(repr=False)


@task
def seed(*, start: str) -> str:
    return urldefrag(start).url


@task
class Frontier:
    """Yield each URL the first time it comes, and nothing when it comes again."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, url: str) -> Iterator[str]:
        if url not in self.seen:
            self.seen.add(url)
            yield url


@dataclass(frozen=True)
class Page:
    """A page that may be fetched, and how long its host is then left alone."""

    host: str
    url: str
    pause: float


@task
class Allowed:
    """Let each URL of these hosts through once; what robots.txt of its host forbids goes to the port `forbidden`."""

    def __init__(self, *, start: str, hosts: list[str], pause: float) -> None:
        self.hosts, self.pause = {urlsplit(start).netloc, *hosts}, pause
        self.robots: dict[str, RobotFileParser] = {}
        self.seen: set[str] = set()

    def __call__(self, url: str) -> Iterator[Page | To]:
        host = urlsplit(url).netloc
        if host in self.hosts and url not in self.seen:
            robots = self.robots.get(host) or self.ask(host, urljoin(url, "/robots.txt"))
            self.seen.add(url)  # after `ask`: when that fails, the URL comes again
            if robots.can_fetch(AGENT, url):
                yield Page(host, url, max(self.pause, float(robots.crawl_delay(AGENT) or 0)))
            else:
                yield To("forbidden", url)

    def ask(self, host: str, url: str) -> RobotFileParser:
        answer = fetch(url)
        if answer.status >= 500:
            raise OSError(f"{url}: status {answer.status}, so it is not known what may be fetched")
        robots = self.robots[host] = RobotFileParser()
        robots.parse(answer.body.splitlines())
        return robots


@task
def fetch(url: str) -> Answer:
    """Fetch one page; an answer like 404 is an answer too, but a host that is busy is asked again."""
    try:
        with urlopen(Request(url, headers={"User-Agent": AGENT}), timeout=SECONDS) as answer:
            return Answer(url, answer.status, answer.read().decode("utf-8", "replace"))
    except HTTPError as error:
        with error:
            if error.code in (429, 503) and error.headers.get("Retry-After", "").isdecimal():
                raise Retry(after=int(error.headers["Retry-After"])) from error
            return Answer(url, error.code, "")


@task
def fetch_politely(page: Page) -> Answer:
    """Fetch one page, and leave its host alone for a while: the lane is held, so that no other worker asks it."""
    try:
        return fetch(page.url)
    finally:
        time.sleep(page.pause)


@task
async def fetch_async(url: str) -> Answer:
    """`fetch` on an event loop: plain HTTP/1.0, which ends its answers by closing. Follows no redirects."""
    async with asyncio.timeout(SECONDS):
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
        try:
            path = parts._replace(scheme="", netloc="", path=parts.path or "/", fragment="").geturl()
            writer.write(f"GET {path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode("ascii"))
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
            await writer.wait_closed()
    status = int(head.split()[1])
    return Answer(url, status, body.decode("utf-8", "replace") if status == 200 else "")


@task
def parse(answer: Answer, *, everywhere: bool = False) -> Iterator[To]:
    """Send the page to the port `pages`, and every link that stays on its host, or each, to the port `links`."""
    found = links(answer, everywhere=everywhere)
    yield To("pages", {"url": answer.url, "status": answer.status, "bytes": len(answer.body), "links": len(found)})
    for url in found:
        yield To("links", url)


def links(answer: Answer, *, everywhere: bool = False) -> list[str]:
    """Every link on the page that stays on its host, absolute and without fragment, as often as it stands there."""
    collector = Links()
    collector.feed(answer.body)
    collector.close()
    absolute = (urldefrag(urljoin(answer.url, link)).url for link in collector.links)
    here = urlsplit(answer.url)[:2]
    return [url for url in absolute if urlsplit(url)[:2] == here or (everywhere and url.startswith("http"))]


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value]


@task
class Write:
    """Write one JSON line for each page."""

    def __init__(self, *, out: str | Path) -> None:
        self.out = Path(out)

    def __enter__(self) -> Write:
        self.file = self.out.open("w", encoding="utf-8")
        return self

    def __call__(self, page: dict[str, str | int]) -> None:
        self.file.write(json.dumps(page) + "\n")

    def __exit__(self, *_: object) -> None:
        self.file.close()
