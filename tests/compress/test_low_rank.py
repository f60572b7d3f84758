from __future__ import annotations

import atexit
import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from tests.builders import context, sentences
from toolchain.compress import low_rank
from toolchain.compress.shared import weighting
from toolchain.compress.shared.gradients import sample
from toolchain.compress.shared.matrices import matrices
from toolchain.compress.shared.recovery import Teacher
from toolchain.core.data import Dataset
from toolchain.core.errors import ModelError, RecipeError
from toolchain.core.stage import Context
from toolchain.engines import onnxruntime
from toolchain.model import checkpoint, export, scratch, surgery
from toolchain.model.anatomy import layers_of
from toolchain.model.encoded import collate
from toolchain.model.factorized import FactorizedEmbedding, FactorizedLinear
from toolchain.model.train import TrainConfig, loss_of

FAMILIES = ("bert", "roberta", "albert")
METHODS = ("plain", "activation", "fisher")

#: Of ``scratch:bert-2x64``: four matrices of 64 × 64 and two of 64 × 256 in each of 2 layers.
MATRICES = 2 * (4 * 64 * 64 + 2 * 64 * 256)


@functools.cache
def made(family: str = "bert", size: str = "2x64") -> Path:
    """A classifier with random weights whose logits tell texts apart; made once a process, and to be read only."""
    folder, data = Path(tempfile.mkdtemp(prefix="toolchain-low-rank-")), sentences()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    scratch.create(f"scratch:{family}-{size}", data.train.texts, 17, folder / "encoder")
    model = checkpoint.load_for_training(folder / "encoder", data.labels, 17)
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "embeddings" not in name:
            torch.nn.init.normal_(weight, std=0.15)
    save(model, folder / "encoder", folder / "checkpoint")
    return folder / "checkpoint"


def save(model: Any, tokenizer: Path, out: Path) -> Path:
    out.mkdir()
    checkpoint.save(
        model, checkpoint.load_tokenizer(tokenizer), out, max_length=32, labels=sentences().labels, pair=False
    )
    return out


def factorized(folder: Path, source: Path | None = None, **settings: Any) -> tuple[Path, dict[str, Any]]:
    out, work = folder / "out", folder / "work"
    out.mkdir(parents=True)
    work.mkdir()
    config = low_rank.Config(**{"multiple_of": 8, **settings})
    return out, low_rank.apply(source or made(), out, config, context(work))


def batch(folder: Path) -> dict[str, Any]:
    model, tokenizer = checkpoint.load_model(folder), checkpoint.load_tokenizer(folder)
    data = sample(model, tokenizer, context(folder), 8)
    found = collate(data, range(8), "cpu")
    found.pop("labels")
    return found


def logits(model: Any, inputs: dict[str, Any]) -> Any:
    with torch.inference_mode():
        return model(**inputs).logits.numpy()


def product(module: Any) -> Any:
    """The matrix that two factors stand for."""
    if isinstance(module, FactorizedEmbedding):
        return module.first.weight.detach() @ module.second.weight.detach().T
    return module.second.weight.detach() @ module.first.weight.detach()


