from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tests.builders import context, sentences
from tests.model.test_export import made
from toolchain.compress import magnitude_prune
from toolchain.model import checkpoint
from toolchain.model.train import TrainConfig

TRAINING = TrainConfig(epochs=2, batch_size=8, learning_rate=1e-3, max_length=32)


def pruned(folder: Path, architecture: str = "bert", **settings: Any) -> tuple[Path, dict[str, Any]]:
    source, out = made(folder, architecture), folder / "out"
    out.mkdir()
    metrics = magnitude_prune.apply(source, out, magnitude_prune.Config(**settings), context(folder, sentences()))
    return out, metrics


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert"])
@pytest.mark.parametrize("scope", ["local", "global"])
def test_the_claimed_sparsity_is_on_disk(architecture: str, scope: str, tmp_path: Path) -> None:
    out, metrics = pruned(tmp_path, architecture, sparsity=0.7, scope=scope)
    weights = magnitude_prune.prunable(checkpoint.load_model(out), embeddings=False)
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    total = sum(weight.numel() for weight in weights.values())
    assert zeros / total == pytest.approx(0.7, abs=1e-3)
    assert metrics["zeros"] == zeros


def test_the_smallest_weights_of_each_layer_go_when_local(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    before = load_file(made(tmp_path / "plain") / "model.safetensors")
    out, _ = pruned(tmp_path, sparsity=0.5, scope="local")
    after = load_file(out / "model.safetensors")
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    kept, gone = abs(before[name][after[name] != 0]), abs(before[name][after[name] == 0])
    assert gone.max() <= kept.min()
    assert (after["bert.embeddings.word_embeddings.weight"][1:] != 0).all()  # row 0 is the padding


def test_pruning_while_training_keeps_the_zeros_and_survives_a_stop(tmp_path: Path) -> None:
    whole, metrics = pruned(tmp_path, sparsity=0.8, finetune=TRAINING)
    assert metrics["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert metrics["best_epoch"] == 2  # in the first, the sparsity was still rising
    (tmp_path / "again").mkdir()
    again, _ = pruned(tmp_path / "again", sparsity=0.8, finetune=TRAINING)
    assert (whole / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
