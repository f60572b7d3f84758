from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import LABELS, context, sentences
from tests.model.test_export import made
from tests.tiny import call, tiny
from toolchain.core import child
from toolchain.core.errors import GateError, ModelError
from toolchain.model import export, graph, optimum, tidy
from toolchain.runtime.predictor import Predictor

ARCHITECTURES = ("bert", "roberta", "albert")

TASK = "{reviews: {train_size: 32, dev_size: 16, test_size: 24}}"
BRIEFLY = ("--set", "benchmark={batch_sizes: [1, 4], seconds: 0.02, rounds: 3, sample: 8, warmup: 1, threads: 1}")
TEXTS = [("a warm and funny film",), ("dull",), ("the plot is thin and the jokes are old , and it never ends",)]


def in_optimum(python: str, work: Path, **asked: Any) -> dict[str, Any]:
    script = Path(__file__).with_name("in_optimum.py")
    return child.run(script, asked, python=python, work=work, threads=1, what="Optimum")


def their_export(python: str, source: Path, out: Path, optimize: str = "") -> Path:
    in_optimum(python, out.parent / "work", export=str(source), out=str(out), optimize=optimize)
    return out


def logits(path: Path, inputs: dict[str, Any]) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {item.name: inputs[item.name] for item in session.get_inputs()})[0]


def inputs_of(folder: Path) -> dict[str, Any]:
    """What our own predictor feeds the engine in that folder for TEXTS."""
    predictor = Predictor(folder, threads=1)
    return dict(predictor.collate(predictor.encode(TEXTS)))


def test_artifacts_of_every_stage_load_in_optimum_with_the_same_logits(optimum_python: str, tmp_path: Path) -> None:
    found = list(tiny().store.artifacts())
    graphs = [artifact.path for artifact in found if artifact.kind == "onnx"]
    engines = [artifact.path for artifact in found if artifact.kind == "engine"]
    assert (len(graphs), len(engines)) == (2, 2)  # fp32 and dynamic int8, as exported and as ONNX Runtime lowers them
    inputs = inputs_of(engines[0])
    asked = {"folders": [str(path) for path in graphs + engines], "inputs": {n: v.tolist() for n, v in inputs.items()}}
    theirs = in_optimum(optimum_python, tmp_path, **asked)
    for folder in graphs:
        assert np.abs(np.array(theirs["logits"][str(folder)]) - logits(folder / "model.onnx", inputs)).max() <= 1e-5
    for folder in engines:
        ours = Predictor(folder, threads=1).logits(TEXTS, sort=False)
        assert np.abs(np.array(theirs["logits"][str(folder)]) - ours).max() <= 1e-5
    assert {tuple(labels) for labels in theirs["labels"].values()} == {("negative", "positive")}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_family_loads_in_optimum_quantized_too(optimum_python: str, tmp_path: Path, architecture: str) -> None:
    source = made(tmp_path, architecture)
    folders = []
    for technique in ("dynamic_int8", "static_int8"):
        out = tmp_path / technique
        done = call(
            "optimize", str(source), "-t", technique, "--task", TASK, "--store", "store", "-o", str(out), cwd=tmp_path
        )
        assert done.code in (0, 3), done.stderr
        folders.append(out)
    ids = np.arange(12).reshape(2, 6) % 50 + 5
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    given = {name: value.tolist() for name, value in inputs.items() if architecture != "roberta" or "type" not in name}
    theirs = in_optimum(optimum_python, tmp_path, folders=[str(folder) for folder in folders], inputs=given)
    for folder in folders:
        assert np.abs(np.array(theirs["logits"][str(folder)]) - logits(folder / "model.onnx", inputs)).max() <= 1e-5


def test_a_folder_that_optimum_exported_is_quantized_built_and_measured(optimum_python: str, tmp_path: Path) -> None:
    theirs = their_export(optimum_python, tiny().artifact("checkpoint").path, tmp_path / "theirs")
    assert not (theirs / "interface.json").exists()
    common = ("--task", TASK, "--store", "store")
    done = call("optimize", str(theirs), "-t", "dynamic_int8", *common, "-o", "int8", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert call("build", str(theirs), *common, "-o", "engine", cwd=tmp_path).code == 0
    done = call("benchmark", str(theirs), "int8", *common, *BRIEFLY, "--json", cwd=tmp_path)
    assert done.code in (0, 3), done.stderr
    lines = {line["name"]: line for line in done.json["lines"]}
    assert len(lines) == 2
    ours = {line["variant"]: line for line in tiny().result.json["lines"]}
    assert lines["theirs/onnxruntime"]["accuracy_percent"] == ours["base"]["accuracy_percent"]
    assert lines["int8/onnxruntime"]["size_mb"] < lines["theirs/onnxruntime"]["size_mb"]


def test_labels_and_length_come_from_their_config(optimum_python: str, tmp_path: Path) -> None:
    source = made(tmp_path, "roberta")
    config = json.loads((source / "config.json").read_text())
    config |= {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}}
    (source / "config.json").write_text(json.dumps(config))
    theirs = their_export(optimum_python, source, tmp_path / "theirs")
    done = call("build", str(theirs), "--store", "store", "-o", "engine", cwd=tmp_path)
    assert done.code == 0, done.stderr
    interface = json.loads((tmp_path / "engine/interface.json").read_text())
    assert interface["labels"] == ["no", "yes"]
    # RoBERTa counts positions from pad_id + 1.
    assert interface["max_length"] == config["max_position_embeddings"] - config["pad_token_id"] - 1


