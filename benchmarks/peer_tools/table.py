"""Turns what was made and timed into ratios to the best peer, with paired intervals, and into Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from toolchain.certainty.statistics import speedup

Record = dict[str, Any]

#: How far below fp32 an engine may stay on test, in points of accuracy, to be compared at all.
ALLOWED_POINTS = 0.5

#: Where a setting's result stands in ``timing.json``. In data order each request is split by the predictor as the
#: engine's ``engine.json`` says: a peer's stays whole and is padded to its longest.
PLACES: dict[str, tuple[str, ...]] = {
    "batch 1": ("latency", "engine"),
    "32, sorted": ("throughput", "32", "sorted", "engine"),
    "32, unsorted": ("throughput", "32", "data_order", "engine"),
}

#: The spread of rounds, (third - first quartile) / median, above which a speed is marked.
SPREAD = 0.10

#: Facts of a set of rounds that the tables need.
ROUNDS = ("rounds", "seconds", "sample", "samples", "order")


def record(engines: Sequence[Record], timed: Mapping[int, Mapping[str, Any]], facts: Mapping[str, Any]) -> Record:
    """Everything that is known, as JSON values.

    Args:
        engines: Each with ``name``, ``tool``, ``whose``, and either ``error`` or what it took and how well it does.
        timed: ``timing.json``, its engines by name, for each number of threads that was timed.
        facts: Of the machine and the run.

    Returns:
        The facts; the engines with ``points`` below fp32 and whether that is ``within`` what is allowed; under
        ``timed``, for each number of threads, ``per_s`` of every engine, and for every setting the best peer, our best
        and the ``ratio`` of every engine to the best peer: estimate, low and high of its 95 % interval; and
        ``fastest_peer``, whatever its accuracy, with the ratio of ours to it.
    """
    reference = next((engine for engine in engines if engine["whose"] == "reference" and "accuracy" in engine), None)
    lines = [_line(engine, reference) for engine in engines]
    sets = {str(threads): _set(lines, found) for threads, found in timed.items()}
    return {**facts, "allowed_points": ALLOWED_POINTS, "engines": lines, "timed": sets}


def markdown(found: Record) -> str:
    """The tables of a record."""
    parts = [part for threads, timed in found["timed"].items() for part in _timed(found, threads, timed)]
    return "\n".join(
        [
            "# The same checkpoint through every tool",
            "",
            *parts,
            *_engines(found),
            *_failures(found),
            *_notes(found),
            "",
        ]
    )


def summary(found: Record) -> str:
    """The best peer and our best of every setting alone."""
    parts: list[str] = []
    for threads, timed in found["timed"].items():
        parts += [f"{_threads(threads)}:".capitalize(), "", *_best(timed)]
    machine = found["machine"]
    return "\n".join([*parts, f"Measured on {machine['cpu']}, {machine['physical_cores']} cores.", ""])


def _line(engine: Record, reference: Record | None) -> Record:
    line = {key: value for key, value in engine.items() if key != "folder"}
    if "accuracy" in engine and reference:
        line["points"] = {
            split: 100 * (engine["accuracy"][split] - reference["accuracy"][split]) for split in engine["accuracy"]
        }
        line["within"] = line["points"]["test"] >= -ALLOWED_POINTS
    return line


def _set(lines: Sequence[Record], timed: Mapping[str, Any]) -> Record:
    """One set of rounds: speeds, and who is best."""
    measured = {line["name"]: timed["engines"].get(line["name"], {}) for line in lines}
    per_s = {
        name: {setting: _speed(found["settings"], place) for setting, place in PLACES.items()}
        for name, found in measured.items()
        if "settings" in found
    }
    return {
        **{name: timed[name] for name in ROUNDS},
        "errors": {name: found["error"] for name, found in measured.items() if "error" in found},
        "memory_bytes": {name: measured[name]["peak_memory_bytes"] for name in per_s},
        "per_s": per_s,
        "best": {setting: found for setting in PLACES if (found := _compared(lines, per_s, setting))},
    }


def _speed(settings: Mapping[str, Any], place: Sequence[str]) -> Record:
    """Sentences a second, the median of rounds and each of them."""
    found: Any = settings
    for part in place:
        found = found[part]
    rounds = [1000 / ms for ms in found["rounds_ms"]] if "rounds_ms" in found else found["rounds_per_s"]
    return {"median": statistics.median(rounds), "rounds": rounds, "spread": found["spread"]}


def _compared(lines: Sequence[Record], per_s: Mapping[str, Any], setting: str) -> Record | None:
    """The best peer and our best of a setting, among those whose accuracy is within what is allowed."""

    def best(whose: tuple[str, ...], *, any_accuracy: bool = False) -> str | None:
        able = [line["name"] for line in lines if line["whose"] in whose and (any_accuracy or line.get("within"))]
        timed = [name for name in able if name in per_s]
        return max(timed, key=lambda name: float(per_s[name][setting]["median"]), default=None)

    peer, mine = best(("peer", "reference")), best(("ours",))
    if peer is None or mine is None:
        return None
    fastest = best(("peer", "reference"), any_accuracy=True) or peer
    ratios = {name: _ratio(per_s[peer][setting], found[setting]) for name, found in per_s.items()}
    return {
        "peer": peer, "peer_per_s": per_s[peer][setting]["median"], "ours": mine,
        "ours_per_s": per_s[mine][setting]["median"], **ratios[mine], "ratios": ratios,
        "fastest_peer": {
            "peer": fastest, "per_s": per_s[fastest][setting]["median"],
            **_ratio(per_s[fastest][setting], per_s[mine][setting]),
        },
    }  # fmt: skip


def _ratio(base: Record, other: Record) -> Record:
    """How many times faster another engine is, formed inside each round."""
    found = speedup([1 / rate for rate in base["rounds"]], [1 / rate for rate in other["rounds"]])
    return {"ratio": found.estimate, "low": found.low, "high": found.high}


def _timed(found: Record, threads: str, timed: Record) -> Iterator[str]:
    yield f"## {_threads(threads)}"
    yield ""
    yield from _best(timed)
    yield f"| engine | {' | '.join(PLACES)} | memory, MB |"
    yield f"| --- |{' ---: |' * (len(PLACES) + 1)}"
    for line in found["engines"]:
        if line["name"] not in timed["per_s"]:
            continue
        speeds = [_rate(timed["per_s"][line["name"]][setting]) for setting in PLACES]
        memory = f"{timed['memory_bytes'][line['name']] / 1e6:,.0f}"
        yield f"| {' | '.join([_name(line), *speeds, memory])} |"
    yield ""
    yield (
        f"Sentences a second, the engine alone; median of {timed['rounds']} interleaved rounds of "
        f"{timed['seconds'] / timed['rounds']:.2g} s each on {timed['sample']} test sentences; ~: the rounds are far "
        "apart. A ratio is the median of the rounds' own ratios."
    )
    yield from (f"- not timed: {name}: {error.strip().splitlines()[0]}" for name, error in timed["errors"].items())
    yield ""


def _threads(threads: str) -> str:
    return f"{threads} {'thread' if threads == '1' else 'threads'}"


def _best(timed: Record) -> Iterator[str]:
    """The best peer and our best of every setting; a quicker peer that is not accurate enough is named below."""
    best = [(setting, timed["best"][setting]) for setting in PLACES if setting in timed["best"]]
    if not best:
        return
    yield "| setting | best peer | /s | ours | /s | ratio | 95 % interval |"
    yield "| --- | --- | ---: | --- | ---: | ---: | --- |"
    for setting, it in best:
        yield (
            f"| {setting} | {it['peer']} | {it['peer_per_s']:,.0f} | {it['ours']} | {it['ours_per_s']:,.0f} "
            f"| **{it['ratio']:.2f}** | {it['low']:.2f} to {it['high']:.2f} |"
        )
    yield ""
    quicker = [
        f"- {setting}: a quicker peer, less accurate than is compared: {peer['peer']}, {peer['per_s']:,.0f}; to it, "
        f"ours {peer['ratio']:.2f} ({peer['low']:.2f} to {peer['high']:.2f})"
        for setting, it in best
        if (peer := it["fastest_peer"])["peer"] != it["peer"]
    ]
    yield from [*quicker, ""] if quicker else ()


def _name(line: Record) -> str:
    name = f"**{line['name']}**" if line["whose"] == "ours" else str(line["name"])
    return name if line.get("within") else f"{name} ✗"


def _engines(found: Record) -> Iterator[str]:
    yield "## Accuracy, size, and what it took to make"
    yield ""
    heads = ["engine", "MB", "test %", "Δ", "dev %", "Δ", "made in s", "with MB"]
    yield f"| {' | '.join(heads)} |"
    yield f"| --- |{' ---: |' * (len(heads) - 1)}"
    for line in found["engines"]:
        if "accuracy" not in line:
            continue
        cells = [_name(line), f"{line['size_bytes'] / 1e6:.1f}"]
        for split in ("test", "dev"):
            points = f"{line['points'][split]:+.2f}" if "points" in line else ""
            cells += [f"{100 * line['accuracy'][split]:.2f}", points]
        cells += [f"{line['wall_s']:.0f}", f"{line['peak_memory_bytes'] / 1e6:,.0f}"]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _rate(speed: Record) -> str:
    return f"{speed['median']:,.0f}{' ~' if speed['spread'] > SPREAD else ''}"


def _failures(found: Record) -> Iterator[str]:
    failed = [line for line in found["engines"] if "error" in line]
    for line in failed:
        first = line["error"].strip().splitlines()[0]
        yield f"- left out: {line['name']}: {first}"
    if failed:
        yield ""


def _notes(found: Record) -> Iterator[str]:
    machine = found["machine"]
    yield (
        f"{machine['cpu']}, {machine['physical_cores']} cores. Δ: points to fp32; ✗: more than "
        f"{found['allowed_points']} below it on test, and so not compared. Unsorted: a peer pads each 32 to the "
        "longest, ours are batched by the predictor that ships; so is a peer's marked *our batches*, which is not "
        "compared. Made in, with: from the checkpoint to the file, wall time and peak memory."
    )
