"""Quantization in training: what is rounded to what, what is learned, and that the graph holds the same integers."""

from __future__ import annotations

import collections
import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tests.builders import classifier_folder, context, sentences, stopping_at, taught
from tests.tiny import call
from toolchain.compress import learned_qat, logarithmic_qat, uniform_qat
from toolchain.compress.shared import levels, qat
from toolchain.core import registry
from toolchain.core.errors import GateError, ModelError, RecipeError
from toolchain.engines import onnxruntime as engine
from toolchain.model import checkpoint, export, graph, integer, quantized, shapes
from toolchain.model.encoded import encode, logits
from toolchain.model.quantized import ActivationFormat, ActivationQuantizer, WeightFormat, WeightQuantizer
from toolchain.model.source import Shape
from toolchain.model.train import TrainConfig

FAMILIES = ("bert", "roberta", "albert")
TRAINING = TrainConfig(epochs=2, batch_size=8, learning_rate=1e-3, max_length=32)
WEIGHT = torch.randn(6, 50, generator=torch.Generator().manual_seed(1)) * torch.tensor([1, 2, 3, 1, 0.1, 5])[:, None]


def quantizer(name: str, bits: int, **settings: Any) -> WeightQuantizer:
    """One of each kind, ready to round :data:`WEIGHT`."""
    if name == "logarithmic":
        base = settings.pop("base", 2.0)
        form = WeightFormat(bits=bits, levels="table", top=levels.top_integer(base, bits), **settings)
        return WeightQuantizer(form, len(WEIGHT), levels.powers(base, bits))
    if name == "codebook":
        form = WeightFormat(bits=bits, levels="table", learned=True, **settings)
        return WeightQuantizer(form, len(WEIGHT), levels.codebook(WEIGHT, form))
    found = WeightQuantizer(WeightFormat(bits=bits, learned=name == "learned", **settings), len(WEIGHT))
    if name == "learned":
        found.log_step.data = levels.least_squares(WEIGHT, found.format).log()
    return found


KINDS = ("uniform", "learned", "codebook", "logarithmic")


def error(found: WeightQuantizer) -> float:
    return float((found(WEIGHT) - WEIGHT).detach().square().sum())