def multiply_out(dense: Any, model: Any, names: Iterable[str]) -> None:
    """Gives a dense model's linear layers the products of the factors, and their biases."""
    with torch.no_grad():
        for name in names:
            dense.get_submodule(name).weight.copy_(product(model.get_submodule(name)))
            dense.get_submodule(name).bias.copy_(model.get_submodule(name).bias)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_every_family_loads_again_and_computes_with_the_products(family: str, method: str, tmp_path: Path) -> None:
    source = made(family)
    out, metrics = factorized(tmp_path, source, method=method)
    model, dense = checkpoint.load_model(out), checkpoint.load_model(source)
    found = matrices(dense, ["query", "key", "value", "output", "ffn_in", "ffn_out"], embedding=False)
    assert len(found) == (6 if family == "albert" else 12)  # shared layers stand there once
    assert {*metrics["ranks"], *metrics["whole"]} == set(found)
    saved = 0
    for name, item in found.items():
        module = model.get_submodule(item.module)
        if name in metrics["whole"]:
            assert isinstance(module, torch.nn.Linear)
            continue
        assert isinstance(module, FactorizedLinear)
        assert module.rank == metrics["ranks"][name]
        assert module.rank % 8 == 0
        saved += item.parameters - module.rank * sum(item.size)
        multiply_out(dense, model, [item.module])
    total = sum(item.parameters for item in found.values())
    assert 0.48 <= (total - saved) / total <= 0.5
    assert metrics["parameters_before"] - metrics["parameters"] == saved
    assert checkpoint.count_parameters(model) == metrics["parameters"]
    inputs = batch(source)
    assert np.abs(logits(model, inputs) - logits(dense, inputs)).max() < 1e-4


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    first, _ = factorized(tmp_path / "first", embedding=16)
    second, _ = factorized(tmp_path / "second", embedding=16)
    names = sorted(path.name for path in first.iterdir())
    assert "model.safetensors" in names
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_what_layers_compute_is_nearer_by_activations_than_by_weights(tmp_path: Path) -> None:
    """The error of every layer's output on texts, in which the dense model's inputs go."""
    source = made()
    dense, inputs = checkpoint.load_model(source), batch(source)
    found = matrices(dense, ["query", "ffn_in", "ffn_out"], embedding=False)
    errors = {}
    for method in METHODS:
        out, _ = factorized(tmp_path / method, method=method, rank=16)
        model = checkpoint.load_model(out)
        lost: list[float] = []

        def measure(module: Any, given: Any, output: Any, *, other: Any, lost: list[float] = lost) -> None:
            lost.append(float((other(given[0]) - output).square().sum() / output.square().sum()))

        handles = [
            dense.get_submodule(item.module).register_forward_hook(
                functools.partial(measure, other=model.get_submodule(item.module))
            )
            for item in found.values()
        ]
        logits(dense, inputs)
        for handle in handles:
            handle.remove()
        assert len(lost) == 6
        errors[method] = np.mean(lost)
    assert errors["activation"] < 0.7 * errors["plain"]
    assert errors["activation"] < 0.7 * errors["fisher"]


def test_what_goes_through_layers_is_gathered_without_padding() -> None:
    source = made()
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    data = sample(model, tokenizer, context(source), 20)
    layer = layers_of(model)[1]
    modules = {name: getattr(layer, name) for name in ("query", "ffn_in", "ffn_out")}
    found = weighting.activations(model, modules, data, gradients=True)
    inputs: dict[str, list[Any]] = {name: [] for name in modules}
    squares = dict.fromkeys(modules, 0.0)
    outputs: dict[str, Any] = {}

    def keep(module: Any, given: Any, output: Any, *, name: str) -> None:
        inputs[name].append(given[0][0].detach().double())
        outputs[name] = output

    for name, module in modules.items():
        model.get_submodule(module).register_forward_hook(functools.partial(keep, name=name))
    for index in range(20):  # one by one there is nothing to pad
        loss = loss_of("classification")(model, collate(data, [index], "cpu"))
        for name, gradient in zip(outputs, torch.autograd.grad(loss, list(outputs.values())), strict=True):
            squares[name] += float(gradient.square().sum())
    for name, module in modules.items():
        read, linear = torch.cat(inputs[name]), model.get_submodule(module)
        assert found[name].mean.numpy() == pytest.approx(read.mean(0).numpy(), abs=1e-5)
        centered = read - read.mean(0)
        values = centered if name == "ffn_in" else centered @ linear.weight.detach().double().T
        expected = values.T @ values
        assert found[name].gram.shape == (64, 64)
        assert float((found[name].gram - expected).abs().max()) < 1e-4 * float(expected.abs().max())
        assert found[name].felt == pytest.approx(squares[name] / len(read) / linear.out_features, rel=1e-3)
    assert weighting.activations(model, modules, data)["query"].felt is None


def test_the_bias_makes_good_for_the_mean(tmp_path: Path) -> None:
    """Whatever the rank, a layer's mean output on calibration sentences stays what it was."""
    source = made()
    dense, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    data = sample(dense, tokenizer, context(source), 256)
    name = layers_of(dense)[0].ffn_in
    mean = weighting.activations(dense, {"": name}, data)[""].mean.float()
    moved = {}
    for method in ("plain", "activation"):
        out, _ = factorized(tmp_path / method, method=method, ranks={"0.ffn_in": 8})
        with torch.no_grad():
            change = checkpoint.load_model(out).get_submodule(name)(mean) - dense.get_submodule(name)(mean)
        moved[method] = float(change.abs().max())
    assert moved["activation"] < 1e-4
    assert moved["plain"] > 0.02


