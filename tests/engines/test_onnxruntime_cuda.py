from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.builders import ARCHITECTURES, context, engine_folder, onnx_folder, tiny_onnx_folder
from toolchain.core.errors import EngineError
from toolchain.engines import onnxruntime as engine
from toolchain.engines.onnxruntime import cuda
from toolchain.engines.onnxruntime.lowering import Forms, counts, rewrite
from toolchain.engines.onnxruntime.session import NO_CUDA, Opening, remedy
from toolchain.optimize import bf16, fp16

#: What the graphs here call the output of the kind, by its name.
OUTPUTS = {"logits": "logits"}

ON_GPU = Forms(attention=True, residuals=True, integers=False, half=True)


def has_gpu() -> bool:
    import onnxruntime
    import torch

    return torch.cuda.is_available() and "CUDAExecutionProvider" in onnxruntime.get_available_providers()


needs_gpu = pytest.mark.skipif(not has_gpu(), reason="there is no NVIDIA GPU, or no onnxruntime-gpu")


def batch(rows: int, tokens: int, seed: int = 0) -> dict[str, Any]:
    """Rows of several lengths, padded at their end."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(4, 60, (rows, tokens))
    mask = (np.arange(tokens) < generator.integers(2, tokens + 1, (rows, 1))).astype(np.int64)
    mask[0] = 1
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def half_folder(architecture: str, folder: Path) -> Path:
    source = onnx_folder(architecture)
    out = folder / "half"
    out.mkdir()
    fp16.apply(source, out, fp16.Config(), context(folder))
    for name in ("interface.json", "tokenizer.json"):
        shutil.copyfile(source / name, out / name)
    return out


def logits(path: Path, given: dict[str, Any]) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {item.name: given[item.name] for item in session.get_inputs()})[0]


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_half_precision_graph_is_fused_completely_for_a_gpu(architecture: str, lengths: bool, tmp_path: Path) -> None:
    half = half_folder(architecture, tmp_path)
    forms = Forms(attention=True, residuals=True, integers=False, half=True, lengths=lengths)
    rewritten = rewrite(half / "model.onnx", tmp_path, forms)
    operators = Counter(node.op_type for node in onnx.load(rewritten).graph.node)
    # Two layers: an attention, two norms of sums and a GELU each, and the norm of the embeddings.
    found = counts(operators, half / "model.onnx", forms)
    assert found == {"attention": [2, 2], "layer_norm": [5, 5], "gelu": [2, 2], "residual": [5, 5]}
    assert operators["Softmax"] == operators["LayerNormalization"] == 0
    assert "ReduceSum" in operators if lengths else "ReduceSum" not in operators
    given = batch(4, 19)
    # Half precision keeps 11 bits; the graph that is not fused is off by as much.
    assert np.abs(logits(rewritten, given) - logits(half / "model.onnx", given)).max() < 5e-3


def test_a_half_precision_graph_is_left_as_it_is_for_a_processor(tmp_path: Path) -> None:
    half = half_folder("bert", tmp_path)
    assert rewrite(half / "model.onnx", tmp_path, Forms()) == half / "model.onnx"


def test_bfloat16_is_left_as_it_is(tmp_path: Path) -> None:
    source = tiny_onnx_folder(tmp_path / "source")
    bf16.apply(onnx_folder(), source, bf16.Config(compute=True), context(tmp_path))
    assert rewrite(source / "model.onnx", tmp_path, ON_GPU) == source / "model.onnx"
    assert counts({}, source / "model.onnx", ON_GPU) == {}


def test_lengths_of_rows_and_their_mask_give_the_same_logits(tmp_path: Path) -> None:
    given = batch(5, 21)
    expected = None
    for mask in ("padding", "lengths"):
        folder = engine_folder(tmp_path / mask, mask=mask, tune=False)
        session = engine.open_session(folder, 1)
        found = session.run(given)["logits"]
        expected = found if expected is None else expected
        assert np.abs(found - expected).max() < 1e-5


def test_bound_shapes_give_what_a_run_gives_and_captured_ones_are_padded(tmp_path: Path) -> None:
    session: Any = engine.open_session(engine_folder(tmp_path, tune=False), 1)
    opening = Opening(cuda_graph=True, graph_rows=4, graph_tokens=16, most_tokens=40)
    bindings = cuda.Bindings(session._session, opening, OUTPUTS, device="cpu")
    for number, (rows, tokens) in enumerate([(1, 7), (1, 9), (2, 20), (3, 35), (5, 9), (1, 7), (5, 9)]):
        given = batch(rows, tokens, number)
        assert np.abs(bindings.run(session.feed(given))["logits"] - session.run(given)["logits"]).max() < 1e-5
    captured, plain = bindings.shapes
    # 35 tokens would be padded to 48, which is more than the model reads.
    assert captured == ((1, 16), (2, 32), (3, 40))
    assert plain == ((5, 9),)


def test_the_logits_of_a_binding_are_the_callers_own(tmp_path: Path) -> None:
    session: Any = engine.open_session(engine_folder(tmp_path, tune=False), 1)
    bindings = cuda.Bindings(session._session, Opening(), OUTPUTS, device="cpu")
    first, second = (session.feed(batch(2, 9, seed)) for seed in (1, 2))
    kept = bindings.run(first)["logits"]
    before = kept.copy()
    bindings.run(second)
    assert (kept == before).all()
    bound = bindings.bind(first)
    bound.run()
    assert np.abs(bound.outputs()["logits"] - before).max() < 1e-6


def test_shapes_are_forgotten_when_there_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "MOST_SHAPES", 2)
    monkeypatch.setattr(cuda, "MOST_GRAPHS", 1)
    session: Any = engine.open_session(engine_folder(tmp_path, tune=False), 1)
    bindings = cuda.Bindings(session._session, Opening(cuda_graph=True, graph_rows=1), OUTPUTS, device="cpu")
    for rows, tokens in ((1, 16), (1, 32), (2, 5), (2, 6)):
        bindings.run(session.feed(batch(rows, tokens)))
    assert bindings.shapes == (((1, 16),), ((2, 5), (2, 6)))  # a graph is never forgotten; further shapes have none


def test_a_binding_finds_the_number_of_labels_where_the_graph_does_not_tell(tmp_path: Path) -> None:
    source = tiny_onnx_folder(tmp_path)
    model = onnx.load(source / "model.onnx")
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "labels"
    onnx.save(model, source / "model.onnx")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(str(source / "model.onnx"), options, providers=["CPUExecutionProvider"])
    given = batch(3, 8)
    found = cuda.Bindings(session, Opening(), OUTPUTS, device="cpu").run(given)["logits"]
    assert found.shape == (3, 2)
    assert np.abs(found - session.run(None, given)[0]).max() < 1e-6


def test_settings_reach_the_provider() -> None:
    opening = engine._opening(
        engine.Config(provider="cuda", device_id=1, use_tf32=True, strict_norms=True, cuda_graph=True, mask="lengths")
    )
    assert cuda.provider_options(opening) == {
        "device_id": "1",
        "use_tf32": "1",
        "enable_cuda_graph": "1",
        "enable_skip_layer_norm_strict_mode": "1",
        "sdpa_kernel": "27",
    }
    honest = cuda.provider_options(engine._opening(engine.Config(provider="cuda")))
    assert honest["use_tf32"] == "0"
    assert "sdpa_kernel" not in honest


def test_a_processor_captures_nothing(tmp_path: Path) -> None:
    session: Any = engine.open_session(engine_folder(tmp_path, tune=False, cuda_graph=True), 1)
    assert session.bindings is None
    assert session.run(batch(1, 9))["logits"].shape == (1, 2)


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("This session cannot use the graph capture feature as requested by the user", "cuda_graph: false"),
        ("CUDA failure 35: CUDA driver version is insufficient", NO_CUDA),
        ("NOT_IMPLEMENTED : Could not find an implementation for Add(14)", "bf16: {compute: false}"),
        ("something else", ""),
    ],
)
def test_errors_of_the_provider_say_what_to_do(message: str, hint: str) -> None:
    assert hint in remedy(RuntimeError(message))
    assert bool(remedy(RuntimeError(message))) == bool(hint)


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"cuda was asked for|silently become CPU|cannot load") as caught:
        engine.build(onnx_folder(), tmp_path, engine.Config(provider="cuda"), context(tmp_path))
    assert caught.value.hint


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("settings", [{}, {"mask": "lengths"}, {"cuda_graph": True}, {"strict_norms": True}])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_an_engine_on_a_gpu_gives_the_logits_of_the_processor(
    architecture: str, settings: Any, precision: str, tmp_path: Path
) -> None:
    source = half_folder(architecture, tmp_path) if precision == "fp16" else onnx_folder(architecture)
    out = tmp_path / "engine"
    out.mkdir()
    metrics = engine.build(source, out, engine.Config(provider="cuda", **settings), context(tmp_path))
    assert list(metrics["placement"]) == ["CUDAExecutionProvider"]
    assert all(found == expected for found, expected in metrics["fusion"].values())
    session = engine.open_session(out, 1)
    for rows, tokens in ((1, 9), (1, 12), (3, 20), (9, 20), (1, 9), (1, 9), (1, 9), (1, 9)):
        given = batch(rows, tokens, rows + tokens)
        difference = np.abs(
            session.run(given)["logits"] - logits(onnx_folder(architecture) / "model.onnx", given)
        ).max()
        assert difference < (2e-4 if precision == "fp32" else 2e-2)


@needs_gpu
def test_tf32_is_off_unless_asked_for(tmp_path: Path) -> None:
    for use_tf32 in (False, True):
        folder = engine_folder(tmp_path / str(use_tf32), provider="cuda", use_tf32=use_tf32)
        session: Any = engine.open_session(folder, 1)
        found = session._session.get_provider_options()["CUDAExecutionProvider"]["use_tf32"]
        assert found == str(int(use_tf32))
