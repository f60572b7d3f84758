"""Colours of the page and its pictures; told apart with any colour vision, by day and by night."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

#: Name → by day, by night. Methods: Okabe and Ito's set, darkened or lightened until each has 3:1 on its paper.
COLOURS = {
    "paper": ("#ffffff", "#14181b"),
    "panel": ("#f5f7f8", "#1b2024"),
    "ink": ("#1b2126", "#e8ecee"),
    "quiet": ("#56616a", "#a3aeb6"),
    "rule": ("#dde2e5", "#2f373d"),
    "axis": ("#8b969d", "#6d7880"),
    "accent": ("#0b6a86", "#5cc1de"),
    "good": ("#00694d", "#4cc9a1"),
    "bad": ("#b3261e", "#ff8a7d"),
    "warn": ("#8a5a00", "#e6b450"),
    "base": ("#6b757c", "#9aa5ab"),
    "quantized": ("#0072b2", "#56b4e9"),
    "pruned": ("#c24d00", "#f08a4b"),
    "distilled": ("#00835f", "#3fc79c"),
    "factorized": ("#a3498a", "#e09ac8"),
    "other": ("#947000", "#e3c04a"),
    "combined": ("#2b2f77", "#b9bdf5"),
}


def read(name: str) -> str:
    """A file of the page, as it lies beside this one."""
    return (files(__package__) / name).read_text(encoding="utf-8")


@cache
def sheet() -> str:
    """The page's style, with colours for day and night."""
    day, night = (";".join(f"--{name}:{both[at]}" for name, both in COLOURS.items()) for at in (0, 1))
    colours = f":root{{color-scheme:light dark;{day}}}\n@media (prefers-color-scheme:dark){{:root{{{night}}}}}\n"
    return colours + read("page.css") + read("picture.css")


@cache
def standalone() -> str:
    """The style of a picture alone: its rules with the colours of the day in their places."""
    rules = re.sub(r"/\*.*?\*/", "", read("picture.css"), flags=re.DOTALL)
    return "\n" + re.sub(r"var\(--(\w+)\)", lambda match: COLOURS[match[1]][0], rules).strip() + "\n"
