"""The same with a pool and no runner: `plain.py PICTURES THUMBNAILS INDEX`. One picture that crashes ends all of it."""

import csv
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from plugins.thumbnails import shrink

if __name__ == "__main__":
    pictures, thumbnails, index = sys.argv[1:]
    paths = sorted(path.relative_to(pictures).as_posix() for path in Path(pictures).glob("**/*.jpg"))
    with ProcessPoolExecutor() as pool, open(index, "w", newline="") as file:
        writer = csv.DictWriter(file, ["picture", "width", "height", "bytes"], lineterminator="\n")
        writer.writeheader()
        futures = [pool.submit(shrink, path, pictures=pictures, thumbnails=thumbnails, pixels=200) for path in paths]
        for path, future in zip(paths, futures):
            try:
                writer.writerow(future.result())
            except Exception as error:
                print(f"{path}: {error}", file=sys.stderr)
