"""Fusion of every family's graph, float and int8, and what it must not fuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import transformers
from onnx import numpy_helper

from tests.builders import ARCHITECTURES, checkpoint_folder, context, onnx_folder, sentences
from tests.shared import once
from toolchain.core.stage import StageConfig
from toolchain.engines import onnxruntime as engine
from toolchain.engines.onnxruntime import fusion, fusion_count, fusion_mask, integer
from toolchain.engines.shared import fusion_claim
from toolchain.measure import isa
from toolchain.measure.machine import instruction_sets
from toolchain.model import checkpoint, export, scratch
from toolchain.optimize import dynamic_int8, static_int8

#: Of 2 layers: two residual layer-norms each and that of the embeddings.
WHOLE = {"attention": 2, "layer_norm": 5, "gelu": 2, "embed_layer_norm": 1, "residual": 5}

#: Int8 tables are no float tables: their layer-norm is that of a sum.
WHOLE_INT8 = WHOLE | {"embed_layer_norm": 0}

FAMILIES = sorted(ARCHITECTURES)

#: Without VNNI the sums of int8 products saturate, in the lowered graph alone; weights of 7 bits do not.
NARROW = not set(isa.WIDE) & set(instruction_sets())


def by_own_exporter(family: str) -> tuple[Path, Path]:
    """Checkpoint and graph of a classifier of two layers and two heads, by this program's exporter; to be read only."""
    folder = once(f"fusion-{family}", lambda out: _exported(family, out))
    return folder / "checkpoint", folder / "onnx"


def _exported(family: str, folder: Path) -> None:
    data = sentences()
    kin = "roberta" if family in ("xlm-roberta", "camembert") else family
    scratch.create(f"scratch:{kin}-2x64", data.train.texts, 17, folder / "encoder")
    model = checkpoint.load_for_training(folder / "encoder", data.labels, 17)
    for name, weight in model.named_parameters():  # the default start gives every text the same logits
        if weight.ndim == 2 and "embeddings" not in name:
            torch.nn.init.normal_(weight, std=0.15)
    source, out = folder / "checkpoint", folder / "onnx"
    source.mkdir()
    out.mkdir()
    tokenizer = checkpoint.load_tokenizer(folder / "encoder")
    checkpoint.save(model, tokenizer, source, max_length=32, labels=data.labels, pair=False)
    if kin != family:  # the same weights under another name
        config = checkpoint.read_json(source / "config.json")
        named = transformers.AutoConfig.for_model(family)
        architecture = transformers.AutoModelForSequenceClassification.from_config(named).__class__.__name__
        checkpoint.write_json(source / "config.json", config | {"model_type": family, "architectures": [architecture]})
    export.apply(source, out, export.Config(), context(folder, data))


@pytest.fixture(params=FAMILIES)
def exported(request: pytest.FixtureRequest) -> Path:
    """A family's graph."""
    return by_own_exporter(request.param)[1]


def logits(path: Path, batch: dict[str, Any]) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # the graph as written
    session = ort.InferenceSession(str(path), options)
    return session.run(None, {item.name: batch[item.name] for item in session.get_inputs()})[0]


def padded(rows: int, tokens: int) -> dict[str, Any]:
    """A batch whose rows have from 3 tokens to all of them."""
    ids = np.random.default_rng(rows).integers(4, 60, (rows, tokens))
    lengths = 3 + np.arange(rows) * (tokens - 3) // max(rows - 1, 1)
    mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def difference(one: Path, other: Path) -> float:
    batches = [padded(1, 3), padded(1, 20), padded(4, 9), padded(7, 31)]
    return max(float(np.abs(logits(one, batch) - logits(other, batch)).max()) for batch in batches)


def fused(path: Path, out: Path, **rules: bool) -> tuple[dict[str, int], dict[str, int]]:
    """Fuses a file into another; gives what had to be found and what was."""
    model = ir.load(path)
    expected = fusion_count.expected(model)
    assert fusion.fuse(model, **rules) > 0
    ir.save(model, out)
    return expected, fusion_count.found(Counter(node.op_type for node in ir.load(out).graph))


