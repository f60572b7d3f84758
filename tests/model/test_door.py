"""What strangers' tokenizers and graphs do to native code is done to a child, in bounded time and memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny
from toolchain.core.errors import ModelError
from toolchain.model import door, tokens


def _tokenizer(folder: Path, change: Callable[[dict[str, Any]], object] = lambda record: None) -> Path:
    """Write a small tokenizer of words, changed."""
    record: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "good": 1, "movie": 2}, "unk_token": "[UNK]"},
    }  # fmt: skip
    change(record)
    (folder / "tokenizer.json").write_text(json.dumps(record), "utf-8")
    return folder


def _repeats(times: int) -> Callable[[dict[str, Any]], object]:
    """A template that puts a text many times in a row."""
    single = [{"Sequence": {"id": "A", "type_id": 0}}] * times
    pair = [*single, {"Sequence": {"id": "B", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {}}
    return lambda record: record.update(post_processor=template)


def _grows(record: dict[str, Any]) -> None:
    """A normalizer that makes 10 ** 12 letters of one."""
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}
    record["normalizer"] = {"type": "Sequence", "normalizers": [step] * 6}


def test_a_sound_tokenizer_is_tried_once_in_less_than_a_second(tmp_path: Path) -> None:
    _tokenizer(tmp_path)
    door.admit(tmp_path)
    began = time.perf_counter()
    door.admit(tmp_path)
    assert time.perf_counter() - began < 0.05


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda record: record.update(pre_tokenizer={"type": "FixedLength", "length": 0}), "PanicException: chunk"),
        (_repeats(50), "tokens of a text of"),
        (_grows, "takes more than 512 MiB of memory"),
        (lambda record: record.update(model={"type": "WordLevel"}), "cannot be used as a tokenizer"),
        (lambda record: record.update(model={"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}), "cannot be used"),
    ],
    ids=["panic", "template", "memory", "model", "merges"],
)  # fmt: skip
def test_a_tokenizer_that_panics_or_takes_too_much_is_refused_and_named(
    change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLCHAIN_LIMIT_DOOR_MIB", "512")
    with pytest.raises(ModelError) as caught:
        door.admit(_tokenizer(tmp_path, change))
    assert caught.value.message.startswith(f"{tmp_path}/tokenizer.json cannot be used as a tokenizer: ")
    assert said in caught.value.message
    assert caught.value.hint


def test_a_file_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLCHAIN_LIMIT_DOOR_SECONDS", "1")
    monkeypatch.setattr(door, "_SCRIPT", tmp_path / "slow.py")
    (tmp_path / "slow.py").write_text(
        "import sys, json\nprint('trying', json.load(open(sys.argv[1]))['files'][0][1], flush=True)\nwhile True: pass\n"
    )
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be used as a tokenizer: .* more than 1 s") as caught:
        door.admit(_tokenizer(tmp_path))
    assert "TOOLCHAIN_LIMIT_DOOR_SECONDS" in caught.value.hint


def test_a_panic_past_the_door_is_one_sentence_too(tmp_path: Path) -> None:
    _tokenizer(tmp_path, lambda record: record.update(pre_tokenizer={"type": "FixedLength", "length": 0}))
    tokenizer = tokens.load_tokenizer(tmp_path / "tokenizer.json", 16)
    with pytest.raises(ModelError, match="the tokenizer cannot read these texts: PanicException: chunk size"):
        tokens.tokenize(tokenizer, [("good movie",)], 16)


def _graph(folder: Path, change: Callable[[Any], object] = lambda model: None) -> Path:
    """Write a graph of one operator, changed."""
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    graph = onnx.helper.make_graph(
        [node], "g", [value("x", onnx.TensorProto.FLOAT, ["batch", 2])], [value("y", onnx.TensorProto.FLOAT, None)],
        [weight],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    change(model)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_sound_graph_and_an_exported_one_come_in(tmp_path: Path) -> None:
    door.admit(graph=_graph(tmp_path))
    exported = tiny().artifact("onnx", "export").path
    door.admit(exported, exported / "model.onnx")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: setattr(model.opset_import[0], "version", 2**31 - 1), "of version 2147483647; allowed are 1 to"),
        (lambda model: setattr(model.opset_import[0], "version", -5), "of version -5; allowed are 1 to"),
        (lambda model: setattr(model, "ir_version", 2**40), "its format is of version"),
        (lambda model: model.graph.initializer[0].dims.__setitem__(0, -7), "has the shape"),
        (lambda model: model.graph.initializer[0].dims.__setitem__(0, 1 << 40), "has the shape"),
        (lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", -3), "a side of -3"),
        (lambda model: model.graph.node[0].input.__setitem__(0, "z"), "nothing computes 'z', which its operator M"),
        (lambda model: setattr(model.graph.output[0], "name", "z"), "nothing computes its output 'z'"),
        (lambda model: setattr(model.graph.initializer[0], "raw_data", b"1234567"), "has 7 bytes and needs 16"),
    ],
    ids=["far", "negative", "format", "shape", "large", "side", "input", "output", "bytes"],
)  # fmt: skip
def test_a_graph_of_unknown_versions_or_sizes_is_refused_and_named(
    change: Callable[[Any], object], said: str, tmp_path: Path
) -> None:
    path = _graph(tmp_path, change)
    with pytest.raises(ModelError) as caught:
        door.admit(graph=path)
    assert caught.value.message.startswith(f"{path} cannot be used as a graph: ")
    assert said in caught.value.message


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = _graph(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"product", b"prod\xff\xfet"))
    with pytest.raises(ModelError, match="cannot be used as a graph"):
        door.admit(graph=path)
