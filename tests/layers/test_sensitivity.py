from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from tests.builders import LABELS, MAX_LENGTH, checkpoint_folder, context, sentences
from toolchain.compress import gradient_prune, low_rank, magnitude_prune
from toolchain.compress.shared import time_table
from toolchain.compress.shared.pruning import Remove
from toolchain.core.data import Dataset
from toolchain.core.errors import ModelError, RecipeError
from toolchain.layers import sensitivity, trials
from toolchain.layers.trials import Dev
from toolchain.model import checkpoint, export, scratch
from toolchain.model.encoded import encode
from toolchain.model.train import accuracy

#: Few settings, of which each technique has one that removes half.
FEW: dict[str, Any] = {
    "heads": (0.5,), "ffn": (0.5, 0.75), "rank": (0.5,), "sparsity": (0.5,), "bits": (8, 2), "calibration_samples": 16,
}  # fmt: skip
#: Of ffn_in, 64 × 128 or 64 × 256: the largest multiple of 16 whose two factors have half of its numbers.
RANK = 16


@functools.cache
def dense(architecture: str = "bert") -> Path:
    """A checkpoint of two layers, 64 wide, that tells texts apart; never to be written to.

    BERT has 4 heads and 128 neurons, the others 2 heads and 256 neurons.
    """
    if architecture == "bert":
        return checkpoint_folder()
    folder, data = Path(tempfile.mkdtemp(prefix="toolchain-sensitivity-")), sentences()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    scratch.create(f"scratch:{architecture}-2x64", data.train.texts, 17, folder / "encoder")
    model = checkpoint.load_for_training(folder / "encoder", LABELS, 17)
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "embeddings" not in name:
            torch.nn.init.normal_(weight, std=0.15)
    tokenizer = checkpoint.load_tokenizer(folder / "encoder")
    (folder / "checkpoint").mkdir()
    checkpoint.save(model, tokenizer, folder / "checkpoint", max_length=MAX_LENGTH, labels=LABELS, pair=False)
    return folder / "checkpoint"


def measured(source: Path, work: Path, dataset: Dataset | None = None, **settings: Any) -> dict[str, Any]:
    out = work / "out"
    out.mkdir(parents=True, exist_ok=True)
    sensitivity.measure(source, out, sensitivity.Config(**(FEW | settings)), context(work / "work", dataset))
    found: dict[str, Any] = json.loads((out / sensitivity.SENSITIVITY_FILE).read_text())
    return found