def test_every_family_fuses_completely_and_gives_the_same_logits(exported: Path, tmp_path: Path) -> None:
    expected, found = fused(exported / "model.onnx", tmp_path / "fused.onnx")
    assert expected == found == WHOLE
    assert difference(exported / "model.onnx", tmp_path / "fused.onnx") < 2e-6
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node)
    assert kinds["Softmax"] == kinds["Transpose"] == kinds["Where"] == 0  # no attention and no mask is left
    assert kinds["MultiHeadAttention"] == 2


@pytest.mark.parametrize("family", sorted({*fusion_claim.CLAIMED} - {*FAMILIES}))
def test_every_claimed_family_fuses_completely(family: str, tmp_path: Path) -> None:
    path = by_own_exporter(family)[1] / "model.onnx"
    expected, found = fused(path, tmp_path / "fused.onnx")
    assert expected == found
    assert found["attention"] == 2
    assert difference(path, tmp_path / "fused.onnx") < 5e-6


def test_families_that_fuse_completely_are_claimed() -> None:
    assert {*FAMILIES} <= {*fusion_claim.CLAIMED}


def test_an_incomplete_fusion_bars_only_where_complete_fusion_is_claimed(tmp_path: Path) -> None:
    short, whole = {"attention": [0, 2]}, {"attention": [2, 2]}
    claim = "a label only: complete fusion is claimed for albert, bert, camembert, distilbert, electra, roberta, "
    assert fusion_claim.record(whole, tmp_path) == {"fusion": whole}
    assert fusion_claim.record({}, tmp_path) == {}
    assert fusion_claim.record(short, tmp_path)["partly_fused"] == (
        f"{claim}xlm-roberta, and this model is of an unknown family"
    )
    checkpoint.write_json(tmp_path / "config.json", {"model_type": "modernbert"})
    assert fusion_claim.partly_fused(tmp_path).endswith(", and this model is modernbert")
    checkpoint.write_json(tmp_path / "config.json", {"model_type": "bert"})
    checkpoint.write_json(tmp_path / "history.json", {"techniques": [{"stage": "adopt", "technique": "adopt"}]})
    assert fusion_claim.partly_fused(tmp_path).endswith("and another program exported this graph")
    checkpoint.write_json(tmp_path / "history.json", {"techniques": [{"stage": "export", "technique": "export"}]})
    assert fusion_claim.record(short, tmp_path) == {"fusion": short}


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_as_pytorch_spells_it_by_default_fuses_too(family: str, tmp_path: Path) -> None:
    source = onnx_folder(family) / "model.onnx"  # scaled_dot_product_attention, with its guard against empty rows
    _, found = fused(source, tmp_path / "fused.onnx")
    assert found["attention"] == 2
    assert difference(source, tmp_path / "fused.onnx") < 5e-6


@pytest.mark.parametrize("quantize", ["dynamic", "symmetric", "asymmetric", "attention"])
def test_int8_graphs_fuse_completely(exported: Path, quantize: str, tmp_path: Path) -> None:
    out = tmp_path / "int8"
    out.mkdir()
    passes: dict[str, tuple[Callable[..., Any], StageConfig]] = {
        "dynamic": (dynamic_int8.apply, dynamic_int8.Config()),
        "symmetric": (static_int8.apply, static_int8.Config(reduce_range=NARROW)),
        "asymmetric": (static_int8.apply, static_int8.Config(symmetric=False, reduce_range=NARROW)),
        "attention": (static_int8.apply, static_int8.Config(attention=True, reduce_range=NARROW)),
    }
    apply, config = passes[quantize]
    apply(exported, out, config, context(tmp_path, sentences()))
    model = ir.load(out / "model.onnx")
    assert fusion_count.expected(model) == WHOLE_INT8
    fusion.fuse(model)
    integer.lower(model)
    ir.save(model, tmp_path / "fused.onnx")
    assert fusion_count.found(
        Counter(node.op_type for node in ir.load(tmp_path / "fused.onnx").graph)
    ) == WHOLE_INT8 | {"residual": 5}
    batch = padded(4, 9)
    same = logits(out / "model.onnx", batch).argmax(1) == logits(tmp_path / "fused.onnx", batch).argmax(1)
    assert same.all()
    assert difference(out / "model.onnx", tmp_path / "fused.onnx") < 0.12


