from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.builders import checkpoint_folder, context
from toolchain.core.data import Dataset, Split
from toolchain.core.errors import ModelError
from toolchain.model import adopt, vocabulary
from toolchain.model.checkpoint import read_json, write_json

#: Token ids of the tokenizer of the tiny checkpoint.
TOKENS = 200

Value = tuple[str, tuple[Any, ...]]


def graph_folder(
    folder: Path, *, nodes: tuple[Any, ...] = (), outputs: tuple[Value, ...] = (("logits", ("batch", 2)),),
    reads: tuple[Any, ...] = ("batch", "tokens"), rows: int = TOKENS, kind: int = TensorProto.FLOAT, width: int = 2,
) -> Path:  # fmt: skip
    """A folder with a tokenizer and a bag-of-words graph: ``scores [batch, width]`` and what the nodes make of it."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.normal(size=(rows, 8)).astype(np.float32), "table"),
        numpy_helper.from_array(random.normal(size=(8, width)).astype(np.float32), "weight"),
        numpy_helper.from_array(np.array([1]), "axis"),
    ]
    own = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("ReduceMean", ["tokens", "axis"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["scores"]),
    ]
    graph = helper.make_graph(
        [*own, *(nodes or (helper.make_node("Identity", ["scores"], ["logits"]),))], "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, reads)],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    shutil.copyfile(checkpoint_folder() / "tokenizer.json", folder / "tokenizer.json")
    shutil.copyfile(checkpoint_folder() / "interface.json", folder / "interface.json")
    return folder


def adopted(folder: Path, path: Path | None = None, data: Dataset | None = None) -> tuple[Path, dict[str, Any]]:
    """What adopting it gives, and the metrics."""
    out, work = folder / "out", folder / "work"
    out.mkdir()
    work.mkdir()
    return out, adopt.apply(adopt.Config(path=str(path or folder)), out, context(work, data))


def answers(path: Path) -> np.ndarray[Any, Any]:
    import onnxruntime

    ids = np.array([[5, 9, 17], [1, 2, 3]])
    found: np.ndarray[Any, Any] = onnxruntime.InferenceSession(str(path)).run(None, {"input_ids": ids})[0]
    return found


def _softmax(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    powers = np.exp(values)
    found: np.ndarray[Any, Any] = powers / powers.sum(axis=1, keepdims=True)
    return found


@pytest.mark.parametrize("activation", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("passing", [(), ("Identity",)])
def test_an_activation_at_the_end_is_taken_out(tmp_path: Path, activation: str, passing: tuple[str, ...]) -> None:
    nodes = [helper.make_node(activation, ["scores"], ["p" if passing else "probabilities"], axis=-1)]
    nodes += [helper.make_node(name, ["p"], ["probabilities"]) for name in passing]
    folder = graph_folder(tmp_path / "m", nodes=tuple(nodes), outputs=(("probabilities", ("batch", 2)),))
    out, metrics = adopted(folder)
    assert metrics["notes"] == [f"model.onnx ended with {activation}, which was taken out: engines answer logits"]
    assert activation not in {node.op_type for node in onnx.load(out / "model.onnx").graph.node}
    theirs = answers(folder / "model.onnx")
    theirs = np.exp(theirs) if activation == "LogSoftmax" else theirs
    np.testing.assert_allclose(_softmax(answers(out / "model.onnx")), theirs, atol=1e-6)


def test_a_softmax_of_several_nodes_is_refused(tmp_path: Path) -> None:
    nodes = (
        helper.make_node("Exp", ["scores"], ["powers"]),
        helper.make_node("ReduceSum", ["powers", "axis"], ["sum"], keepdims=1),
        helper.make_node("Div", ["powers", "sum"], ["logits"]),
    )
    with pytest.raises(ModelError, match="answers probabilities, whose activation could not be found"):
        adopted(graph_folder(tmp_path / "m", nodes=nodes))


def test_a_graph_of_one_number_is_taken_in_as_it_is_where_the_task_is_of_numbers(tmp_path: Path) -> None:
    nodes = (helper.make_node("Sigmoid", ["scores"], ["logits"]),)
    folder = graph_folder(tmp_path / "m", nodes=nodes, width=1, outputs=(("logits", ("batch", 1)),))
    write_json(folder / "interface.json", read_json(folder / "interface.json") | {"labels": ["score"]})
    split = Split([("a",), ("b",)], [0.25, 0.5], kind="regression")
    out, _ = adopted(folder, data=Dataset(split, split, split, ("score",)))
    assert read_json(out / "interface.json")["kind"] == "regression"
    np.testing.assert_array_equal(answers(out / "model.onnx"), answers(folder / "model.onnx"))


def test_a_sigmoid_is_taken_out_where_the_task_is_of_several_labels(tmp_path: Path) -> None:
    folder = graph_folder(tmp_path / "m", nodes=_last("Sigmoid"))
    split = Split([("a",), ("b",)], [(0, 1), (1, 1)], kind="multi_label")
    data = Dataset(split, split, split, ("negative", "positive"))
    out, metrics = adopted(folder, data=data)
    assert "ended with Sigmoid, which was taken out" in metrics["notes"][0]
    assert read_json(out / "interface.json")["kind"] == "multi_label"
    logits = answers(out / "model.onnx")
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), answers(folder / "model.onnx"), atol=1e-6)
    with pytest.raises(ModelError, match=r"is a graph for single-label classification .*last node is Softmax"):
        adopted(graph_folder(tmp_path / "other", nodes=_last("Softmax")), data=data)
    hidden = helper.make_node("Sigmoid", ["scores"], ["p"]), helper.make_node("Neg", ["p"], ["n"])
    nodes = (*hidden, helper.make_node("Neg", ["n"], ["logits"]))
    with pytest.raises(ModelError, match="answers probabilities, whose activation could not be found"):
        adopted(graph_folder(tmp_path / "hidden", nodes=nodes), data=data)


def test_other_outputs_than_the_logits_are_left_out(tmp_path: Path) -> None:
    nodes = (helper.make_node("Identity", ["mean"], ["hidden"]), helper.make_node("Identity", ["scores"], ["logits"]))
    folder = graph_folder(tmp_path / "m", nodes=nodes, outputs=(("hidden", ("batch", 8)), ("logits", ("batch", 2))))
    out, metrics = adopted(folder)
    assert [value.name for value in onnx.load(out / "model.onnx").graph.output] == ["logits"]
    assert metrics["notes"] == ["model.onnx has other outputs than its logits, which were left out: hidden"]


def _last(op: str, **attributes: Any) -> tuple[Any, ...]:
    return (helper.make_node(op, ["scores"], ["logits"], **attributes),)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"nodes": (helper.make_node("MatMul", ["tokens", "weight"], ["logits"]),),
          "outputs": (("logits", ("batch", "tokens", 2)),)}, "is a graph for token classification"),
        ({"width": 1, "outputs": (("logits", ("batch", 1)),)}, "is a graph for regression or cross-encoder scores"),
        ({"nodes": _last("Sigmoid")}, "is a graph for multi-label classification"),
        ({"nodes": _last("ArgMax", axis=1, keepdims=1), "kind": TensorProto.INT64}, "answers labels"),
        ({"nodes": (helper.make_node("Identity", ["tokens"], ["last_hidden_state"]),),
          "outputs": (("last_hidden_state", ("batch", "tokens", 8)),)}, "is a graph for embeddings"),
        ({"nodes": (helper.make_node("Identity", ["scores"], ["start_logits"]),
                    helper.make_node("Identity", ["scores"], ["end_logits"])),
          "outputs": (("start_logits", ("batch", 2)), ("end_logits", ("batch", 2)))}, "is a graph for question answer"),
        ({"reads": ("batch", "choices", "tokens")}, "is a graph for multiple choice"),
        ({"reads": (1, 128)}, r"input_ids has the fixed shape \[1, 128\].*"),
        ({"width": 3, "outputs": (("logits", None),)}, r"with the shape \[4, 3\]; a classifier of 2 labels gives"),
        ({"nodes": (helper.make_node("MatMul", ["tokens", "weight"], ["logits"]),), "outputs": (("logits", None),)},
         r"with the shape \[4, 7, 2\]"),
        ({"rows": 150}, "token ids up to 199, and its embeddings have 150 rows, for ids up to 149"),
    ],
)  # fmt: skip
def test_a_graph_that_answers_something_else_is_refused(tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        adopted(graph_folder(tmp_path / "m", **settings))


def test_a_config_beside_a_graph_says_what_it_is_for(tmp_path: Path) -> None:
    folder = graph_folder(tmp_path / "m")
    write_json(folder / "config.json", {"architectures": ["BertForTokenClassification"], "model_type": "bert"})
    with pytest.raises(ModelError, match="is a model for token classification"):
        adopted(folder)


def test_external_data_behind_links_of_the_hubs_cache_is_read_and_behind_others_is_not(tmp_path: Path) -> None:
    plain = graph_folder(tmp_path / "plain")
    cache = tmp_path / "models--org--name"
    blobs, snapshot = cache / "blobs", cache / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    model = onnx.load(plain / "model.onnx")
    onnx.save(model, blobs / "graph", save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    (blobs / "model.onnx.data").rename(blobs / "data")
    for name, blob in (("model.onnx", "graph"), ("model.onnx.data", "data")):
        (snapshot / name).symlink_to(os.path.relpath(blobs / blob, snapshot))
    for name in ("tokenizer.json", "interface.json"):
        shutil.copyfile(plain / name, snapshot / name)
    out, _ = adopted(snapshot)
    np.testing.assert_array_equal(answers(out / "model.onnx"), answers(plain / "model.onnx"))
    shutil.rmtree(snapshot / "out")
    shutil.rmtree(snapshot / "work")
    for linked in ("model.onnx", "model.onnx.data"):
        elsewhere = Path(
            shutil.copytree(snapshot, tmp_path / f"with-{linked.replace('.', '-')}")
        )  # what the links lead to
        (elsewhere / linked).unlink()
        (elsewhere / linked).symlink_to((snapshot / linked).resolve())
        with pytest.raises(ModelError, match=f"/{linked} is a symbolic link"):
            adopted(elsewhere)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint_folder(), tmp_path / "m"))
    tokenizer = read_json(folder / "tokenizer.json")
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer["added_tokens"] += [{"id": TOKENS + n, "content": f"<new{n}>", **added} for n in (0, 1)]
    write_json(folder / "tokenizer.json", tokenizer)
    assert vocabulary.largest_token(folder / "tokenizer.json") == TOKENS + 1
    says = rf"token ids up to {TOKENS + 1}, and its embeddings have {TOKENS} rows"
    with pytest.raises(ModelError, match=says) as caught:
        adopted(folder)
    assert f"resize_token_embeddings({TOKENS + 2})" in caught.value.hint
