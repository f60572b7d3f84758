from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnxruntime import InferenceSession

from tests.builders import context, sentences
from toolchain.core import traces
from toolchain.model import blueprint, checkpoint, export, scratch


def classifier(folder: Path, seed: int) -> Path:
    """A classifier of one layer, 32 wide, with random weights; every seed has the same shapes."""
    data = sentences()
    scratch.create("scratch:bert-1x32", data.train.texts, 17, folder / "encoder")
    model = checkpoint.load_for_training(folder / "encoder", data.labels, seed)
    torch.manual_seed(seed)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    (folder / "checkpoint").mkdir()
    tokenizer = checkpoint.load_tokenizer(folder / "encoder")
    checkpoint.save(model, tokenizer, folder / "checkpoint", max_length=64, labels=data.labels, pair=False)
    return folder / "checkpoint"


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gets a word for each trace; no graph is in memory yet."""
    traces: list[str] = []
    trace = torch.onnx.export

    def counted(*arguments: Any, **settings: Any) -> Any:
        traces.append("traced")
        return trace(*arguments, **settings)

    monkeypatch.setattr(torch.onnx, "export", counted)
    monkeypatch.setattr(blueprint, "_blueprints", type(blueprint._blueprints)())
    return traces


def exported(source: Path, out: Path, folder: Path | None = None) -> bytes:
    (out / "onnx").mkdir(parents=True)
    given = dataclasses.replace(context(out, sentences()), traces=folder)
    export.apply(source, out / "onnx", export.Config(), given)
    return (out / "onnx/model.onnx").read_bytes()


def test_a_model_of_equal_shape_is_not_traced_again_and_gives_the_bytes_of_one_that_is(
    tmp_path: Path, traced: list[str]
) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    first, second = classifier(tmp_path / "1", 1), classifier(tmp_path / "2", 2)
    folder = tmp_path / "traces"
    one, other = exported(first, tmp_path / "one", folder), exported(second, tmp_path / "other")
    assert len(traced) == 1
    (kept,) = folder.iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    blueprint._blueprints.clear()  # as in another process
    assert exported(second, tmp_path / "anew", folder) == other != one
    assert len(traced) == 2
    blueprint._blueprints.clear()
    assert exported(first, tmp_path / "from the folder", folder) == one
    assert exported(second, tmp_path / "from memory") == other
    assert len(traced) == 2


def test_a_kept_graph_takes_nothing_but_weights_from_outside(tmp_path: Path) -> None:
    def graph(*, attribute: bool) -> bytes:
        tensor = onnx.TensorProto(name="bias", data_type=onnx.TensorProto.FLOAT, dims=[4])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")
        node = onnx.helper.make_node("Constant", [], ["bias"], value=tensor)
        made = onnx.helper.make_graph([node] if attribute else [], "graph", [], [], [] if attribute else [tensor])
        return bytes(onnx.helper.make_model(made).SerializeToString())

    for attribute in (False, True):
        traces.write(tmp_path, "key", graph(attribute=attribute))
        assert blueprint._read(tmp_path, "key", {}) is None
    traces.write(tmp_path, "key", graph(attribute=False))
    assert blueprint._read(tmp_path, "key", {"bias": torch.zeros(4)}) is not None


def test_what_is_kept_and_is_no_graph_is_traced_again(tmp_path: Path) -> None:
    traces.write(tmp_path, "key", b"\xff" * 40)
    assert blueprint._read(tmp_path, "key", {}) is None


def test_a_kept_graph_is_called_by_the_code_that_was_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def name(word: str) -> str:
        (tmp_path / f"{word}.py").write_text(f"import torch\n\nclass Own(torch.nn.Linear):\n    {word} = 1\n")
        module = __import__(word).Own(2, 2)
        type(module).__module__, type(module).__qualname__ = word, "Own"
        return blueprint._name("key", module)

    monkeypatch.syspath_prepend(tmp_path)
    names = {
        name("one"),
        name("other"),
        blueprint._name("key", torch.nn.Linear(2, 2)),
        blueprint._name("another", Scaled()),
    }
    assert len(names) == 4
    monkeypatch.setattr(blueprint, "version", lambda library: "another")
    assert blueprint._name("another", Scaled()) not in names
    assert blueprint._name("", Scaled()) == ""
    assert blueprint._name("key", type("Nowhere", (torch.nn.Module,), {"__module__": "nowhere"})()) == ""


class Scaled(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, scale: float = 2.0, width: int = 4, *, tied: bool = False, buffer: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.one, self.two = torch.nn.Linear(width, width), torch.nn.Linear(width, width)
        if tied:
            self.two.weight = self.one.weight
        self.register_buffer("ids", torch.full((2,), buffer), persistent=False)


def key(module: torch.nn.Module, settings: object = 20) -> str:
    return blueprint._key(module, {"x": torch.zeros(2, 4)}, settings)


def test_modules_with_other_weights_share_a_blueprint() -> None:
    assert key(Scaled()) == key(Scaled()) != ""


@pytest.mark.parametrize("settings", [{"scale": 3.0}, {"width": 8}, {"tied": True}, {"buffer": 2.0}])
def test_modules_that_compute_something_else_share_none(settings: dict[str, Any]) -> None:
    assert key(Scaled(**settings)) not in ("", key(Scaled()))


def test_what_cannot_be_compared_is_always_traced() -> None:
    module = Scaled()
    module.secret = torch.ones(2)
    assert key(module) == ""
    hooked = Scaled()
    hooked.one.register_forward_hook(lambda *_: None)
    assert key(hooked) == ""


class Shifted(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, shift: float) -> None:
        super().__init__()
        self.register_buffer("shift", torch.full((4,), shift))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.shift


def test_saved_buffers_come_with_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scales of quantization-aware training are such buffers."""
    monkeypatch.setattr(blueprint, "_blueprints", type(blueprint._blueprints)())
    x = torch.zeros(1, 4)
    traces = []

    def answer(module: torch.nn.Module) -> Any:
        def trace() -> Any:
            traces.append(module)
            return torch.onnx.export(module, (x,), dynamo=True, input_names=["x"], optimize=False, verbose=False)

        blueprint.traced(module, {"x": x}, 20, trace).save(tmp_path / "model.onnx")
        return InferenceSession(tmp_path / "model.onnx").run(None, {"x": x.numpy()})[0]

    assert answer(Shifted(1.0)).tolist() == [[1.0] * 4]
    assert answer(Shifted(2.0)).tolist() == [[2.0] * 4]
    assert len(traces) == 1
