"""Write a folder of web-server logs: `make_logs.py FOLDER [FILES] [LINES]`. One line of a thousand is cut short."""

import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

PATHS = ["/", "/login", "/search?q=toml&page=2", "/static/app.js", "/api/orders/4711", "/bilder/k%C3%A4se.png"]
AGENTS = ["Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0", "curl/8.5.0", "Googlebot/2.1"]
SHAPE = '{address} - - [{time}] "{method} {path} HTTP/1.1" {status} {size} "-" "{agent}"'


def line(number: int, chance: random.Random) -> str:
    """One line in the combined format; lines 500, 1500, 2500, … end in the middle."""
    time = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    text = SHAPE.format(
        address=".".join(str(chance.randrange(1, 255)) for _ in range(4)),
        time=time.strftime("%d/%b/%Y:%H:%M:%S %z"),
        method=chance.choice(["GET", "GET", "GET", "POST"]),
        path=chance.choice(PATHS),
        status=chance.choice([200, 200, 200, 200, 304, 404, 500]),
        size=chance.randrange(100, 100_000),
        agent=chance.choice(AGENTS),
    )
    return text[:40] if number % 1000 == 500 else text


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    files, lines = (int(word) for word in (sys.argv[2:] + ["4", "5000"][len(sys.argv[2:]) :]))
    folder.mkdir(parents=True, exist_ok=True)
    for file in range(files):
        chance = random.Random(file)
        with (folder / f"access-{file}.log").open("w", encoding="utf-8") as log:
            log.writelines(f"{line(number, chance)}\n" for number in range(1, lines + 1))
