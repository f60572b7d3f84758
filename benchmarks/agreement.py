"""Do labels survive? Share of test sentences whose label is PyTorch's, for every pass × family × engine.

``python benchmarks/agreement.py --data FOLDER --model bert=SOURCE --model albert=SOURCE --model roberta=SOURCE`` runs
``recipes/every-pass.yaml`` up to its evaluations (nothing is timed; what the store has is not done again) and writes
one table, as Markdown and JSON, into ``artifacts/published/agreement/``. A share below its floor is marked, and the
exit code is 3. The floors are those of the graph passes, ``AGREEMENT``, on test sentences that no pass has seen.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolchain.core.errors import ToolchainError
from toolchain.core.log import setup
from toolchain.core.store import Store
from toolchain.pipeline import plan, recipe, run

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "every-pass.yaml"
OUT = ROOT / "artifacts" / "published" / "agreement"


@dataclass(frozen=True)
class Cell:
    """One engine.

    Attributes:
        variant: What was done to the graph.
        model: Whose graph.
        engine: Who runs it.
        floor: The least share of equal labels that the passes claim, of 0 to 1.
        agreement: Share of test labels that are PyTorch's, of 0 to 1; None where nothing was run.
        accuracy: On test, of 0 to 1.
        size_bytes: Of the engine's files.
        reason: Why nothing was run.
    """

    variant: str
    model: str
    engine: str
    floor: float
    agreement: float | None
    accuracy: float | None
    size_bytes: int | None
    reason: str

    @property
    def failed(self) -> bool:
        """Whether labels changed more than the passes claim."""
        return self.agreement is not None and self.agreement < self.floor


def main(arguments: list[str] | None = None) -> int:
    """Runs the recipe and writes the table.

    Args:
        arguments: Those of the command line.

    Returns:
        0; 1 when an engine could not be made; 3 when a share is below its floor.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append", default=[], metavar="NAME=SOURCE", help="take this model instead")
    parser.add_argument("--data", default=None, help="folder of the task's data [default: the hub]")
    parser.add_argument("--store", default="artifacts", help="folder of the artifacts")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="another recipe with a baseline on pytorch")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE", help="change a setting")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of agreement.md and agreement.json")
    chosen = parser.parse_args(arguments)
    setup(0)
    try:
        made = plan.make(recipe.load(chosen.recipe, chosen.sets, chosen.model, chosen.data), until="evaluate")
        run.quiet_libraries()
        store = Store(Path(chosen.store))
        outcome = run.execute(made, store)
        cells = list(measure(outcome))
    except ToolchainError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    chosen.out.mkdir(parents=True, exist_ok=True)
    table = page(cells)
    (chosen.out / "agreement.md").write_text(table, encoding="utf-8")
    (chosen.out / "agreement.json").write_text(json.dumps([asdict(cell) for cell in cells], indent=2) + "\n", "utf-8")
    sys.stdout.write(table)
    return 3 if any(cell.failed for cell in cells) else 1 if outcome.failed else 0


def measure(outcome: run.Outcome) -> Iterator[Cell]:
    """Every engine of an outcome, against the baseline of its model."""
    import numpy as np

    def labels(evaluate: str) -> Any:
        return np.load(outcome.artifacts[evaluate].path / "probabilities_test.npy").argmax(axis=1)

    made = outcome.plan
    reference = {row.model: labels(row.evaluate) for row in made.rows if row.baseline}
    floors: dict[tuple[str, str], float] = {}
    for (model, variant), items in made.recipe.variants.items():
        floors[model, variant] = min((getattr(item.technique.module, "AGREEMENT", 1.0) for item in items), default=1.0)
    for row in made.rows:
        floor = floors[row.model, row.variant]
        if row.evaluate not in outcome.artifacts:
            reason = outcome.failed.get(row.evaluate) or outcome.failed.get(row.build, "not run")
            yield Cell(row.variant, row.model, row.engine, floor, None, None, None, reason)
            continue
        found = outcome.artifacts[row.evaluate].metrics
        same = float((labels(row.evaluate) == reference[row.model]).mean())
        yield Cell(
            row.variant, row.model, row.engine, floor, same, found["accuracy_test"], found["size_bytes"], ""
        )  # fmt: skip


def page(cells: list[Cell]) -> str:
    """What ``agreement.md`` says of ``agreement.json``."""
    return "\n".join(markdown(cells)) + "\n"


def markdown(cells: list[Cell]) -> Iterator[str]:
    """Two tables, a line for every variant: labels, of every model on every engine; and bytes of every model."""
    columns = list(dict.fromkeys((cell.model, cell.engine) for cell in cells))
    yield f"| labels as PyTorch's, % | floor | {' | '.join(f'{model} · {engine}' for model, engine in columns)} |"
    yield f"| --- | ---: |{' ---: |' * len(columns)}"
    for variant in dict.fromkeys(cell.variant for cell in cells):
        there = {(cell.model, cell.engine): cell for cell in cells if cell.variant == variant}
        shown = [_shown(there.get(column)) for column in columns]
        floor = next(iter(there.values())).floor
        yield f"| {variant} | {100 * floor:.1f} | {' | '.join(shown)} |"
    yield ""
    yield "After the slash: accuracy on test, %. –: this engine cannot take it. **Bold**: below the passes' floor."
    yield ""
    models = list(dict.fromkeys(cell.model for cell in cells))
    engine = cells[0].engine
    yield f"| MB on {engine} | {' | '.join(models)} |"
    yield f"| --- |{' ---: |' * len(models)}"
    for variant in dict.fromkeys(cell.variant for cell in cells):
        sizes = {c.model: c.size_bytes for c in cells if (c.variant, c.engine) == (variant, engine) and c.size_bytes}
        yield f"| {variant} | {' | '.join(f'{sizes[m] / 1e6:.1f}' if m in sizes else '–' for m in models)} |"


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    if cell.agreement is None or cell.accuracy is None:
        return "failed"
    text = f"{100 * cell.agreement:.2f} / {100 * cell.accuracy:.2f}"
    return f"**{text}**" if cell.failed else text


if __name__ == "__main__":
    sys.exit(main())