@functools.cache
def record(architecture: str) -> dict[str, Any]:
    """The sensitivity of an unchanged small model, sparsity by magnitude."""
    folder = Path(tempfile.mkdtemp(prefix="toolchain-sensitivity-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return measured(dense(architecture), folder, criterion="magnitude")


def row(found: dict[str, Any], technique: str, layer: int | str, part: str, setting: float) -> dict[str, Any]:
    wanted = (technique, layer, part, setting)
    (one,) = (r for r in found["rows"] if (r["technique"], r["layer"], r["part"], r["setting"]) == wanted)
    return dict(one)


def dev_loss(folder: Path) -> tuple[float, float]:
    """Accuracy and loss of a checkpoint on dev."""
    model, tokenizer = checkpoint.load_model(folder), checkpoint.load_tokenizer(folder)
    data = encode(tokenizer, sentences().dev, MAX_LENGTH, checkpoint.model_inputs(model, tokenizer))
    return accuracy(model, data)


def without(folder: Path, layer: int) -> Path:
    """Makes a layer useless: nothing that it computes reaches the residual stream."""
    model, tokenizer = checkpoint.load_model(folder), checkpoint.load_tokenizer(folder)
    with torch.no_grad():
        for name in ("attention.output.dense", "output.dense"):
            module = model.get_submodule(f"bert.encoder.layer.{layer}.{name}")
            module.weight.zero_()
            module.bias.zero_()
    checkpoint.save(model, tokenizer, folder, max_length=MAX_LENGTH, labels=LABELS, pair=False)
    return folder


def layers_alone(architecture: str, index: int, value: float) -> tuple[float, ...]:
    """A part for one layer and none for the others."""
    count = 1 if architecture == "albert" else 2
    return tuple(value if layer == index else 0.0 for layer in range(count))


def compressed(architecture: str, technique: str, index: int, out: Path) -> Path:
    """What the technique itself makes of one layer, at the setting that removes half."""
    source, parts = dense(architecture), layers_alone(architecture, index, 0.5)
    out.mkdir()
    given = context(out)
    if technique in ("heads", "ffn"):
        remove = Remove(heads=parts) if technique == "heads" else Remove(ffn=parts)
        config = gradient_prune.Config(criterion="obs", remove=remove, calibration_samples=16)
        gradient_prune.apply(source, out, config, given)
    elif technique == "rank":
        low_rank.apply(source, out, low_rank.Config(ranks={f"{index}.ffn_in": RANK}, calibration_samples=16), given)
    else:
        magnitude_prune.apply(source, out, magnitude_prune.Config(sparsity=parts), given)
    return out


@pytest.mark.parametrize("technique", ["heads", "ffn", "rank", "sparsity"])
@pytest.mark.parametrize(("architecture", "index"), [("bert", 0), ("bert", 1), ("roberta", 1), ("albert", 0)])
def test_a_row_is_what_the_technique_itself_makes_of_that_layer(
    architecture: str, index: int, technique: str, tmp_path: Path
) -> None:
    part = {"rank": "ffn_in", "sparsity": "layer"}.get(technique, technique)
    found = row(record(architecture), technique, index, part, 0.5)
    out = compressed(architecture, technique, index, tmp_path / "out")
    right, loss = dev_loss(out)
    dense_right, dense_loss = dev_loss(dense(architecture))
    assert abs(loss - dense_loss) > 1e-5, "the test compares nothing"
    assert found["loss_increase"] == pytest.approx(loss - dense_loss, abs=2e-6)
    assert found["accuracy"] == right
    assert record(architecture)["dense"]["accuracy"] == dense_right
    if technique == "sparsity":
        return
    before, after = checkpoint.load_model(dense(architecture)), checkpoint.load_model(out)
    saved = checkpoint.count_parameters(before) - checkpoint.count_parameters(after)
    assert (found["parameters"], found["bytes"]) == (saved, 4 * saved)
    tokens = round(record(architecture)["dense"]["mean_tokens"])
    counted = [
        export.operations(checkpoint.load_model(folder, attention="eager"), tokens)
        for folder in (dense(architecture), out)
    ]
    assert counted[0] == record(architecture)["dense"]["flops"]
    assert found["flops"] == counted[0] - counted[1]


def test_a_layer_that_is_useless_is_the_least_sensitive(tmp_path: Path) -> None:
    found = measured(without(Path(shutil.copytree(dense(), tmp_path / "useless")), 1), tmp_path)
    useless = [r for r in found["rows"] if r["layer"] == 1]
    others = [r for r in found["rows"] if r["layer"] != 1]
    assert len(useless) == 12  # half the heads, two parts of the FFN, six matrices, sparsity, two widths
    assert max(max(abs(r["loss_increase"]), r["divergence"]) for r in useless) < 1e-7
    assert min(r["divergence"] for r in found["rows"]) > -1e-12
    assert {r["flips"] for r in useless} == {0}
    assert max(r["loss_increase"] for r in others) > 1e-3


def test_the_model_is_dense_again_after_every_trial() -> None:
    source = dense()
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = sensitivity.Config(**FEW)
    bench = trials.Bench(model, tokenizer, config, context(Path(tempfile.mkdtemp())), MAX_LENGTH)
    planned = bench.trials()
    assert {trial.technique for trial in planned} == set(sensitivity.TECHNIQUES)
    for trial in planned:
        with bench.changed(trial):
            changed = {name: value for name, value in model.state_dict().items()}
            assert any(name not in before or not torch.equal(value, before[name]) for name, value in changed.items())
        after = model.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_beginning_at_a_layer_changes_nothing_of_the_result() -> None:
    source = dense()
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    data = encode(tokenizer, sentences().dev, MAX_LENGTH, checkpoint.model_inputs(model, tokenizer))
    dev = Dev(model, data)
    whole = dev.judge()
    ran: list[int] = []
    model.bert.encoder.layer[0].register_forward_hook(lambda *given: ran.append(1))
    dev.begin_at(1)
    assert len(ran) == 1
    again = dev.judge(1)
    assert len(ran) == 1, "the first layer ran once more"
    assert (whole == again).all()
    assert dev.judge("embedding").shape == (len(data.labels), 2)
    assert len(ran) == 2


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_rounding_has_so_many_levels_for_each_output_channel(bits: int) -> None:
    weight = torch.randn(8, 400, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 9)[:, None]
    found = trials.rounded(weight, bits)
    step = weight.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
    assert ((found - weight).abs() <= step / 2 + 1e-6).all()
    assert max(len(set(row.tolist())) for row in found) <= 2**bits - 1
    assert (found.abs().amax(dim=1) - weight.abs().amax(dim=1)).abs().max() < 1e-5


def test_bits_save_bytes_and_nothing_else() -> None:
    # Six matrices of a layer: 4 × 64 × 64 and 2 × 64 × 128 numbers, and 5 × 64 + 128 channels with a scale each.
    numbers, channels = 32768, 448
    found = row(record("bert"), "bits", 0, "layer", 2)
    assert (found["bytes"], found["parameters"], found["flops"]) == (4 * numbers - numbers // 4 - 4 * channels, 0, 0)


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measured(dense(), tmp_path / "whole")
    journal = (tmp_path / "whole/work" / sensitivity.JOURNAL_FILE).read_text().splitlines(keepends=True)
    assert len(journal) == len(whole["rows"]) == 27
    work = tmp_path / "again/work"
    work.mkdir(parents=True)
    (work / sensitivity.JOURNAL_FILE).write_text("".join(journal[:20]) + journal[20][:30])
    made: list[trials.Trial] = []
    changed = trials.Bench.changed

    def noted(bench: trials.Bench, trial: trials.Trial) -> Any:
        made.append(trial)
        return changed(bench, trial)

    monkeypatch.setattr(trials.Bench, "changed", noted)
    again = measured(dense(), tmp_path / "again")
    assert len(made) == 27 - 20
    assert again == whole


def test_test_is_never_read_and_of_dev_no_more_than_asked(tmp_path: Path) -> None:
    data = sentences()
    unread: Any = None
    given = Dataset(data.train, data.dev, unread, LABELS)
    found = measured(dense(), tmp_path, given, dev_examples=5, heads=(), ffn=(), rank=(), sparsity=())
    assert found["dense"]["examples"] == 5
    assert record("bert")["dense"]["examples"] == 32
    assert {r["technique"] for r in found["rows"]} == {"bits"}


def test_labels_are_matched_by_name(tmp_path: Path) -> None:
    data = sentences()
    turned = Dataset(data.train, data.dev, data.test, LABELS[::-1])
    found = measured(dense(), tmp_path, turned, heads=(), ffn=(), rank=(), sparsity=())
    assert found["dense"]["accuracy"] == pytest.approx(1 - record("bert")["dense"]["accuracy"])
    other = Dataset(data.train, data.dev, data.test, ("bad", "good"))
    with pytest.raises(ModelError, match="was trained for the labels"):
        measured(dense(), tmp_path, other)


def test_settings_that_come_to_the_same_stand_once_and_those_that_do_not_fit_are_said(tmp_path: Path) -> None:
    # Of 4 heads 0.45 and 0.5 leave 2; ranks in multiples of 64 have no factors smaller than a matrix of 64 × 128.
    found = measured(dense(), tmp_path, heads=(0.45, 0.5), multiple_of=64, ffn=(0.5,), bits=(), sparsity=())
    assert [r["setting"] for r in found["rows"] if r["technique"] == "heads"] == [0.45, 0.45]
    assert found["notes"] == ["rank: none of 0.5 makes a layer smaller"]
    with pytest.raises(RecipeError, match=r"no setting fits this model: rank: none of 0\.5"):
        measured(dense(), tmp_path, heads=(), multiple_of=64, ffn=(), bits=(), sparsity=())
    with pytest.raises(ValueError, match="nothing is tried"):
        sensitivity.Config(heads=(), ffn=(), rank=(), sparsity=(), bits=())


def test_albert_has_one_layer_and_keeps_its_table() -> None:
    found = record("albert")
    assert [(size["runs"], size["hidden"]) for size in found["layers"]] == [(2, 64)]
    assert not found["tables"]["factors"]
    assert {r["layer"] for r in found["rows"] if r["technique"] == "rank"} == {0}


def test_a_checkpoint_that_is_factorized_is_measured_without_ranks(tmp_path: Path) -> None:
    thin = compressed("bert", "rank", 0, tmp_path / "thin")
    checkpoint.write_json(thin / "history.json", {"techniques": []})
    found = measured(thin, tmp_path)
    assert found["layers"][0]["ranks"] == {"ffn_in": 16}
    assert found["notes"] == ["rank: none of 0.5 makes a layer smaller"]
    assert {r["technique"] for r in found["rows"]} == {"heads", "ffn", "sparsity", "bits"}


def test_times_are_measured_once_and_change_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Watch:
        def __init__(self, *given: Any, **settings: Any) -> None:
            assert settings["batch_size"] == 4

        def __enter__(self) -> None: ...
        def __exit__(self, *error: object) -> None: ...

    def table(source: Path, work: Path, time: Any, multiple: int, tokenizer: Any) -> time_table.TimeTable:
        calls.append(multiple)
        return time_table.TimeTable(0.4, {1: 0.1, 4: 0.0}, {16: 0.2, 128: 0.0}, 2)

    monkeypatch.setattr(sensitivity, "stopwatch", Watch)
    monkeypatch.setattr(time_table, "measure", table)
    few: dict[str, Any] = {
        "heads": (0.5,),
        "ffn": (),
        "rank": (),
        "sparsity": (),
        "bits": (),
        "time": True,
        "batch_size": 4,
    }
    for _ in range(2):
        found = measured(dense(), tmp_path, **few)
    assert calls == [16]
    assert found["time"] == {
        "layer": 0.4,
        "depth": 2,
        "heads": {"1": 0.1, "4": 0.0},
        "neurons": {"16": 0.2, "128": 0.0},
    }
    timed, untimed = sensitivity.Config(time=True), sensitivity.Config()
    assert (sensitivity.tunes(timed), sensitivity.tunes(untimed)) == (True, False)
    assert "host" in sensitivity.fingerprint(timed)
    assert sensitivity.fingerprint(untimed) == {}


def test_the_plot_has_a_panel_for_each_technique_and_a_line_for_each_layer() -> None:
    svg = sensitivity.plot(record("bert"))
    root = ElementTree.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    texts = [element.text or "" for element in root.iter(f"{space}text")]
    assert [text for text in texts if text in sensitivity.TECHNIQUES] == [*sensitivity.TECHNIQUES] * 2
    assert texts[-3:] == ["embedding", "0", "1"]
    lines = [line for line in root.iter(f"{space}polyline") if line.get("points")]
    # Divergences and losses: both layers by five techniques, and the tables by rank and bits.
    assert len(lines) == 2 * (2 * 5 + 2)
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    points = [tuple(map(float, p.split(","))) for line in lines for p in str(line.get("points")).split()]
    assert all(0 < x < width and 0 < y < height for x, y in points)
