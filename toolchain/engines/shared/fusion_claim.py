"""The families whose graphs fuse completely, and why an incomplete fusion of any other graph is only a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain.core import registry
from toolchain.model import checkpoint, history

#: transformers' model types whose exported graph fuses completely on ONNX Runtime and OpenVINO. A test holds each.
CLAIMED = ("albert", "bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")


def record(counts: Mapping[str, Sequence[int]], source: Path) -> dict[str, Any]:
    """Return what ``engine.json`` says of fusion.

    Args:
        counts: For each kind of operator, how many were found and how many must be there.
        source: The folder of the graph.

    Returns:
        ``fusion``: the counts, where there are any; ``partly_fused``: why a shortage only labels the engine, where it
        does.
    """
    short = any(found < expected for found, expected in counts.values())
    reason = partly_fused(source) if short else ""
    return ({"fusion": dict(counts)} if counts else {}) | ({"partly_fused": reason} if reason else {})


def partly_fused(source: Path) -> str:
    """Return why an incomplete fusion of a graph only labels its engine, or "" where it bars the engine.

    Args:
        source: The folder of the graph, with ``config.json`` and ``history.json`` where it has them.
    """
    claim = f"a label only: complete fusion is claimed for {', '.join(CLAIMED)}"
    config = source / "config.json"
    family = checkpoint.read_json(config).get("model_type") if config.is_file() else None
    if family not in CLAIMED:
        return f"{claim}, and this model is {family or 'of an unknown family'}"
    stages = [registry.stage_in(step) for step in history.applied(source)]
    if not any(stage is not None and stage.exports for stage in stages):
        return f"{claim}, as this program exports them, and another program exported this graph"
    return ""
