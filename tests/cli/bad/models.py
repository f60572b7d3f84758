"""Bad model folders, ONNX files and engine folders, made from good ones."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cli.bad.case import Case, Prepare, both, files, nothing
from tests.tiny import tiny

TASK = ("--task", "{reviews: {train_size: 32, dev_size: 16, test_size: 24}}", "-q")


@functools.cache
def _encoder() -> Path:
    """An encoder as it comes from pre-training: no classifier on it."""
    from toolchain.model import scratch

    folder = tiny().root / "encoder"
    scratch.create("scratch:bert-1x32", [("a warm film",), ("a cold film",)], 17, folder)
    return folder


def _copied(source: Callable[[], Path], spoil: Callable[[Path], Any]) -> Prepare:
    """Copies a good folder to ``model`` and spoils it."""

    def prepare(folder: Path) -> None:
        spoil(Path(shutil.copytree(source(), folder / "model")))

    return prepare


def _checkpoint() -> Path:
    return tiny().artifact("checkpoint").path


def _onnx() -> Path:
    return tiny().artifact("onnx", "export").path


def _quantized() -> Path:
    return tiny().artifact("onnx", "dynamic_int8").path


def _engine() -> Path:
    return next(a.path for a in tiny().store.artifacts() if a.kind == "engine")


def _model(what: str, spoil: Callable[[Path], Any], *says: str, command: tuple[str, ...] = ("export",)) -> Case:
    return Case(what, (*command, "model", *TASK), _copied(_checkpoint, spoil), says)


def _head(what: str, config: dict[str, Any], *says: str) -> Case:
    """An encoder whose ``config.json`` says something else of its head."""

    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))

    return Case(what, ("export", "model", *TASK), _copied(_encoder, spoil), says)


def _adapter(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "org/base"})
    )


def _graph(what: str, spoil: Callable[[Path], Any], *says: str, argv: tuple[str, ...] = ("build", "model")) -> Case:
    return Case(what, (*argv, *TASK), _copied(_onnx, spoil), says)


def _cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def _written(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def _linked(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).symlink_to("/etc/passwd")


def _pipe(name: str) -> Callable[[Path], object]:
    return lambda folder: os.mkfifo(folder / name)


def _config(**changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        _plain(folder)
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def _plain(folder: Path) -> None:
    """Makes an artifact a folder as other tools write it."""
    for name in ("manifest.json", "interface.json", "history.json"):
        (folder / name).unlink(missing_ok=True)


def _graph_alone(folder: Path) -> None:
    """As tools write it that know nothing of labels."""
    _plain(folder)
    (folder / "config.json").unlink(missing_ok=True)


def _unpublished(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _edited(edit: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Edits the ONNX graph."""

    def spoil(folder: Path) -> None:
        import onnx

        _plain(folder)
        proto = onnx.load(folder / "model.onnx")
        edit(proto)
        onnx.save(proto, folder / "model.onnx")

    return spoil


