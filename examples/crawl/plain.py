"""The same crawl without runner, one page after the other: `python plain.py http://127.0.0.1:8000/ pages.jsonl`."""

import json
import re
import sys
from collections import deque
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urldefrag, urljoin, urlsplit
from urllib.request import urlopen

start, out = urldefrag(sys.argv[1]).url, Path(sys.argv[2])
host = urlsplit(start)[:2]
todo, seen = deque([start]), {start}

with out.open("w", encoding="utf-8") as file:
    while todo:
        url = todo.popleft()
        try:
            with urlopen(url, timeout=20) as answer:
                status, body = answer.status, answer.read().decode("utf-8", "replace")
        except HTTPError as error:
            with error:
                status, body = error.code, ""
        links = [urldefrag(urljoin(url, link)).url for link in re.findall(r'<a href="([^"]+)"', body)]
        links = [link for link in links if urlsplit(link)[:2] == host]
        file.write(json.dumps({"url": url, "status": status, "bytes": len(body), "links": len(links)}) + "\n")
        for link in links:
            if link not in seen:
                seen.add(link)
                todo.append(link)
