"""The same with a pool and no runner: `plain.py LOGS DATABASE PARQUET BROKEN`."""

import json
import sqlite3
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pyarrow as pa
from plugins.logs import COLUMNS, lines_of, parse
from pyarrow.parquet import ParquetWriter

TYPES = dict.fromkeys(COLUMNS, "string") | dict.fromkeys(("line", "status", "bytes"), "int64")


def parse_file(path):
    requests, broken = [], []
    for place in lines_of(path):
        try:
            requests.append(parse(place))
        except Exception as error:
            broken.append({"item": place, "error": f"{type(error).__name__}: {error}"})
    return requests, broken


if __name__ == "__main__":
    logs, database, parquet, broken = sys.argv[1:]
    schema = pa.schema(list(TYPES.items()))
    with (
        ProcessPoolExecutor() as pool,
        sqlite3.connect(database) as table,
        ParquetWriter(parquet, schema) as writer,
        open(broken, "w") as dead,
    ):
        table.execute(f"CREATE TABLE IF NOT EXISTS requests({', '.join(COLUMNS)}, PRIMARY KEY(file, line))")
        insert = f"INSERT OR REPLACE INTO requests VALUES({', '.join('?' * len(COLUMNS))})"
        for requests, letters in pool.map(parse_file, sorted(Path(logs).rglob("*.log"))):
            table.executemany(insert, requests)
            writer.write_table(pa.table(dict(zip(COLUMNS, zip(*requests))), schema))
            dead.writelines(json.dumps(letter) + "\n" for letter in letters)
