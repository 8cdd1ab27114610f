"""The same with a pool and no runner: `plain.py MODEL SCORES [TIMES]`. The model is there already."""

import csv
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

import joblib
from plugins.scoring import pictures


def load(path):
    global model
    model = joblib.load(path)


def score(batch):
    chances = model.predict_proba([shades for _, shades in batch]).tolist()
    return [(number, row.index(max(row)), max(row)) for (number, _), row in zip(batch, chances)]


def batches(items, size):
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


if __name__ == "__main__":
    path, scores, times = (*sys.argv[1:], "5")[:3]
    with ProcessPoolExecutor(initializer=load, initargs=(path,)) as pool, open(scores, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["picture", "digit", "certainty"])
        for rows in pool.map(score, batches(pictures(times=int(times)), 500)):  # reads all pictures at once
            writer.writerows(rows)
