"""Keeps a recipe's report in ``artifacts/published/`` and quotes it where the documentation has a place for it.

``python benchmarks/publish.py recipes/quickstart.yaml`` copies what the store has of that recipe, measured on this
machine; nothing is run. A place is a pair of comments, ``<!-- results: quickstart -->`` and ``<!-- /results -->``, and
a test holds that what stands between them is what the published report says. ``results: peers/summary`` quotes a page
that a benchmark has written, ``artifacts/published/peers/summary.md``; its headings become paragraphs. Without a
recipe, only the places are filled.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolchain.core.log import logger, setup
from toolchain.deliver.report.figures import quantity, ratio, show

ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT / "artifacts" / "published"
_PLACE = re.compile(r"(<!-- results: (?P<name>[\w/-]+) -->\n)(?P<text>.*?)(<!-- /results -->)", re.DOTALL)


def main(arguments: list[str] | None = None) -> int:
    """Publishes the reports of recipes and quotes them.

    Args:
        arguments: Those of the command line.

    Returns:
        The exit code of ``toolchain report``, 0 when all went well.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipes", nargs="*", type=Path, help="recipes that have been run on this machine")
    parser.add_argument("--store", default=None, help="the store they were run in [default: artifacts]")
    chosen = parser.parse_args(arguments)
    setup(0)
    for recipe in chosen.recipes:
        command = [sys.executable, "-c", "from toolchain.cli import main; main()", "report", str(recipe), "--quiet"]
        command += ["--store", chosen.store] if chosen.store else []
        said = subprocess.run([*command, "--json"], capture_output=True, text=True)
        if said.returncode not in (0, 3):
            sys.stderr.write(said.stderr)
            return said.returncode
        folder = PUBLISHED / json.loads(said.stdout)["name"]
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([*command, "--output", str(folder)], check=False, stdout=subprocess.DEVNULL)
        logger.info("published: %s", folder.relative_to(ROOT))
    for page in pages():
        text = page.read_text("utf-8")
        quoted = quote(text)
        if quoted != text:
            page.write_text(quoted, "utf-8")
            logger.info("quoted in: %s", page.relative_to(ROOT))
    return 0


def pages() -> list[Path]:
    """Every page that may have a place for results."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def places(text: str) -> list[tuple[str, str]]:
    """``(name, text)`` of every place for results in a page."""
    return [(match["name"], match["text"]) for match in _PLACE.finditer(text)]


def published(name: str) -> str | None:
    """What stands in a place of that name, or None when nothing of that name is published."""
    page, report = PUBLISHED / f"{name}.md", PUBLISHED / name / "report.json"
    if page.is_file():
        return re.sub(r"^#+ (.*)$", r"**\1**", page.read_text("utf-8"), flags=re.MULTILINE).rstrip() + "\n"
    return block(json.loads(report.read_text("utf-8"))) if report.is_file() else None


def quote(text: str) -> str:
    """A page with every place filled for which a report is published."""

    def fill(match: re.Match[str]) -> str:
        found = published(match["name"])
        return match[0] if found is None else match[1] + found + match[4]

    return _PLACE.sub(fill, text)


def block(report: Mapping[str, Any]) -> str:
    """The table of a report, and what a reader must know of it.

    Args:
        report: ``report.json``.
    """
    return "\n".join([*_table(report), "", *_notes(report), ""])


def _table(report: Mapping[str, Any]) -> Iterator[str]:
    lines = report["lines"]
    sizes = sorted(int(m[1]) for name in lines[0] if (m := re.fullmatch(r"per_s_sorted_engine_batch_(\d+)", name)))
    heads = ["#", "engine", "accuracy %", "change", "MB", "CR", "ms @1", "IS @1"]
    heads += [text for size in sizes for text in (f"/s @{size}", f"IS @{size}")]
    trained = any(line.get("training_steps") is not None for line in lines)
    heads += ["steps", "minutes"] if trained else []
    yield f"| {' | '.join([*heads, 'WS', ''])} |"
    yield f"| ---: | --- |{' ---: |' * (len(heads) - 1)} --- |"
    for line in lines:
        name = f"**{line['name']}**" if line["baseline"] else line["name"]
        accuracy = f"{show(line['accuracy_percent'], 2)} ± {show(_half_width(line), 2)}"
        cells = [
            show(line["rank"]),
            name,
            accuracy,
            _change(line),
            quantity(line["size_mb"]),
            ratio(line["compression"]),
        ]
        cells += [quantity(line["latency_engine_p50_ms"]), ratio(line["speedup_batch_1"])]
        for size in sizes:
            cells += [show(line[f"per_s_sorted_engine_batch_{size}"]), ratio(line[f"speedup_batch_{size}"])]
        cells += [show(line["training_steps"]), show(line["training_minutes"], 1)] if trained else []
        yield f"| {' | '.join([*cells, show(line['score'], 2), ', '.join(line['marks'])])} |"


def _change(line: Mapping[str, Any]) -> str:
    points = [line[f"accuracy_change_points{end}"] for end in ("", "_low", "_high")]
    if line["baseline"] or points[0] is None:
        return "-"
    return f"{show(points[0], 2, sign=True)} ({show(points[1], 2, sign=True)} to {show(points[2], 2, sign=True)})"


def _half_width(line: Mapping[str, Any]) -> float:
    return float(line["accuracy_percent_high"] - line["accuracy_percent_low"]) / 2


def _notes(report: Mapping[str, Any]) -> Iterator[str]:
    machine, settings = report["machine"], report["settings"]
    weights = report["weights"]
    yield (
        f"Measured on {machine['cpu']}, {machine['physical_cores']} cores, {machine['system']}, "
        f"{settings['threads']} threads, median of {settings['rounds']} interleaved rounds; accuracy on "
        f"{report['lines'][0]['examples']:,} {report['split']} examples with its 95 % interval, and its change in "
        "points against the baseline on the same examples. @N: at batch size N, the engine alone, batches sorted by "
        "length. CR and IS: bytes and time of the baseline (bold) over "
        f"this engine's. WS = {weights['accuracy']:g}·A + {weights['compression']:g}·CR + {weights['speedup']:g}·IS at "
        f"{report['speedup']}."
    )
    machines = sorted({line["training_machine"] for line in report["lines"] if line.get("training_machine")})
    if machines:
        yield f"steps, minutes: all that made the checkpoint, fine-tuning too, on {' and '.join(machines)}."


if __name__ == "__main__":
    sys.exit(main())