@pytest.mark.parametrize("channels", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_has_as_many_values_as_its_bits_have(kind: str, bits: int, channels: bool) -> None:
    found = quantizer(kind, bits, channels=channels)
    rounded = found(WEIGHT).detach()
    rows = rounded if channels else rounded.reshape(1, -1)
    assert max(len(row.unique()) for row in rows) <= 2**bits
    whole, step = found.integers(WEIGHT)
    torch.testing.assert_close(whole * step[:, None], rounded)
    if found.format.top and (kind != "logarithmic" or bits <= 4):
        assert torch.equal(whole, whole.round())
        assert whole.abs().max() <= 127
    assert torch.equal(found(torch.zeros_like(WEIGHT)), torch.zeros_like(WEIGHT))  # what is pruned stays so


def test_more_bits_lose_less_and_what_is_fitted_loses_less_than_what_is_not() -> None:
    for kind in KINDS[:3]:
        assert error(quantizer(kind, 3)) > error(quantizer(kind, 4)) > error(quantizer(kind, 6))
    assert error(quantizer("learned", 4)) < error(quantizer("uniform", 4))
    assert error(quantizer("codebook", 4)) < error(quantizer("learned", 4))
    assert error(quantizer("uniform", 4)) < error(quantizer("uniform", 4, channels=False))


def test_levels_of_powers_are_powers_and_finer_bases_are_denser() -> None:
    powers = levels.powers(2.0, 4)
    assert sorted(powers[powers > 0].tolist()) == [2.0**-k for k in range(6, -1, -1)]
    assert levels.top_integer(2.0, 4) == 64
    assert (powers * 64).tolist() == (powers * 64).round().tolist()
    assert levels.top_integer(2**0.5, 4) == 127
    assert levels.top_integer(2.0, 8) == levels.top_integer(3.0, 4) == 0
    ratio = levels.powers(2**0.5, 8)
    ratio = ratio[ratio > 0]
    torch.testing.assert_close(ratio[1:] / ratio[:-1], torch.full((126,), 2**0.5))


def test_gradients_are_those_of_the_paper() -> None:
    values = torch.tensor([0.26, -0.9, 3.0, -5.0], requires_grad=True)
    step = torch.tensor([0.5], requires_grad=True)
    found = quantized.rounded(values, step, torch.zeros(1), -3, 3)
    assert found.tolist() == [0.5, -1.0, 1.5, -1.5]
    found.sum().backward()
    assert values.grad is not None
    assert step.grad is not None
    assert values.grad.tolist() == [1, 1, 0, 0]  # nothing passes where the range cuts off
    inside = (1 - 0.26 / 0.5) + (-2 + 0.9 / 0.5)
    assert float(step.grad) == pytest.approx(inside + 3 - 3, rel=1e-5)


def test_nothing_is_cut_off_where_the_step_follows_the_largest_weight() -> None:
    weight = torch.randn(400, 64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    WeightQuantizer(WeightFormat(bits=8), 400)(weight).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_a_level_has_the_gradients_of_its_weights_and_a_weight_its_own() -> None:
    found = quantizer("codebook", 3)
    weight = WEIGHT.clone().requires_grad_()
    slope = torch.arange(WEIGHT.numel()).view_as(WEIGHT).float()
    (found(weight) * slope).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, slope)
    step = found.step(WEIGHT)
    table = found.table().detach()
    nearest = found.nearest(WEIGHT / step, table)
    wanted = torch.stack([(slope * step)[nearest == k].sum() for k in range(len(table) - 1)]) * found.format.top
    torch.testing.assert_close(found.levels.grad, wanted)


def test_ranges_reach_where_they_are_told() -> None:
    values = torch.linspace(-1, 3, 401)
    for symmetric, widest in ((True, 3 / 127), (False, 4 / 255)):
        found = ActivationQuantizer(ActivationFormat(symmetric=symmetric))
        found.set_range(-1.0, 3.0)
        assert float((found(values) - values).abs().max()) <= widest / 2 * 1.01
        assert float(found(torch.zeros(1))) == 0
        assert float(found(torch.tensor(100.0))) == pytest.approx(3, abs=widest)


def trained(folder: Path, name: str, family: str = "bert", **settings: Any) -> tuple[Path, dict[str, Any]]:
    for made in ("out", "work"):
        (folder / made).mkdir(parents=True, exist_ok=True)
    technique = registry.get("compress", name)
    config = technique.config(**{"finetune": TRAINING, **settings})
    source = classifier_folder(family)
    metrics = technique.module.apply(source, folder / "out", config, taught(context(folder / "work"), source))
    return folder / "out", metrics


def exported(folder: Path, checkpoint_folder: Path) -> tuple[Path, dict[str, Any]]:
    (folder / "onnx").mkdir()
    metrics = export.apply(checkpoint_folder, folder / "onnx", export.Config(), context(folder / "work"))
    return folder / "onnx", metrics


UNTRAINED: dict[str, Any] = {"finetune": None, "teacher": None}


@pytest.mark.parametrize("stop", [1, 5])
def test_a_training_that_is_stopped_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    whole, _ = trained(tmp_path / "whole", "learned_qat")

    with monkeypatch.context() as patch:
        patch.setattr("toolchain.compress.shared.recovery.train", stopping_at(stop))
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "again", "learned_qat")
    out, metrics = trained(tmp_path / "again", "learned_qat")
    assert metrics["resumed_at"] == stop
    assert (whole / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_steps_and_levels_are_learned(tmp_path: Path) -> None:
    for kind, last in (("uniform", "log_step"), ("codebook", "levels")):
        before, _ = trained(tmp_path / f"{kind}-before", "learned_qat", levels=kind, bits=4, **UNTRAINED)
        after, _ = trained(tmp_path / kind, "learned_qat", levels=kind, bits=4)
        one, other = (checkpoint.load_model(folder).state_dict() for folder in (before, after))
        names = [name for name in one if name.endswith(f"weights.{last}")]
        assert names
        assert all(not torch.equal(one[name], other[name]) for name in names if "embeddings" not in name)


def test_a_codebook_of_more_bits_than_it_has_is_refused() -> None:
    with pytest.raises(ValueError, match="a codebook has 6 bits or fewer, and 8 are asked for"):
        learned_qat.Config(levels="codebook")
    assert learned_qat.Config(levels="codebook", bits_by_group={"embeddings": 4})


def test_a_model_answers_as_before_when_it_is_loaded_again_and_has_few_values(tmp_path: Path) -> None:
    out, metrics = trained(tmp_path, "learned_qat", levels="codebook", bits=3, bits_by_group={"layer 1 *": 8})
    model = checkpoint.load_model(out)
    assert metrics["bits"] == {
        "embeddings": 8, "layer 0 attention": 3, "layer 0 ffn": 3, "layer 1 attention": 8, "layer 1 ffn": 8,
        "classifier": 3,
    }  # fmt: skip
    layers = quantized.layers(model)
    inner = {name: m for name, m in layers.items() if "layer.0." in name}
    assert len(inner) == 6
    assert all(len(row.unique()) <= 8 for m in inner.values() for row in m.weights(m.weight))
    (tmp_path / "copy").mkdir()
    tokenizer = checkpoint.load_tokenizer(out)
    checkpoint.save_like(copy.deepcopy(model), tokenizer, out, tmp_path / "copy")
    data = encode(tokenizer, sentences().dev, 32, checkpoint.model_inputs(model, tokenizer))
    assert (logits(model, data, 1) == logits(checkpoint.load_model(tmp_path / "copy"), data, 1)).all()
    query, key = (layers[f"bert.encoder.layer.0.attention.self.{name}"] for name in ("query", "key"))
    assert key.reads is query.reads


@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_has_the_trained_integers_and_one_pair_for_what_several_read(family: str, tmp_path: Path) -> None:
    out, _ = trained(tmp_path, "learned_qat", family)
    folder, metrics = exported(tmp_path, out)
    assert metrics["max_difference"] <= 1e-4
    assert metrics["parity"]["floor"] == 0.995
    model = onnx.load(folder / "model.onnx")
    assert graph.dialect(model) == "qdq" == checkpoint.read_json(folder / "interface.json")["dialect"]
    kinds = collections.Counter(node.op_type for node in model.graph.node)
    # Each of two layers: what queries, keys and values read together, the attention's output, the FFN twice; beside
    # them the pooler, in RoBERTa the head's first layer, and in ALBERT what widens the embeddings.
    assert kinds["QuantizeLinear"] == 2 * 4 + (2 if family == "albert" else 1)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    layers = quantized.layers(checkpoint.load_model(out))
    name = next(name for name in layers if name.endswith("query"))
    whole, step = layers[name].weights.integers(layers[name].weight)
    found = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and name in node.input[0]]
    assert found
    assert np.array_equal(tensors[found[0].input[0]], whole.T.numpy().astype(np.int8))
    np.testing.assert_allclose(tensors[found[0].input[1]], step.detach().numpy(), rtol=1e-6)


