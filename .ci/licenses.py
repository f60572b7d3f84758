"""Write the licences of the locked packages: ``python .ci/licenses.py constraints.txt LICENSES.md``.

What a package says of itself in its metadata is written down. A package that is not installed here keeps the line that
it has, and is named where it has none.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

HEADER = """\
# Licences of the packages that the lock file names

Written by `python .ci/licenses.py constraints.txt LICENSES.md` from what each package says of itself; a test compares
it with what is installed. toolchain itself is under Apache-2.0 (`LICENSE`).

| package | licence |
| --- | --- |
"""

#: What stands where a package says nothing, and where it is installed nowhere that this was run.
NOT_STATED, UNKNOWN = "not stated in its metadata", "not read: the GPU container alone installs it"

_LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==")


def main(arguments: list[str]) -> int:
    """Write the file.

    Args:
        arguments: The lock file and the file to write.

    Returns:
        0, or 1 where the licence of a package is not known.
    """
    lock, output = map(Path, arguments)
    before = listed(output.read_text("utf-8")) if output.exists() else {}
    rows = {name: licence(name) or before.get(name, UNKNOWN) for name in locked(lock.read_text("utf-8"))}
    output.write_text(HEADER + "".join(f"| {name} | {text} |\n" for name, text in rows.items()), "utf-8")
    unknown = [name for name, text in rows.items() if text == UNKNOWN]
    if unknown:
        print(f"not installed here, install them and run this again: {', '.join(unknown)}", file=sys.stderr)
    return int(bool(unknown))


def locked(text: str) -> list[str]:
    """Return the packages of a lock file, each once."""
    names = [match[1] for line in text.splitlines() if (match := _LOCKED.match(line))]
    return list(dict.fromkeys(names))


def listed(text: str) -> dict[str, str]:
    """Return package and licence of every row of a written file."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): cells[1].strip() for cells in rows if cells[0].strip() not in ("package", "---")}


def licence(name: str) -> str | None:
    """Return what an installed package says of its licence, or None where it is not installed."""
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    if expression := metadata.get("License-Expression"):
        return " ".join(str(expression).split())
    classifiers = [text for text in metadata.get_all("Classifier") or [] if text.startswith("License ::")]
    names = [text.rpartition(" :: ")[2] for text in classifiers if text != "License :: OSI Approved"]
    lines = str(metadata.get("License") or "").strip().splitlines()
    stated = ", ".join(names) or (lines[0].strip()[:80] if lines else "")
    return stated.replace("|", "/") or NOT_STATED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