def test_a_pair_that_rounds_attention_before_it_is_transposed_is_moved_behind_it(
    exported: Path, tmp_path: Path
) -> None:
    """As NNCF places it where nothing is smoothed: in ALBERT, and with ``smooth_quant_alpha: 0``."""
    model = onnx.load(exported / "model.onnx")
    scale, zero = numpy_helper.from_array(np.float32(0.02), "s"), numpy_helper.from_array(np.int8(0), "z")
    model.graph.initializer.extend([scale, zero])
    readers = {name: node for node in model.graph.node for name in node.input}
    for softmax in [node for node in model.graph.node if node.op_type == "Softmax"]:
        product = readers[softmax.output[0]]
        while product.op_type != "MatMul":
            product = readers[product.output[0]]
        value, name = product.output[0], f"{product.output[0]}.exact"
        product.output[0] = name
        at = list(model.graph.node).index(product) + 1
        model.graph.node.insert(at, onnx.helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}.q"]))
        model.graph.node.insert(at + 1, onnx.helper.make_node("DequantizeLinear", [f"{name}.q", "s", "z"], [value]))
    onnx.save(model, tmp_path / "pairs.onnx")
    expected, found = fused(tmp_path / "pairs.onnx", tmp_path / "fused.onnx")
    assert expected["attention"] == found["attention"] == 2
    nodes = onnx.load(tmp_path / "fused.onnx").graph.node
    made = {node.output[0] for node in nodes if node.op_type == "MultiHeadAttention"}
    assert {node.input[0] for node in nodes if node.op_type == "QuantizeLinear"} == made
    assert difference(exported / "model.onnx", tmp_path / "fused.onnx") > 0
    assert difference(tmp_path / "pairs.onnx", tmp_path / "fused.onnx") < 0.02  # a number may round the other way


def test_a_graph_of_nodes_without_names_fuses_and_loads(tmp_path: Path) -> None:
    source = by_own_exporter("bert")[1] / "model.onnx"
    model = onnx.load(source)
    for node in model.graph.node:
        node.ClearField("name")
    onnx.save(model, tmp_path / "unnamed.onnx")
    expected, found = fused(tmp_path / "unnamed.onnx", tmp_path / "fused.onnx")
    assert expected == found == WHOLE
    assert difference(source, tmp_path / "fused.onnx") < 2e-6


def test_symmetric_products_become_integer_products(exported: Path, tmp_path: Path) -> None:
    static_int8.apply(exported, tmp_path, static_int8.Config(calibration="min_max"), context(tmp_path, sentences()))
    model = ir.load(tmp_path / "model.onnx")
    products = sum(node.op_type == "MatMul" for node in model.graph) - 4  # less the two inside each attention
    assert integer.lower(model) > 0
    kinds = Counter(node.op_type for node in model.graph)
    assert kinds["MatMulIntegerToFloat"] == products >= 12
    assert kinds["MatMul"] == 4
    zeros = [v.const_value for v in model.graph.initializers.values() if v.name.endswith(".unsigned")]
    assert zeros
    assert all(int(zero.numpy().reshape(-1)[0]) == 128 for zero in zeros if zero is not None)


def test_what_reads_a_quantized_activation_and_is_no_product_reads_the_float(exported: Path, tmp_path: Path) -> None:
    static_int8.apply(exported, tmp_path, static_int8.Config(calibration="min_max"), context(tmp_path, sentences()))
    model = ir.load(tmp_path / "model.onnx")
    integer.lower(model)
    left = [node for node in model.graph if node.op_type == "DequantizeLinear"]
    assert len(left) == 3  # words, types, positions: after the lookup
    assert all(_is_lookup(node.inputs[0]) for node in left)


