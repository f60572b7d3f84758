"""A sensitivity as a person reads it: found by folder, key or file, and a table for each technique."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from toolchain import kinds
from toolchain.core.errors import StoreError, ToolchainError
from toolchain.core.files import safe_folder
from toolchain.core.store import Artifact, Store
from toolchain.layers import sensitivity_file
from toolchain.layers.sensitivity import SENSITIVITY_FILE, TECHNIQUES

#: What a technique's settings are.
_SETTINGS = {
    "heads": "part of a layer's heads removed", "ffn": "part of a layer's neurons removed",
    "rank": "part of a matrix's parameters kept by two factors", "sparsity": "part of a layer's weights set to zero",
    "bits": "bits of a layer's weights",
}  # fmt: skip


def read(reference: str, store: Store) -> tuple[dict[str, Any], Artifact | None]:
    """The record that a folder, the start of a key, or a ``sensitivity.json`` names, and the artifact if it is one.

    Raises:
        StoreError: There is none, or it is damaged.
        ToolchainError: It is something else.
    """
    path, artifact = Path(reference), None
    if path.is_dir():
        safe_folder(path, (SENSITIVITY_FILE,), StoreError)
        path = path / SENSITIVITY_FILE
    elif not path.is_file():
        artifact = store.resolve(reference)
        if artifact.kind != "sensitivity":
            raise ToolchainError(
                f"{reference!r} is of kind {artifact.kind}, and not a sensitivity",
                "'toolchain sensitivity CHECKPOINT' makes one; 'toolchain list artifacts' shows what is there",
            )
        store.check(artifact)
        path = artifact.path / SENSITIVITY_FILE
    given = "give what 'toolchain sensitivity' has written: a folder, a key, or the file"
    if path.suffix != ".json":
        raise ToolchainError(f"{path} is not a sensitivity", given)
    return sensitivity_file.read(path), artifact


def tables(record: Mapping[str, Any]) -> Iterator[RenderableType]:
    """A table for each technique: a row for each part of a layer, a column for each setting."""
    dense, metric = record["dense"], kinds.named(record).METRIC
    yield Text(
        f"dense: dev {metric.name} {metric.shown(dense['accuracy'])}, loss {dense['loss']:.4f}, {dense['examples']} "
        f"examples, {dense['bytes'] / 1e6:.1f} MB, {dense['flops'] / 1e6:,.0f} MFLOPs at {dense['mean_tokens']:.1f} "
        "tokens"
    )
    for technique in TECHNIQUES:
        rows = [row for row in record["rows"] if row["technique"] == technique]
        if rows:
            yield Text(f"\n{technique}: {_SETTINGS[technique]}", style="bold")
            yield _table(rows, dense, descending=technique in ("rank", "bits"))
    yield Text(
        "Divergence of the answers from the dense model's, increase of the loss, and in brackets the change of "
        f"{metric.name} in points; saves: percent of the model's bytes / of its FLOPs, of one such part, the layers' "
        "mean.",
        style="dim",
    )


def _table(rows: list[dict[str, Any]], dense: Mapping[str, Any], *, descending: bool) -> Table:
    settings = sorted({row["setting"] for row in rows}, reverse=descending)
    cells: dict[str, dict[float, dict[str, Any]]] = {}
    for row in rows:
        whole = row["part"] in ("heads", "ffn", "layer", row["layer"])
        cells.setdefault(str(row["layer"]) if whole else f"{row['layer']} {row['part']}", {})[row["setting"]] = row
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("layer")
    for setting in settings:
        table.add_column(f"{setting:g}", justify="right")
    for name, line in cells.items():
        table.add_row(name, *(_cell(line.get(setting), dense) for setting in settings))
    inner = [row for row in rows if row["layer"] != "embedding"] or rows
    alike = [[row for row in inner if row["setting"] == setting] for setting in settings]
    table.add_row("saves", *(_saved(own, dense) for own in alike), style="dim")
    return table


def _saved(rows: Sequence[Mapping[str, Any]], dense: Mapping[str, Any]) -> str:
    if not rows:
        return "-"
    parts = (100 * sum(row[name] for row in rows) / len(rows) / dense[name] for name in ("bytes", "flops"))
    return " / ".join(f"{part:.1f}" for part in parts)


def _cell(row: Mapping[str, Any] | None, dense: Mapping[str, Any]) -> str:
    if row is None:
        return "-"
    return f"{row['divergence']:.4f}  {row['loss_increase']:+.4f} ({100 * (row['accuracy'] - dense['accuracy']):+.1f})"
