"""The two steps of the job: a row becomes an order, and orders go into a database."""

import sqlite3
from datetime import date

from runner import task


@task
def clean(row: dict[str, str], *, decimal: str = ".") -> tuple[int, str, str, int]:
    """(order, day, customer, cents) of a row of texts; ValueError says what is wrong with it."""
    whole, _, rest = row["amount"].partition(decimal)
    if not (whole.isdecimal() and rest.isdecimal() and len(rest) == 2):
        raise ValueError(f"amount {row['amount']!r} is not one with {decimal!r} and two digits")
    return int(row["order"]), date.fromisoformat(row["day"]).isoformat(), row["customer"].strip(), int(whole + rest)


@task
class Load:
    """Puts batches of orders into a table. An order that comes twice, after a crash, is there once: by its number."""

    def __init__(self, database: str) -> None:
        self.path = database

    def __enter__(self) -> "Load":
        self.database = sqlite3.connect(self.path)
        self.database.execute(
            'CREATE TABLE IF NOT EXISTS orders("order" INTEGER PRIMARY KEY, day TEXT, customer TEXT, cents INTEGER)'
        )
        return self

    def __call__(self, orders: list[tuple[int, str, str, int]]) -> None:
        self.database.executemany("INSERT OR REPLACE INTO orders VALUES(?, ?, ?, ?)", orders)

    def save(self) -> None:
        """Make safe what has come: called before runner notes that it is done."""
        self.database.commit()

    def __exit__(self, *_: object) -> None:
        self.database.commit()
        self.database.close()
