"""Runs the cases, and writes what they give as ``docs/errors.md``: ``python -m tests.cli.bad.page``."""

from __future__ import annotations

import functools
import re
import tempfile
from pathlib import Path

from tests.cli.bad import answers, data, models, recipes, stores, tags
from tests.cli.bad.case import Case
from tests.tiny import Result, call
from toolchain.cli import COMMANDS
from toolchain.core import registry

PAGE = Path(__file__).parents[3] / "docs" / "errors.md"

GROUPS = {
    "Recipes and flags": recipes.CASES,
    "Data": data.CASES,
    "Several labels, and scores": answers.CASES,
    "Tagged words": tags.CASES,
    "Models, graphs and engines": models.CASES,
    "The store, and what is written": stores.CASES,
}

HEAD = """\
# Errors

What you see when something is wrong: the value, what is allowed, and what to do next; never a traceback. Exit codes:
0 done, 1 an error that the message explains, 2 a command that cannot be read so, 3 done but a bound was missed or no
engine may be shipped, 130 stopped by Ctrl-C. Every row is the output of a real command, run by a test; where a
library or the machine decides a part of the message, or a list of names goes on, there is a `…`.

<!-- written by `python -m tests.cli.bad.page`; a test compares it -->
"""

#: What another version of a library, another machine, or a technique added would say otherwise.
VARIES = (
    r"(as a text classifier: ).*", r"(from the hub: ).*", r"(the cache does not hold it: ).*", r"(damaged one: ).*",
    r"(matrix products: ).*", r"(this onnxruntime has ).*", r"(cannot be used as a tokenizer: ).*",
    r"(No such option '?--sets'?).*", r"(--technique is missing: ).*", r"(this is transformers )[\d.]+",
    r"(known: classification, ).*", r"(weights are damaged: ).*", r"(readable Parquet file: ).*", r"(/)[0-9a-f]{32}",
)  # fmt: skip


@functools.cache
def outcome(case: Case) -> Result:
    """What a case's command leaves, with the folder that it ran in taken out of its messages."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        case.prepare(folder)
        found = call(*case.argv, cwd=folder)
        return Result(found.code, found.stdout, found.stderr.replace(f"{folder}/", "").replace(str(folder), "."))


def message(result: Result) -> str:
    """The message without click's lines about usage, and without warnings of what is being developed."""
    text = result.stderr.partition("\nError: ")[2] if result.stderr.startswith("Usage: ") else result.stderr
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(line for line in lines if "made by another version of " not in line)


def page() -> str:
    """The page, from the outcomes of all cases."""
    parts = [HEAD]
    for title, cases in GROUPS.items():
        rows = [f"| {case.what} | {_cell(message(outcome(case)))} |" for case in cases]
        parts.append("\n".join([f"## {title}\n", "| what is wrong | message |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    for pattern in VARIES:
        text = re.sub(pattern, r"\1…", text)
    listed = {*COMMANDS, *(name for folder in registry.FOLDERS for name in registry.names(folder))}
    text = re.sub(r"known: ([^)\n]+)", lambda m: "known: …" if listed & set(m[1].split(", ")) else m[0], text)
    text = text.replace("|", "\\|").replace("`", "'").replace("\t", " ")
    return "<br>".join(f"`{line.strip()}`" for line in text.splitlines())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