def test_fisher_information_is_the_sum_over_a_row_of_each_examples_squared_gradients() -> None:
    source = made("albert")
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    data = sample(model, tokenizer, context(source), 3)
    name = layers_of(model)[0].query
    found = weighting.fisher(model, {"0.query": name}, data)["0.query"]
    expected = torch.zeros(64)
    for index in range(3):
        model.zero_grad()
        loss_of("classification")(model, collate(data, [index], "cpu")).backward()
        expected += model.get_submodule(name).weight.grad.square().sum(dim=1) / 3
    assert found.numpy() == pytest.approx(expected.numpy(), rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"rank": 16, "energy": 0.9}, "rank and energy: ranks are given in one way"),
        ({"parameters": 0.5, "speedup": 2.0}, "parameters and speedup"),
        ({"ranks": {}}, "ranks: it is empty"),
        ({"ranks": {"embedding": 8}, "embedding": 8}, "its rank stands in ranks too"),
        ({"layers": ()}, "layers: it is empty"),
        ({"layers": (), "embedding": 8, "rank": 8}, "layers: it is empty"),
        ({"teacher": {}}, "nobody is taught without finetune"),
        ({"parameters": 1.0}, "less than 1"),
        ({"energy": 0.0}, "greater than 0"),
        ({"layers": ("pooler",)}, "'query', 'key', 'value'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_before_any_work(
    settings: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValidationError, match=problem):
        TypeAdapter(low_rank.Config).validate_python(settings)


