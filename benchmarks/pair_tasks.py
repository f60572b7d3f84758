"""Pair tasks as classes, from public data sets of other kinds: ``stsb`` and ``squad2`` as CSV files of two texts.

``stsb``: two sentences are ``same`` (score 4 or more) or ``different`` (2 or less); those between are left out.
``squad2``: a question and a paragraph are ``answerable`` or ``unanswerable``; large parts are sampled, seeded.
"""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

#: The columns of the files that are written.
COLUMNS = ("first", "second", "label")

#: Parts of a data set.
PARTS = ("train", "dev", "test")

#: Pairs of squad2 that are drawn from each part.
SAMPLES = {"train": 2_000, "dev": 380, "test": 1_000}


def write(name: str, source: Path, folder: Path) -> None:
    """Write ``train.csv``, ``dev.csv`` and ``test.csv`` of a pair task.

    Args:
        name: ``stsb`` or ``squad2``.
        source: Folder of the data set: ``PART.csv`` of stsb, ``PART.json`` of squad2.
        folder: Folder to write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        rows = {"stsb": _stsb, "squad2": _squad2}[name](source, part)
        with (folder / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(rows)


def _stsb(source: Path, part: str) -> list[tuple[str, str, str]]:
    with (source / f"{part}.csv").open(encoding="utf-8", newline="") as file:
        scored = [(row["sentence1"], row["sentence2"], float(row["score"])) for row in csv.DictReader(file)]
    return [(a, b, "same" if score >= 4 else "different") for a, b, score in scored if score >= 4 or score <= 2]


def _squad2(source: Path, part: str) -> list[tuple[str, str, str]]:
    articles = json.loads((source / f"{part}.json").read_text("utf-8"))["data"]
    rows = [
        (item["question"].strip(), paragraph["context"].strip(), "un" * item["is_impossible"] + "answerable")
        for article in articles
        for paragraph in article["paragraphs"]
        for item in paragraph["qas"]
    ]
    return random.Random(0).sample(rows, min(SAMPLES[part], len(rows)))