def _is_lookup(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    return node is not None and node.op_type == "Gather"


def test_the_mask_is_read_as_it_came_in(exported: Path, tmp_path: Path) -> None:
    fused(exported / "model.onnx", tmp_path / "fused.onnx")
    nodes = [n for n in onnx.load(tmp_path / "fused.onnx").graph.node if n.op_type == "MultiHeadAttention"]
    assert {len(node.input) for node in nodes} == {5}  # query, key, value, no bias, padding mask; nothing is added
    assert len({node.input[4] for node in nodes}) == 1


def test_a_mask_that_is_not_the_padding_mask_is_added_as_it_is(tmp_path: Path) -> None:
    """A causal model's mask: whoever took it for padding would let words see what comes after them."""
    model = onnx.load(onnx_folder() / "model.onnx")
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    causal = np.triu(np.full((1, 1, 16, 16), -1e9, dtype=np.float32), 1)
    model.graph.initializer.append(numpy_helper.from_array(causal, "causal"))
    made = onnx.helper.make_node("Add", [softmax.input[0], "causal"], ["masked"])
    softmax.input[0] = "masked"
    model.graph.node.insert(list(model.graph.node).index(softmax), made)
    onnx.save(model, tmp_path / "causal.onnx")
    fused(tmp_path / "causal.onnx", tmp_path / "fused.onnx")
    batch = padded(3, 16)
    assert np.abs(logits(tmp_path / "causal.onnx", batch) - logits(tmp_path / "fused.onnx", batch)).max() < 5e-6


def test_a_window_of_attention_is_not_taken_for_padding() -> None:
    """Texts shorter than the window would never tell."""
    make = onnx.helper.make_node
    nodes = [
        make("Cast", ["attention_mask"], ["kept"], to=onnx.TensorProto.FLOAT), make("Sub", ["one", "kept"], ["cut"]),
        make("Mul", ["cut", "least"], ["rows"]), make("Unsqueeze", ["rows", "axes"], ["padding"]),
        make("Shape", ["attention_mask"], ["count"], start=1, end=2), make("Squeeze", ["count"], ["tokens"]),
        make("Range", ["zero", "tokens", "step"], ["row"]), make("Unsqueeze", ["row", "last"], ["column"]),
        make("Sub", ["row", "column"], ["signed"]), make("Abs", ["signed"], ["distance"]),
        make("Greater", ["distance", "reach"], ["far"]), make("Where", ["far", "least", "none"], ["local"]),
        make("Add", ["padding", "local"], ["both"]),
    ]  # fmt: skip
    constants = {
        "one": np.array(1, np.float32), "least": np.array(-1e9, np.float32), "none": np.array(0, np.float32),
        "axes": np.array([1, 2]), "zero": np.array(0), "step": np.array(1), "last": np.array([1]),
        "reach": np.array(64),
    }  # fmt: skip
    made = onnx.helper.make_graph(
        nodes, "mask",
        [onnx.helper.make_tensor_value_info("attention_mask", onnx.TensorProto.INT64, ["batch", "tokens"])],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("padding", "both")],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    model = ir.from_proto(onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10))
    padding, both = model.graph.outputs
    assert fusion_mask.is_padding_mask(model, padding)
    assert not fusion_mask.is_padding_mask(model, both)


def test_layers_with_different_numbers_of_heads_fuse(tmp_path: Path) -> None:
    source = checkpoint_folder("bert")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source, attn_implementation="eager").eval()
    own = model.bert.encoder.layer[0].attention
    with torch.no_grad():  # 3 of 4 heads of 16 stay in the first layer
        for name in ("query", "key", "value"):
            linear = getattr(own.self, name)
            linear.weight = torch.nn.Parameter(linear.weight[:48].clone())
            linear.bias = torch.nn.Parameter(linear.bias[:48].clone())
        own.output.dense.weight = torch.nn.Parameter(own.output.dense.weight[:, :48].clone())
    own.self.num_attention_heads, own.self.all_head_size = 3, 48
    example = {name: torch.from_numpy(value) for name, value in padded(2, 8).items()}
    axes = {0: "batch", 1: "tokens"}
    program = torch.onnx.export(
        model, (), kwargs=example, dynamo=True, opset_version=20, verbose=False,
        dynamic_shapes=dict.fromkeys(example, axes),
    )  # fmt: skip
    assert program is not None
    program.save(str(tmp_path / "pruned.onnx"))
    _, found = fused(tmp_path / "pruned.onnx", tmp_path / "fused.onnx")
    assert found["attention"] == 2
    nodes = [n for n in onnx.load(tmp_path / "fused.onnx").graph.node if n.op_type == "MultiHeadAttention"]
    heads = [next(a.i for a in node.attribute if a.name == "num_heads") for node in nodes]
    assert heads == [3, 4]
    assert difference(tmp_path / "pruned.onnx", tmp_path / "fused.onnx") < 5e-6


