"""What every compression technique that is found keeps to, on all families; and that planted faults are noticed."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.builders import classifier_folder, context, elastic_folder, sentences, taught
from tests.contracts.compressed import check_claims, digest
from tests.tiny import call
from toolchain.compress.shared.pruning import Remove
from toolchain.core import registry
from toolchain.core.errors import ModelError
from toolchain.engines import onnxruntime as engine
from toolchain.model import checkpoint, export
from toolchain.model.train import TrainConfig

TRAINING = TrainConfig(epochs=2, batch_size=8, learning_rate=1e-3, max_length=32)
FAMILIES = ("bert", "roberta", "albert")

#: Techniques whose result is measured in time; two runs may choose differently.
MEASURED = [n for n in registry.names("compress") if hasattr(registry.get("compress", n).module, "tunes")]


def cases() -> list[tuple[str, Any]]:
    """Every technique with its defaults, with training, and with shapes removed, where it has such settings."""
    found = []
    for name in registry.names("compress"):
        config = registry.get("compress", name).config
        if name in ("latency_prune", "dynabert"):  # tests of their own: one is of this machine, one makes nothing less
            continue
        fields = {field.name for field in dataclasses.fields(config)}
        needs = config().finetune is not None if "finetune" in fields else False
        if name == "distill":  # a student of all layers is no smaller: that is for one which was pruned before
            inside = config().losses.__class__(hidden=1, embeddings=1, attention=1, relations=1)
            found += [(name, config(layers=1, finetune=TRAINING, losses=each)) for each in (config().losses, inside)]
            continue
        trained = {"finetune": TRAINING} if "finetune" in fields else {}
        found.append((name, config(**(trained if needs else {}))))
        if trained and not needs:
            found.append((name, config(**trained)))
        if "remove" in fields:
            found.append((name, config(remove=Remove(heads=0.5, ffn=0.5), **(trained if needs else {}))))
    return found


CASES = cases()
IDS = [f"{name}-{number}" for number, (name, _) in enumerate(CASES)]
each_case = pytest.mark.parametrize(("name", "config"), CASES, ids=IDS)


def in_turn() -> list[Any]:
    """Every case, and every technique with every family: its cases take them in turn, the last one what is left."""
    found = []
    for name in dict(CASES):
        own = [(case, label) for case, label in zip(CASES, IDS, strict=True) if case[0] == name]
        for number in range(max(len(own), len(FAMILIES))):
            case, label = own[min(number, len(own) - 1)]
            family = FAMILIES[number % len(FAMILIES)]
            found.append(pytest.param(*case, family, id=f"{label}-{family}"))
    return found


def compressed(name: str, config: Any, family: str, folder: Path) -> tuple[Path, Path, dict[str, Any]]:
    source, out = classifier_folder(family), folder / "out"
    out.mkdir(parents=True)
    (folder / "work").mkdir()
    if name == "subnetwork":  # of what was trained for it
        source = elastic_folder(family)
    given = taught(context(folder / "work", sentences()), source)
    metrics = registry.get("compress", name).module.apply(source, out, config, given)
    return source, out, metrics


def test_there_are_techniques() -> None:
    quantized = {"uniform_qat", "logarithmic_qat", "learned_qat"}
    assert quantized | {"magnitude_prune", "movement_prune", "gradient_prune", "low_rank", "vocabulary_prune"} <= {
        name for name, _ in CASES
    }


@pytest.mark.parametrize(("name", "config", "family"), in_turn())
def test_what_it_claims_is_on_disk_and_its_graph_agrees_and_fuses(
    name: str, config: Any, family: str, tmp_path: Path
) -> None:
    source, out, metrics = compressed(name, config, family, tmp_path)
    check_claims(source, out, metrics)
    graph, built = tmp_path / "onnx", tmp_path / "engine"
    graph.mkdir()
    built.mkdir()
    exported = export.apply(out, graph, export.Config(), context(tmp_path, sentences()))  # compares with PyTorch
    assert exported["max_difference"] <= 1e-4
    found = engine.build(graph, built, engine.Config(), context(tmp_path, sentences()))
    assert found["fusion"]["attention"]
    assert {kind: counts for kind, counts in found["fusion"].items() if counts[0] != counts[1]} == {}


@each_case
def test_two_runs_give_equal_bytes(name: str, config: Any, tmp_path: Path) -> None:
    digests = {digest(compressed(name, config, "bert", tmp_path / run)[1]) for run in ("a", "b")}
    assert len(digests) == 1


def test_latency_is_reached_or_said_to_be_out_of_reach(tmp_path: Path) -> None:
    """A machine that is too busy to tell is no fault, nor is more speed where nothing but a whole layer has left."""
    module = registry.get("compress", "latency_prune").module
    # Every size that is timed is traced: of 128, 256 and 384 neurons.
    config = module.Config(speedup=1.25, batch_size=8, calibration_samples=16, multiple_of=128)
    try:
        source, out, metrics = compressed("latency_prune", config, "bert", tmp_path)
    except ModelError as error:
        if "was not reached within" not in str(error) and "cannot be had" not in str(error):
            raise
        pytest.skip(f"this machine is too busy to time a tiny model: {error.message}")
    check_claims(source, out, metrics)
    whole = metrics["layers"] == 1 and [*metrics["heads"], *metrics["ffn"]] == [4, 512]
    assert metrics["speedup"] == pytest.approx(1.25, rel=0.05) or (whole and metrics["speedup"] > 1.25)


def planted(tmp_path: Path) -> tuple[Path, Path, dict[str, Any]]:
    """A technique that copies what it is given, and says the truth about it."""
    source, out = classifier_folder("bert"), tmp_path / "out"
    shutil.copytree(source, out)
    model = checkpoint.load_model(out)
    return source, out, {"parameters": checkpoint.count_parameters(model), "heads": [4, 4], "ffn": [512, 512]}


def test_a_technique_that_does_nothing_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="nothing is smaller"):
        check_claims(*planted(tmp_path))


@pytest.mark.parametrize(
    "claim",
    [
        {"heads": [2, 2]},
        {"ffn": [64, 64]},
        {"layers": 1},
        {"hidden": 64},
        {"sparsity": 0.5, "zeros": 1000, "pruned_weights": 2000},
        {"ranks": {"0.query": 8}},
        {"ranks": {}},
        {"tokens": 100},
        {"bits": {"layer 0 ffn": 4}},
        {"bits": {"layer 9 ffn": 4}},
        {"parameters": 1},
    ],
    ids=str,
)
def test_a_claim_that_is_not_so_is_noticed(claim: dict[str, Any], tmp_path: Path) -> None:
    source, out, metrics = planted(tmp_path)
    with pytest.raises((AssertionError, KeyError)):
        check_claims(source, out, metrics | claim)


def test_a_technique_that_cuts_what_it_does_not_name_is_noticed(tmp_path: Path) -> None:
    config = registry.get("compress", "magnitude_prune").config(remove=Remove(ffn=0.5))
    source, out, metrics = compressed("magnitude_prune", config, "bert", tmp_path)
    del metrics["ffn"]
    with pytest.raises(AssertionError, match="ffn went from"):
        check_claims(source, out, metrics)


def test_history_says_what_was_done_in_order_and_goes_on_through_fine_tuning(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        """\
task: {reviews: {train_size: 16, dev_size: 16, test_size: 16}}
model: scratch:bert-2x64
stages: [{finetune: {epochs: 1}}]
variants:
  both: [vocabulary_prune, {gradient_prune: {remove: {ffn: 0.5}, calibration_samples: 8}}, export]
""",
        "utf-8",
    )
    done = call("compress", "r.yaml", "--store", "store", "-o", "out", cwd=tmp_path)
    assert done.code == 0, done.stderr
    history = checkpoint.read_json(tmp_path / "out" / "history.json")["techniques"]
    assert [entry["technique"] for entry in history] == ["finetune", "vocabulary_prune", "gradient_prune"]
    assert history[2]["config"]["remove"]["ffn"] == 0.5
    task = "{reviews: {train_size: 16, dev_size: 16, test_size: 16}}"
    again = call(
        "finetune", "out", "--task", task, "--set", "finetune.epochs=1", "--store", "store", "-o", "again", cwd=tmp_path
    )
    assert again.code == 0, again.stderr
    history = checkpoint.read_json(tmp_path / "again" / "history.json")["techniques"]
    assert [entry["technique"] for entry in history][-2:] == ["gradient_prune", "finetune"]
