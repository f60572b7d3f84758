from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.builders import classifier_folder, context, sentences
from toolchain.compress import gradient_prune, magnitude_prune
from toolchain.compress.shared.pruning import Remove
from toolchain.core.data import Dataset, Split
from toolchain.core.errors import ModelError
from toolchain.model import checkpoint, finetune

SETTINGS = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "max_length": 32}


def three_classes() -> Dataset:
    """Another task: the same sentences in three classes."""
    texts = sentences().train.texts
    split = Split(texts, [index % 3 for index in range(len(texts))])
    return Dataset(split, split, split, ("bad", "fair", "good"))


def pruned(folder: Path, module: object, **settings: object) -> Path:
    out = folder / "pruned"
    out.mkdir(parents=True)
    config = module.Config(**settings)  # type: ignore[attr-defined]
    module.apply(classifier_folder(), out, config, context(folder, sentences()))  # type: ignore[attr-defined]
    return out


@pytest.mark.parametrize("keep", [True, False])
def test_a_pruned_encoder_keeps_its_zeros_on_a_new_task_when_asked(keep: bool, tmp_path: Path) -> None:
    source, out = pruned(tmp_path, magnitude_prune, sparsity=0.6), tmp_path / "out"
    out.mkdir()
    config = finetune.Config(keep_zeros=keep, **SETTINGS)  # type: ignore[arg-type]
    metrics = finetune.apply(source, out, config, context(tmp_path / "work", three_classes()))
    before, after = load_file(source / "model.safetensors"), load_file(out / "model.safetensors")
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    assert ((after[name] == 0) == (before[name] == 0)).all() == keep
    assert (after[name] != before[name]).any()
    assert after["classifier.weight"].shape == (3, 128)
    assert ("zeros" in metrics) == keep


def test_a_cut_encoder_is_fine_tuned_in_its_shape(tmp_path: Path) -> None:
    source, out = pruned(tmp_path, gradient_prune, remove=Remove(heads=0.5, ffn=0.75), scope="local"), tmp_path / "o"
    out.mkdir()
    finetune.apply(source, out, finetune.Config(**SETTINGS), context(tmp_path / "work", three_classes()))  # type: ignore[arg-type]
    model = checkpoint.load_model(out)
    assert model.bert.encoder.layer[1].intermediate.dense.out_features == 128
    assert model.config.id2label == {0: "bad", 1: "fair", 2: "good"}


def test_zeros_are_only_kept_where_there_are_some(tmp_path: Path) -> None:
    model = checkpoint.load_model(classifier_folder())
    model.bert.embeddings.word_embeddings.weight.data += 1e-3  # the padding's row is zero
    source = tmp_path / "dense"
    tokenizer = checkpoint.load_tokenizer(classifier_folder())
    checkpoint.save(model, tokenizer, source, max_length=32, labels=sentences().labels, pair=False)
    config = finetune.Config(keep_zeros=True, **SETTINGS)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="no weight of this encoder is zero"):
        finetune.apply(source, tmp_path, config, context(tmp_path, sentences()))