def _pickle_only(folder: Path) -> None:
    _plain(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _flip(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return spoil


def _external(location: str) -> Callable[[Any], None]:
    def edit(proto: Any) -> None:
        import onnx

        tensor = max(proto.graph.initializer, key=lambda t: len(t.raw_data))
        onnx.external_data_helper.set_external_data(tensor, location)
        tensor.ClearField("raw_data")

    return edit


def _renamed(proto: Any) -> None:
    proto.graph.input[0].name = "tokens"
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = "tokens" if name == "input_ids" else name


def _without(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        _plain(folder)
        for name in names:
            (folder / name).unlink(missing_ok=True)

    return spoil


def _source(what: str, source: str, *says: str) -> Case:
    return Case(what, ("finetune", source, *TASK), nothing, says)


CASES = [
    _source("no such model folder", "./models/mine", "./models/mine", "hub id", "scratch:"),
    _source("a hub model, and the hub cannot be reached", "nobody/nothing", "nobody/nothing", "--model FOLDER"),
    _source("a package that is not installed", "package:no_such_package/model", "no_such_package", "pip install"),
    _source("an unknown architecture from scratch", "scratch:gpt-2x64", "scratch:gpt-2x64", "bert"),
    _source("a width from scratch that makes no heads", "scratch:bert-2x100", "multiple of 32", "2x128"),
    _source("scratch without a size", "scratch:bert", "scratch:bert", "scratch:bert-2x128"),
    Case("a model that is a file", ("finetune", "a.txt", *TASK), files(a_txt="x"), ("a.txt", "folder")),
    _model("a model folder without config.json", _without("config.json"), "config.json", "save_pretrained"),
    _model("a model folder without weights", _without("model.safetensors"), "safetensors", "save_pretrained"),
    _model("weights as a pickle", _pickle_only, "pickle", "save_pretrained"),
    _model("a model that brings code", _config(auto_map={"AutoConfig": "evil.C"}), "auto_map", "never done"),
    _model("a model that names a kernel", _config(attn_implementation="org/kernel"), "'org/kernel'", "eager, sdpa"),
    _model("weights for another package", _config(quantization_config={"quant_method": "gptq"}), "another package"),
    _model(
        "an index that names other files",
        both(
            _plain,
            _written("model.safetensors.index.json", '{"weight_map": {"classifier.bias": "../outside/x.safetensors"}}'),
        ),
        "../outside/x.safetensors",
        "own folder",
    ),
    _model("a link in a model folder", both(_plain, _linked("vocab.txt")), "vocab.txt is a symbolic link", "copy"),
    _model("a named pipe in a model folder", both(_plain, _pipe("vocab.txt")), "vocab.txt is a named pipe"),
    _model("weights cut short", both(_plain, _cut("model.safetensors", 9000)), "damaged", "download"),
    _model(
        "config.json that is no JSON",
        both(_plain, _written("config.json", '{"model_type": "be')),
        "config.json",
        "JSON",
    ),
    _model("an unknown architecture", _config(model_type="mystery"), "'mystery'", "loaded"),
    _model("an architecture that does not classify", _config(model_type="vit"), "'vit'", "classif"),
    _model("weights that do not fit the config", _config(hidden_size=64), "do not fit", "[64]"),
    _model("a model folder without tokenizer", _without("tokenizer.json", "tokenizer_config.json"), "tokenizer.json"),
    _model("a damaged tokenizer", both(_plain, _written("tokenizer.json", '{"version": "1.')), "tokenizer"),
    _model(
        "a model of other labels",
        _config(id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1}),
        "a, b",
        "negative, positive",
        command=("benchmark",),
    ),
    _head("an encoder that is not fine-tuned", {}, "embeddings (architectures BertModel)", "toolchain finetune model"),
    _head(
        "a model for several labels at once",
        {"architectures": ["BertForSequenceClassification"], "problem_type": "multi_label_classification"},
        "multi-label classification",
    ),
    _head(
        "a model that gives one score",
        {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}},
        "regression or cross-encoder scores (1 logit)",
    ),
    _head("a model that labels tokens", {"architectures": ["BertForTokenClassification"]}, "token classification"),
    _head("an encoder with a decoder", {"model_type": "t5"}, "encoder-decoder family (t5)"),
    Case(
        "an adapter of peft",
        ("export", "model", *TASK),
        _adapter,
        ("adapter (LORA) of org/base", "merge_and_unload"),
    ),
    Case(
        "a file of weights that is missing",
        ("export", "model", *TASK),
        _copied(_encoder, lambda f: (f / "model.safetensors").rename(f / "model-00001-of-00002.safetensors")),
        ("lacks 1 of 2 files of weights: model-00002-of-00002.safetensors",),
    ),
    _model(
        "max_length above the model's positions", _plain, "600", "512", command=("finetune", "--set", "max_length=600")
    ),
    _model("a checkpoint with a flipped byte", _flip("model.safetensors"), "model.safetensors", "changed"),
    _graph("no such ONNX file", nothing, "model/other.onnx", "no such file", argv=("build", "model/other.onnx")),
    _graph("an empty ONNX file", both(_plain, _cut("model.onnx", 0)), "model.onnx", "no graph"),
    _graph("an ONNX file cut short", both(_plain, _cut("model.onnx", 50_000)), "model.onnx", "ONNX"),
    _graph(
        "a file that is no ONNX",
        both(_plain, lambda f: (f / "model.onnx").write_bytes(b"GIF89a" * 99)),
        "model.onnx",
        "no ONNX file",
    ),
    _graph("ONNX weights outside the folder", _edited(_external("../../secret")), "'../../secret'", "own folder"),
    _graph("ONNX weights that are missing", _edited(_external("weights.bin")), "weights.bin", "missing"),
    _graph("an ONNX model of other inputs", _edited(_renamed), "tokens", "input_ids"),
    _graph("an ONNX file without a tokenizer", _without("tokenizer.json"), "tokenizer.json", "--tokenizer"),
    _graph(
        "--tokenizer that is not there",
        _plain,
        "nowhere",
        "tokenizer.json",
        argv=("build", "model", "--tokenizer", "nowhere"),
    ),
    _graph(
        "several ONNX files",
        both(
            _plain,
            lambda f: shutil.copy(f / "model.onnx", f / "b.onnx"),
            lambda f: (f / "model.onnx").rename(f / "a.onnx"),
        ),
        "2 ONNX files",
        "a.onnx",
    ),
    Case(
        "an ONNX model of another number of labels",
        ("build", "model", "--task", "{files: {train: a.csv}}", "-q"),
        both(
            _copied(_onnx, _graph_alone),
            files(a_csv="sentence,label\n" + "".join(f"t{i},{'abc'[i % 3]}\n" for i in range(30))),
        ),
        ("2 logits", "3 labels: a, b, c", "--task"),
    ),
    Case(
        "a quantized graph to quantize",
        ("optimize", "model", "-t", "static_int8", *TASK),
        _copied(_quantized, lambda f: None),
        ("quantized", "export gives"),
    ),
    _graph(
        "a pattern that matches no node",
        nothing,
        "no_such_node",
        "MatMul",
        argv=("optimize", "model", "-t", "dynamic_int8", "--set", "exclude=[no_such_node]"),
    ),
    Case("a technique that is none", ("optimize", "model", "-t", "int7", *TASK), nothing, ("int7", "dynamic_int8"), 2),
    Case("a stage without its technique", ("optimize", "model", *TASK), nothing, ("--technique", "static_int8"), 2),
    _graph(
        "an engine that is none", nothing, "'tensorflow'", "onnxruntime", argv=("build", "model", "-e", "tensorflow")
    ),
    _graph(
        "an ONNX file for an engine that runs checkpoints",
        nothing,
        "pytorch",
        "ONNX graph",
        argv=("benchmark", "model", "-e", "pytorch"),
    ),
    Case(
        "an engine to build again",
        ("optimize", "model", "-t", "dynamic_int8", *TASK),
        _copied(_engine, lambda f: None),
        ("model is an engine", "ONNX file"),
    ),
    Case(
        "--engine for what is an engine",
        ("benchmark", "model", "-e", "openvino", *TASK),
        _copied(_engine, lambda f: None),
        ("--engine", "built already"),
        2,
    ),
    Case(
        "an engine folder without interface.json",
        ("benchmark", "model", *TASK),
        _copied(_engine, _without("interface.json")),
        ("interface.json", "missing"),
    ),
    Case(
        "engine.json that is no JSON",
        ("benchmark", "model", *TASK),
        _copied(_engine, both(_unpublished, _written("engine.json", '{"engine": "onn'))),
        ("engine.json",),
    ),
    Case(
        "an engine with a flipped byte",
        ("benchmark", "model", *TASK),
        _copied(_engine, _flip("model.onnx")),
        ("model.onnx", "changed"),
    ),
    _graph(
        "the GPU asked for, and the wheel of the CPU",
        nothing,
        "provider cuda",
        "toolchain[gpu]",
        argv=("build", "model", "-e", "{onnxruntime: {provider: cuda}}"),
    ),
    Case(
        "-o to a folder that is not empty",
        ("export", "model", "-o", "model", *TASK),
        _copied(_checkpoint, lambda f: None),
        ("-o model", "not an empty folder"),
    ),
    Case(
        "--task that is none",
        ("export", "model", "--task", "sentiment"),
        _copied(_checkpoint, _plain),
        ("'sentiment'", "reviews"),
    ),
    Case(
        "--task that is no YAML",
        ("export", "model", "--task", "{reviews: "),
        _copied(_checkpoint, _plain),
        ("'{reviews: '", "YAML"),
    ),
    Case(
        "--model beside a model",
        ("export", "model", "--model", "x/y"),
        _copied(_checkpoint, _plain),
        ("--model", "TARGET"),
        2,
    ),
    Case(
        "a target given twice",
        ("benchmark", "model", "model", *TASK),
        _copied(_onnx, lambda f: None),
        ("model", "twice"),
    ),
    Case("nothing to measure", ("benchmark",), nothing, ("TARGETS",), 2),
]
