"""The script that makes the tutorial's rows of a package index."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

from tests.command import ROOT

#: Two packages of one source, a twin of the first, one of another component, one of a section that is not asked for,
#: and one without a description.
INDEX = """\
Package: chess
Source: board-games (1.2-3)
Section: games
Description: play chess, and lose
Homepage: https://example.org

Package: draughts
Source: board-games
Section: games
Description: play draughts

Package: chess-data
Source: board-games
Section: games
Description: Play chess, and lose (data files)

Package: postie
Section: universe/mail
Description: mail reader - for the terminal
 with more in a second line

Package: libchess
Section: libs
Description: library of chess

Package: silent
Section: games
"""


def rows(folder: Path) -> dict[str, list[dict[str, str]]]:
    script = ROOT / "recipes/data/packages.py"
    done = subprocess.run([sys.executable, script], input=INDEX, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" rows\n") == 3
    found = {}
    for part in ("train", "dev", "test"):
        with (folder / f"packages-{part}.csv").open(encoding="utf-8", newline="") as file:
            found[part] = list(csv.DictReader(file))
    return found


def test_rows_are_descriptions_and_sections_each_once_and_a_source_is_in_one_part(tmp_path: Path) -> None:
    found = rows(tmp_path)
    everything = sorted((row["section"], row["description"]) for part in found.values() for row in part)
    assert everything == [
        ("games", "play chess, and lose"),
        ("games", "play draughts"),
        ("mail", "mail reader - for the terminal"),
    ]
    assert [sum(row["section"] == "games" for row in part) for part in found.values()].count(2) == 1


def test_the_same_index_gives_the_same_rows(tmp_path: Path) -> None:
    assert rows(tmp_path) == rows(tmp_path)