def test_layers_of_low_rank_factors_fuse(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported / "model.onnx")
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, factored = [], 0
    for node in model.graph.node:
        tensor = weights.get(node.input[1]) if node.op_type == "MatMul" else None
        if tensor is None or tensor.dims[1] != 64:
            nodes.append(node)
            continue
        left, values, right = np.linalg.svd(numpy_helper.to_array(tensor), full_matrices=False)
        low, high = f"{node.output[0]}.low", f"{node.output[0]}.high"
        model.graph.initializer.append(numpy_helper.from_array(left[:, :16] * values[:16], low))
        model.graph.initializer.append(numpy_helper.from_array(right[:16], high))
        nodes.append(onnx.helper.make_node("MatMul", [node.input[0], low], [f"{low}.out"]))
        nodes.append(onnx.helper.make_node("MatMul", [f"{low}.out", high], list(node.output)))
        factored += 1
    assert factored >= 8
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "factors.onnx")
    expected, found = fused(tmp_path / "factors.onnx", tmp_path / "fused.onnx")
    assert expected == found == WHOLE
    assert difference(tmp_path / "factors.onnx", tmp_path / "fused.onnx") < 5e-6


def test_weights_that_layers_share_stay_shared(tmp_path: Path) -> None:
    source, out = by_own_exporter("albert")
    built = tmp_path / "engine"
    built.mkdir()
    metrics = engine.build(out, built, engine.Config(), context(tmp_path))
    model = checkpoint.load_model(source)
    shared = 4 * sum(parameter.numel() for parameter in model.parameters())
    graph_bytes = 40_000  # nodes and names, of a model of 140 kB
    assert metrics["bytes"] <= shared * 1.05 + graph_bytes
    matrices = [t for t in onnx.load(built / "model.onnx").graph.initializer if list(t.dims) == [64, 256]]
    assert len(matrices) == 1  # the FFN's first, for both layers


def test_an_engine_says_what_was_fused(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "engine"
    out.mkdir()
    metrics = engine.build(exported, out, engine.Config(), context(tmp_path))
    plain = {"attention": [2, 2], "layer_norm": [5, 5], "gelu": [2, 2], "embed_layer_norm": [1, 1]}
    assert metrics["fusion"] == plain
    kinds = Counter(node.op_type for node in onnx.load(out / "model.onnx").graph.node)
    assert kinds["SkipLayerNormalization"] == kinds["BiasGelu"] == 0  # slow on a CPU


@pytest.mark.parametrize(
    ("settings", "kept"),
    [({"attention": "plain"}, {"layer_norm", "gelu", "embed_layer_norm"}), ({"optimization": "basic"}, set())],
)
def test_what_is_not_to_be_fused_is_not_counted(
    exported: Path, settings: dict[str, Any], kept: set[str], tmp_path: Path
) -> None:
    out = tmp_path / "engine"
    out.mkdir()
    assert set(engine.build(exported, out, engine.Config(**settings), context(tmp_path))["fusion"]) == kept


def test_a_graph_whose_attention_is_broken_up_is_found_out(exported: Path, tmp_path: Path) -> None:
    """The planted fault: something between scores and softmax that no fused operator computes."""
    model = onnx.load(exported / "model.onnx")
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    made = onnx.helper.make_node("Tanh", [softmax.input[0]], ["capped"])
    softmax.input[0] = "capped"
    model.graph.node.insert(list(model.graph.node).index(softmax), made)
    (tmp_path / "broken").mkdir()
    onnx.save(model, tmp_path / "broken" / "model.onnx")
    out = tmp_path / "engine"
    out.mkdir()
    metrics = engine.build(tmp_path / "broken", out, engine.Config(), context(tmp_path))
    assert metrics["fusion"]["attention"] == [1, 2]