def test_what_optimum_optimized_is_taken_in_as_onnx_runtimes_own(optimum_python: str, tmp_path: Path) -> None:
    theirs = their_export(optimum_python, tiny().artifact("checkpoint").path, tmp_path / "theirs", optimize="O2")
    done = call("benchmark", str(theirs), "--task", TASK, "--store", "store", *BRIEFLY, "--json", cwd=tmp_path)
    assert done.code in (0, 3), done.stderr
    kinds = {node.domain for node in graph.load(theirs / "model.onnx").graph.node}
    assert "com.microsoft" in kinds
    ours = {line["variant"]: line for line in tiny().result.json["lines"]}
    assert done.json["lines"][0]["accuracy_percent"] == ours["base"]["accuracy_percent"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_optimums_exporter_passes_our_gate_and_shares_what_layers_share(
    optimum_python: str, tmp_path: Path, architecture: str
) -> None:
    source = made(tmp_path, architecture)
    (tmp_path / "out").mkdir()
    config = export.Config(exporter="optimum", python=optimum_python)
    metrics = export.apply(source, tmp_path / "out", config, context(tmp_path, sentences()))
    assert 0 < metrics["max_difference"] <= 1e-5
    assert metrics["exporter"]["optimum-onnx"] == "0.1.0"
    assert metrics["exporter"] == {name: export.fingerprint(config)[name] for name in optimum.LIBRARIES}
    assert metrics["opset"] == export.Config().opset
    model = graph.load(tmp_path / "out/model.onnx")
    assert model.opset_import[0].version == metrics["opset"]
    assert graph.parameters(model) == pytest.approx(metrics["parameters"], rel=0.02)
    assert [n.op_type for n in model.graph.node if n.op_type == "Transpose" and n.input[0] in {
        tensor.name for tensor in model.graph.initializer
    }] == []  # fmt: skip
    assert {"config.json", "tokenizer.json", "interface.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
    interface = json.loads((tmp_path / "out/interface.json").read_text())
    assert (interface["dialect"], tuple(interface["labels"])) == ("standard", LABELS)


def test_a_recipe_names_the_exporter_and_the_versions_are_in_its_key(optimum_python: str, tmp_path: Path) -> None:
    source = tiny().artifact("checkpoint").path
    sets = ("--set", "exporter=optimum", "--set", f"python={optimum_python}")
    done = call("export", str(source), "--task", TASK, *sets, "--store", "store", "--json", cwd=tmp_path)
    assert done.code == 0, done.stderr
    (made_now,) = done.json
    parts = json.loads((Path(tmp_path / made_now["path"]) / "manifest.json").read_text())["parts"]
    assert parts["fingerprint"]["transformers"] == made_now["metrics"]["exporter"]["transformers"]
    again = call("export", str(source), "--task", TASK, *sets, "--store", "store", "--json", cwd=tmp_path)
    assert [item["made"] for item in again.json] == [False]


def test_a_graph_of_optimums_that_differs_is_refused(
    optimum_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strip = tidy.strip

    def plant(model: Any) -> None:
        import onnx_ir

        strip(model)
        products = [n for n in model.graph if n.op_type == "MatMul" and n.inputs[1].const_value is not None]
        weight = products[-1].inputs[1]
        weight.const_value = onnx_ir.tensor(weight.const_value.numpy() * np.float32(-20), name=weight.name)

    monkeypatch.setattr(tidy, "strip", plant)
    source = made(tmp_path)
    (tmp_path / "out").mkdir()
    config = export.Config(exporter="optimum", python=optimum_python)
    with pytest.raises(GateError, match=r"differs from PyTorch by .* not known for such a graph"):
        export.apply(source, tmp_path / "out", config, context(tmp_path, sentences()))


def test_an_architecture_that_optimum_does_not_know_is_named(optimum_python: str, tmp_path: Path) -> None:
    import transformers

    config = transformers.FNetConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=1, intermediate_size=32, max_position_embeddings=32
    )
    transformers.FNetForSequenceClassification(config).save_pretrained(tmp_path / "fnet")
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=r"Optimum cannot export this architecture: .*fnet") as caught:
        optimum.export(
            tmp_path / "fnet", tmp_path / "out", opset=20, python=optimum_python, work=tmp_path / "work", threads=1
        )
    assert "exporter" in caught.value.hint


def test_an_opset_that_its_exporter_does_not_write_is_named(optimum_python: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="Optimum cannot export with opset 99") as caught:
        optimum.export(
            made(tmp_path), tmp_path / "out", opset=99, python=optimum_python, work=tmp_path / "work", threads=1
        )
    assert "opset" in caught.value.hint