def test_asymmetric_activations_are_unsigned_and_the_dialect_says_so(tmp_path: Path) -> None:
    asymmetric = qat.Activations(symmetric=False)
    out, _ = trained(tmp_path, "uniform_qat", activations=asymmetric, **UNTRAINED)
    folder, metrics = exported(tmp_path, out)
    assert metrics["max_difference"] <= 1e-4
    assert graph.dialect(onnx.load(folder / "model.onnx")) == "qdq-asymmetric"
    assert uniform_qat.exports(uniform_qat.Config(activations=asymmetric)) == "qdq-asymmetric"


def test_weights_that_are_no_integers_stay_floats(tmp_path: Path) -> None:
    out, _ = trained(tmp_path, "logarithmic_qat", bits=8, embedding_bits=None, **UNTRAINED)
    folder, _ = exported(tmp_path, out)
    model = onnx.load(folder / "model.onnx")
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in model.graph.node}
    for settings, dialect in (
        ({"bits": 8, "embedding_bits": None}, "standard"),
        ({"bits": 4, "embedding_bits": 4, "bits_by_group": {"*": 8}}, "standard"),
        ({"bits": 4, "embedding_bits": 8, "bits_by_group": {"layer*": 8, "classifier": 8}}, "standard"),
        ({"bits": 4, "embedding_bits": 8, "bits_by_group": {"layers 0-5 *": 8, "classifier": 8}}, "qdq"),
        ({"bits": 4, "embedding_bits": 8, "bits_by_group": {"layer 0 ffn": 8, "classifier": 8}}, "qdq"),
        (
            {
                "bits": 8,
                "embedding_bits": 8,
                "bits_by_group": {"emb*": 4},
                "activations": qat.Activations(symmetric=False),
            },
            "qdq",
        ),
        ({"bits": 8, "embedding_bits": 4, "activations": qat.Activations(symmetric=False)}, "qdq"),
        ({"bits": 4, "embedding_bits": 8, "activations": qat.Activations(symmetric=False)}, "qdq-asymmetric"),
    ):
        assert logarithmic_qat.exports(logarithmic_qat.Config(**settings)) == dialect, settings


