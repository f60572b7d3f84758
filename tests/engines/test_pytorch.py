from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.builders import checkpoint_folder, context, engine_folder, onnx_folder
from toolchain.core.errors import EngineError, ModelError
from toolchain.engines import onnxruntime, pytorch

IDS = np.random.default_rng(0).integers(4, 60, (3, 11))
BATCH = {"input_ids": IDS, "attention_mask": np.ones_like(IDS), "token_type_ids": np.zeros_like(IDS)}


def test_pytorch_and_onnxruntime_give_the_same_logits(tmp_path: Path) -> None:
    folders = {name: engine_folder(tmp_path / name, name) for name in ("pytorch", "onnxruntime")}
    found = pytorch.open_session(folders["pytorch"], 1).run(BATCH)["logits"]
    assert found.dtype == np.float32
    assert np.abs(found - onnxruntime.open_session(folders["onnxruntime"], 1).run(BATCH)["logits"]).max() < 1e-5


def test_placement_counts_modules_with_weights(tmp_path: Path) -> None:
    folder = engine_folder(tmp_path, "pytorch")
    # Embeddings: word, position, type, norm. Each of 2 layers: query, key, value, output, norm, up, down, norm.
    # Pooler and classifier.
    assert pytorch.open_session(folder, 1).placement() == {"cpu": 4 + 2 * 8 + 2}


def test_an_encoder_without_segments_is_not_asked_for_them(tmp_path: Path) -> None:
    pytorch.build(checkpoint_folder("roberta"), tmp_path, pytorch.Config(), context(tmp_path))
    assert pytorch.open_session(tmp_path, 1).inputs == ("input_ids", "attention_mask")


def test_only_what_has_to_be_shipped_is_counted(tmp_path: Path) -> None:
    folder = engine_folder(tmp_path, "pytorch")
    assert json.loads((folder / "engine.json").read_text())["files"] == ["config.json", "model.safetensors"]


def test_an_onnx_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        pytorch.build(onnx_folder(), tmp_path, pytorch.Config(), context(tmp_path))


def test_compiling_without_a_compiler_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match=r"needs a C\+\+ compiler") as caught:
        pytorch.build(checkpoint_folder(), tmp_path, pytorch.Config(compile=True), context(tmp_path))
    assert "g++" in caught.value.hint


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
def test_a_compiled_model_gives_the_same_logits_at_two_shapes(tmp_path: Path) -> None:
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    sessions = [
        pytorch.open_session(engine_folder(plain, "pytorch"), 1),
        pytorch.open_session(engine_folder(compiled, "pytorch", compile=True), 1),
    ]
    for rows, tokens in ((3, 11), (1, 5)):
        batch = {name: value[:rows, :tokens].copy() for name, value in BATCH.items()}
        one, two = (session.run(batch)["logits"] for session in sessions)
        assert np.abs(one - two).max() < 1e-5
