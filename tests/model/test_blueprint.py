from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from onnxruntime import InferenceSession

from tests.builders import context, sentences
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


def test_a_model_of_equal_shape_is_not_traced_again_and_gives_the_bytes_of_one_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces: list[str] = []
    trace = torch.onnx.export

    def counted(*arguments: Any, **settings: Any) -> Any:
        traces.append("traced")
        return trace(*arguments, **settings)

    monkeypatch.setattr(torch.onnx, "export", counted)
    monkeypatch.setattr(blueprint, "_blueprints", type(blueprint._blueprints)())

    def exported(source: Path, name: str) -> bytes:
        out = tmp_path / name
        (out / "onnx").mkdir(parents=True)
        export.apply(source, out / "onnx", export.Config(), context(out, sentences()))
        return (out / "onnx/model.onnx").read_bytes()

    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    first, second = classifier(tmp_path / "1", 1), classifier(tmp_path / "2", 2)
    one, other = exported(first, "one"), exported(second, "other")
    assert len(traces) == 1
    blueprint._blueprints.clear()
    assert exported(second, "anew") == other != one
    assert len(traces) == 2


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
