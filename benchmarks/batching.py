"""Fits what an engine's batches cost, and says what its batching loses against the one that was fitted.

    python benchmarks/batching.py ENGINE... --lengths dev.tsv --threads 2 --json batching.json

ENGINE is an engine folder. The text file, one text a line, gives the lengths that requests have; each request holds 32
texts in the order of the file. Times are predicted by the fitted costs: of requests padded to their longest text, split
as the engine's ``engine.json`` says, and split as was fitted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from batch_cost import fit, measure

from toolchain.engines.shared.batching import Batching, padding_waste, plan_batches
from toolchain.runtime.predictor import Predictor

#: Texts of a request.
REQUEST = 32


def predicted(costs: Batching, used: Batching, requests: Sequence[Sequence[int]]) -> float:
    """Cost of requests, in tokens, when they are split as ``used`` says."""
    split = [(lengths, plan_batches(lengths, REQUEST, used)) for lengths in requests]
    return sum(costs.cost(len(batch), lengths[batch[0]]) for lengths, batches in split for batch in batches)


def study(folder: Path, texts: Sequence[str], threads: int, rounds: int) -> dict[str, Any]:
    """Measures one engine.

    Args:
        folder: The engine folder.
        texts: Texts of real lengths.
        threads: Threads that compute a batch.
        rounds: Times each shape is run.
    """
    predictor = Predictor(folder, threads)
    lengths = [len(example) for example in predictor.encode(list(texts))]
    requests = [lengths[start : start + REQUEST] for start in range(0, len(lengths), REQUEST)]
    times = measure(predictor.session, predictor.interface.max_length, rounds)
    costs = fit(times)
    padded = sum(costs.cost(len(request), max(request)) for request in requests)
    best, shipped = predicted(costs, costs, requests), predicted(costs, predictor.batching, requests)
    waste = [padding_waste(request, plan_batches(request, REQUEST, predictor.batching)) for request in requests]
    return {
        "engine": folder.name,
        "fitted": costs.record(),
        "shipped": predictor.batching.record(),
        "gain_over_padded": padded / shipped,
        "loss_against_fitted": shipped / best - 1,
        "padding_waste": sum(waste) / len(waste),
        "seconds": {f"{rows}x{tokens}": value for (rows, tokens), value in times.items()},
    }


def main() -> None:
    """Prints a line for each engine, and writes JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="+", type=Path)
    parser.add_argument("--lengths", type=Path, required=True, help="one text a line")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    texts = [line for line in given.lengths.read_text(encoding="utf-8").splitlines() if line]
    found = [study(folder, texts, given.threads, given.rounds) for folder in given.engines]
    print(f"{'engine':24s} {'call':>7s} {'attention':>9s} {'budget':>7s} {'× padded':>9s} {'loss':>7s} {'padding':>8s}")
    for row in found:
        fitted = row["fitted"]
        print(
            f"{row['engine']:24s} {fitted['call']:7.1f} {fitted['attention']:9.0f} {fitted['token_budget']:7d} "
            f"{row['gain_over_padded']:9.2f} {row['loss_against_fitted']:7.1%} {row['padding_waste']:8.1%}"
        )
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
