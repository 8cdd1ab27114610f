"""The same table by one loop and no runner: `plain.py ORDERS DATABASE`. Rows without a day are left out."""

import csv
import sqlite3
import sys
from pathlib import Path

from plugins.etl import clean

with Path(sys.argv[1]).open() as file, sqlite3.connect(sys.argv[2]) as database:
    database.execute('CREATE TABLE orders("order" INTEGER PRIMARY KEY, day TEXT, customer TEXT, cents INTEGER)')
    for row in csv.DictReader(file):
        if row["day"]:
            cleaned = clean(row, decimal="," if "," in row["amount"] else ".")
            database.execute("INSERT INTO orders VALUES(?, ?, ?, ?)", cleaned)
database.close()