def test_four_bits_are_packed_in_graph_and_engine_and_multiplied_as_int8(tmp_path: Path) -> None:
    from toolchain.runtime.predictor import Predictor

    out, _ = trained(tmp_path, "learned_qat", bits=4, embedding_bits=4, **UNTRAINED)
    folder, metrics = exported(tmp_path, out)
    assert metrics["opset"] == 21
    model = onnx.load(folder / "model.onnx")
    narrow = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT4]
    assert len(narrow) == len(quantized.layers(checkpoint.load_model(out)))
    numbers = sum(int(np.prod(tensor.dims)) for tensor in narrow)
    built = tmp_path / "engine"
    built.mkdir()
    found = engine.build(folder, built, engine.Config(tune=False), context(tmp_path / "work"))
    assert not found["kept_source"]
    assert found["fusion"]["attention"] == [2, 2]
    made = onnx.load(built / "model.onnx")
    kinds = collections.Counter(node.op_type for node in made.graph.node)
    assert kinds["MatMulIntegerToFloat"] == 13
    assert sum(len(tensor.raw_data) for tensor in made.graph.initializer) < 0.5 * numbers * 1.25 + 50_000
    for name in ("interface.json", "tokenizer.json"):
        (built / name).write_bytes((folder / name).read_bytes())
    texts = [" ".join(text) for text in sentences().train.texts]
    model = checkpoint.load_model(out)
    tokenizer = checkpoint.load_tokenizer(out)
    data = encode(tokenizer, sentences().train, 32, checkpoint.model_inputs(model, tokenizer))
    known = np.array(logits(model, data, 1))
    assert np.abs(Predictor(built, 1).logits(texts) - known).mean() < 0.05 * known.std()


def test_a_graph_that_rounds_otherwise_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = trained(tmp_path, "uniform_qat", **UNTRAINED)

    class Twice(integer._Pair):
        def __init__(self, source: Any) -> None:
            super().__init__(source)
            self.step *= 30

    monkeypatch.setattr(integer, "_Pair", Twice)
    with pytest.raises(GateError, match="differs from the quantized PyTorch model"):
        exported(tmp_path, out)


def test_a_weight_that_is_another_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = trained(tmp_path, "uniform_qat", **UNTRAINED)
    given = WeightQuantizer.integers
    monkeypatch.setattr(WeightQuantizer, "integers", lambda *a: (given(*a)[0] + 1, given(*a)[1]))
    with pytest.raises(GateError, match="the ONNX graph differs from PyTorch"):
        exported(tmp_path, out)


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ({"layer 7 ffn": 4}, "bits_by_group: nothing fits layer 7 ffn"),
        ({"layer * ffn": 4, "layer 1 *": 8}, "two patterns give layer 1 ffn two widths"),
        ({"*": None}, "every group is null"),
    ],
)
def test_groups_are_judged_before_any_work(groups: dict[str, Any], says: str) -> None:
    refusal = uniform_qat.fits(uniform_qat.Config(bits_by_group=groups), Shape(2, 2))
    assert refusal is not None
    assert says in refusal[0]
    with pytest.raises(RecipeError, match=says.replace("*", ".")):
        qat.group_bits(uniform_qat.Config(bits_by_group=groups), ["layer 0 ffn", "layer 1 ffn"])


def test_groups_are_named_alike_by_the_shape_and_by_the_model() -> None:
    for family, shape in (("bert", Shape(2, 2)), ("roberta", Shape(2, 2)), ("albert", Shape(2, 1))):
        groups = qat.grouped(checkpoint.load_model(classifier_folder(family)))
        for group in groups:
            assert uniform_qat.fits(uniform_qat.Config(bits_by_group={group: 4}), shape) is None, group


def test_what_is_quantized_in_training_is_not_compressed_again(tmp_path: Path) -> None:
    out, _ = trained(tmp_path, "uniform_qat", **UNTRAINED)
    (tmp_path / "again").mkdir()
    with pytest.raises(ModelError, match="is quantized in training already"):
        uniform_qat.apply(out, tmp_path / "again", uniform_qat.Config(**UNTRAINED), context(tmp_path / "work"))
    found = call("compress", str(out), "-t", "magnitude_prune", "--task", "reviews", "-o", "pruned", cwd=tmp_path)
    assert found.code == 1
    assert "is quantized in training already" in found.stderr


def test_a_config_that_names_other_layers_is_refused(tmp_path: Path) -> None:
    out, _ = trained(tmp_path, "uniform_qat", **UNTRAINED)
    config = checkpoint.read_json(out / "config.json")
    config[shapes.QUANTIZERS]["bert.encoder.layer.9.output.dense"] = {"weights": {"bits": 8}}
    checkpoint.write_json(out / "config.json", config)
    with pytest.raises(ModelError, match="quantizers"):
        checkpoint.load_model(out)