def test_the_settings_by_default_are_valid_and_leave_half() -> None:
    assert low_rank.Config().share == 0.5
    assert TypeAdapter(low_rank.Config).validate_python({"rank": 16}).parameters is None


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"rank": 64}, r"0.query is \[64, 64\]: 64 is no lower rank"),
        ({"rank": 40}, "every matrix would stay whole.*a rank below 32"),  # 40 · (64 + 64) > 64 · 64
        ({"rank": 200, "layers": ("ffn_in",)}, "200 is no lower rank"),
        ({"ranks": {"7.query": 8}}, "'7.query' fits none of the matrices"),
        ({"ranks": {"0.query": 8}, "layers": ("key",)}, "'0.query' fits none of the matrices"),
        ({"ranks": {"*.query": 8, "0.*": 16}}, "two patterns give 0.query ranks, 8 and 16"),
        ({"embedding": 64}, "embedding is .*64.: 64 is no lower rank"),
        ({"parameters": 0.1}, "parameters: 0.1 of them is less than ranks of 8 have, 0.1"),
        ({"multiple_of": 64}, "every matrix would stay whole"),
    ],
)
def test_ranks_that_do_not_fit_the_model_are_refused_before_data_is_read(
    settings: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    def no_data() -> Dataset:
        raise AssertionError("data was read")

    within = Context(work=tmp_path, seed=17, threads=1, dataset=no_data)
    config = low_rank.Config(**{"multiple_of": 8, **settings})
    if settings == {"rank": 40}:
        config = dataclasses.replace(config, layers=("query", "key"))
    with pytest.raises(RecipeError, match=problem):
        low_rank.apply(made(), tmp_path / "out", config, within)


def test_ranks_go_by_name_then_by_pattern_and_are_rounded(tmp_path: Path) -> None:
    _, metrics = factorized(
        tmp_path, method="plain", ranks={"0.query": 9, "*.query": 21, "1.ffn_*": 12, "embedding": 24}
    )
    assert metrics["ranks"] == {"0.query": 8, "1.query": 24, "1.ffn_in": 16, "1.ffn_out": 16, "embedding": 24}
    assert metrics["whole"] == []


def test_matrices_whose_factors_would_be_larger_stay_whole_and_are_named(tmp_path: Path) -> None:
    out, metrics = factorized(tmp_path, method="plain", rank=32)  # 32 · (64 + 64) = 64 · 64; 32 · (64 + 256) < 64 · 256
    assert metrics["whole"] == [f"{n}.{kind}" for n in (0, 1) for kind in ("query", "key", "value", "output")]
    assert metrics["ranks"] == dict.fromkeys(["0.ffn_in", "0.ffn_out", "1.ffn_in", "1.ffn_out"], 32)
    model = checkpoint.load_model(out)
    assert isinstance(model.get_submodule(layers_of(model)[0].query), torch.nn.Linear)


def test_so_much_energy_is_kept_and_no_rank_more(tmp_path: Path) -> None:
    _, metrics = factorized(tmp_path, method="plain", energy=0.6, layers=("ffn_in", "ffn_out"))
    dense = checkpoint.load_model(made())
    assert len(metrics["ranks"]) == 4
    for name, item in matrices(dense, ["ffn_in", "ffn_out"], embedding=False).items():
        values = np.square(np.linalg.svd(dense.get_submodule(item.module).weight.detach().numpy(), compute_uv=False))
        rank = metrics["ranks"][name]
        assert values[:rank].sum() / values.sum() >= 0.6 > values[: rank - 8].sum() / values.sum()
        assert metrics["kept"][name] == pytest.approx(values[:rank].sum() / values.sum(), abs=1e-4)
    assert metrics["relative_error"] == pytest.approx(np.sqrt(1 - np.mean(list(metrics["kept"].values()))), abs=1e-4)


def test_it_is_not_done_twice(tmp_path: Path) -> None:
    assert low_rank.requires(["finetune"]) is None
    assert low_rank.requires(["finetune", "low_rank"]) == "it stands there already"
    once, _ = factorized(tmp_path / "once", method="plain")
    with pytest.raises(ModelError, match=r"0.\w+ is factorized already"):
        factorized(tmp_path / "twice", once, method="plain")


def test_pruned_shapes_are_factorized_as_they_are(tmp_path: Path) -> None:
    source = made()
    model = checkpoint.load_model(source)
    first, second = layers_of(model)
    surgery.keep_heads(model, first, [1])
    surgery.keep_neurons(model, second, range(96))
    pruned = save(model, source, tmp_path / "pruned")
    out, metrics = factorized(tmp_path, pruned, ranks={"*.query": 8, "1.ffn_in": 16})
    found = checkpoint.load_model(out)
    query, neurons = found.get_submodule(first.query), found.get_submodule(second.ffn_in)
    assert (query.out_features, query.rank, query.in_features) == (32, 8, 64)
    assert (neurons.out_features, neurons.rank, neurons.in_features) == (96, 16, 64)
    assert found.get_submodule(first.attention).num_attention_heads == 1
    assert metrics["parameters_before"] - metrics["parameters"] == (
        (32 * 64 - 8 * 96) + (64 * 64 - 8 * 128) + (96 * 64 - 16 * 160)
    )
    dense = checkpoint.load_model(pruned)
    multiply_out(dense, found, (first.query, second.query, second.ffn_in))
    assert np.abs(logits(found, batch(source)) - logits(dense, batch(source))).max() < 1e-4


def test_factors_are_trained_with_a_teacher_and_stay_factors(tmp_path: Path) -> None:
    training = TrainConfig(epochs=2, batch_size=8, learning_rate=2e-4, max_length=32)
    settings: dict[str, Any] = {"parameters": 0.3, "embedding": 16}
    out, metrics = factorized(tmp_path, finetune=training, teacher=Teacher(weight=1.0), **settings)
    untrained, _ = factorized(tmp_path / "untrained", **settings)
    assert metrics["steps"] == 8
    first, last = (epoch["loss"] for epoch in metrics["epochs"])
    assert last < 0.8 * first
    inputs, dense = batch(made()), checkpoint.load_model(made())
    models = [checkpoint.load_model(folder) for folder in (out, untrained)]
    trained, before = (float(np.abs(logits(model, inputs) - logits(dense, inputs)).mean()) for model in models)
    assert trained < 0.95 * before  # nearer to its teacher
    assert len(metrics["ranks"]) > 6
    for name, rank in metrics["ranks"].items():
        if name != "embedding":
            layer, kind = name.split(".")
            assert models[0].get_submodule(getattr(layers_of(models[0])[int(layer)], kind)).rank == rank


@pytest.mark.parametrize(("embedding", "tables"), [(None, 1), (16, 0)])
def test_a_graph_of_factors_fuses_as_the_dense_one_does(embedding: int | None, tables: int, tmp_path: Path) -> None:
    out, _ = factorized(tmp_path, method="plain", embedding=embedding)
    graph, engine = tmp_path / "onnx", tmp_path / "engine"
    graph.mkdir()
    engine.mkdir()
    found = export.apply(out, graph, export.Config(), context(tmp_path))
    assert found["max_difference"] < 1e-4
    metrics = onnxruntime.build(graph, engine, onnxruntime.Config(tune=False), context(tmp_path))
    fusion = metrics["fusion"]
    assert {name: fusion[name] for name in ("attention", "layer_norm", "gelu")} == {
        "attention": [2, 2], "layer_norm": [5, 5], "gelu": [2, 2],
    }  # fmt: skip
    # A table with a projection behind it is no sum of tables, and nothing of the kind is expected then.
    assert fusion.get("embed_layer_norm", [0, 0]) == [tables, tables]
