"""Fetch pages, find their links, and let each link through once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urldefrag, urljoin, urlsplit
from urllib.request import urlopen

from runner import To, task

SECONDS = 20


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


@task
def fetch(url: str) -> Answer:
    """Fetch one page; an answer like 404 is an answer too."""
    try:
        with urlopen(url, timeout=SECONDS) as answer:
            return Answer(url, answer.status, answer.read().decode("utf-8", "replace"))
    except HTTPError as error:
        with error:
            return Answer(url, error.code, "")


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
def parse(answer: Answer) -> Iterator[To]:
    """Send the page to the port `pages`, and every link that stays on its host to the port `links`."""
    found = links(answer)
    yield To("pages", {"url": answer.url, "status": answer.status, "bytes": len(answer.body), "links": len(found)})
    for url in found:
        yield To("links", url)


def links(answer: Answer) -> list[str]:
    """Every link on the page that stays on its host, absolute and without fragment, as often as it stands there."""
    collector = Links()
    collector.feed(answer.body)
    collector.close()
    absolute = (urldefrag(urljoin(answer.url, link)).url for link in collector.links)
    return [url for url in absolute if urlsplit(url)[:2] == urlsplit(answer.url)[:2]]


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
