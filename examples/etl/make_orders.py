"""Write a CSV file of orders: `make_orders.py FILE [COUNT]`. One of 97 has a comma in its amount, one of 997 no day."""

import sys
from pathlib import Path


def row(number: int) -> str:
    """One line of the file."""
    day = "" if number % 997 == 0 else f"2026-{number % 12 + 1:02}-{number % 28 + 1:02}"
    amount = f"{number % 500}.{number % 100:02}"
    if number % 97 == 0:
        amount = '"' + amount.replace(".", ",") + '"'
    return f"{number},{day},customer {number % 1000},{amount}\n"


if __name__ == "__main__":
    with Path(sys.argv[1]).open("w") as file:
        file.write("order,day,customer,amount\n")
        file.writelines(map(row, range(1, 1 + int(sys.argv[2] if len(sys.argv) > 2 else 100_000))))
