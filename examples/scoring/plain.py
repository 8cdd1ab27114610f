"""The same with a pool and no runner: `plain.py MODEL PICTURES SCORES`."""

import csv
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

import joblib


def load(path):
    global model
    model = joblib.load(path)


def score(pictures):
    chances = model.predict_proba([picture["shades"] for picture in pictures]).tolist()
    return [(picture["picture"], row.index(max(row)), max(row)) for picture, row in zip(pictures, chances)]


def batches(lines, size):
    while batch := [json.loads(line) for line in islice(lines, size)]:
        yield batch


if __name__ == "__main__":
    path, pictures, scores = sys.argv[1:]
    with (
        ProcessPoolExecutor(initializer=load, initargs=(path,)) as pool,
        open(pictures) as lines,
        open(scores, "w", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["picture", "digit", "certainty"])
        for rows in pool.map(score, batches(lines, 500)):  # reads all pictures at once
            writer.writerows(rows)
