"""Labelled rows of a Debian or Ubuntu package index: what a package is, in a few words, and the section that it is in.

``apt-cache dumpavail | python packages.py`` writes ``packages-train.csv``, ``packages-dev.csv`` and
``packages-test.csv`` into the current folder; the same index gives the same rows. Packages built from one source
describe themselves in much the same words: all of them go to one part, and each description is taken once.
"""

from __future__ import annotations

import csv
import re
import sys
import zlib
from pathlib import Path

SECTIONS = {"admin", "fonts", "games", "graphics", "mail", "net", "science", "sound", "text", "web"}

rows: dict[str, list[tuple[str, str]]] = {"train": [], "dev": [], "test": []}
known: set[str] = set()
for stanza in sys.stdin.read().split("\n\n"):
    package: dict[str, str] = dict(re.findall(r"^(Package|Source|Section|Description): (.+)$", stanza, re.MULTILINE))
    section, text = package.get("Section", "").rpartition("/")[2], package.get("Description", "")
    stem = re.sub(r"\s*(\(.*|\s-+\s.*)$", "", text).lower()  # "chess game (data files)", "chess game - documentation"
    if section in SECTIONS and stem and stem not in known:
        known.add(stem)
        source = package.get("Source", package["Package"]).split()[0]
        part = {0: "test", 1: "test", 2: "dev"}.get(zlib.crc32(source.encode()) % 10, "train")
        rows[part].append((text, section))
for part, found in rows.items():
    with Path(f"packages-{part}.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("description", "section"), *sorted(found)])
    sys.stdout.write(f"packages-{part}.csv: {len(found):,} rows\n")
