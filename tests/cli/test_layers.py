from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.builders import checkpoint_folder, onnx_folder
from tests.layers.test_sensitivity import without
from tests.tiny import Result, call
from toolchain.core.store import Store

TASK = "{reviews: {train_size: 32, dev_size: 16, test_size: 24}}"

#: Few settings, so that a measurement takes a second.
FEW = (
    "sensitivity.heads=[0.5, 0.75]", "ffn=[0.5, 0.75]", "rank=[]", "sparsity=[]", "bits=[8, 4]",
    "calibration_samples=16",
)  # fmt: skip


def measure(folder: Path, *more: str) -> Result:
    sets = [word for text in FEW for word in ("--set", text)]
    return call("sensitivity", "model", "--task", TASK, "--store", "store", "--threads", "1", *sets, *more, cwd=folder)


@functools.cache
def measured() -> tuple[Path, Result]:
    """A folder with a model whose second layer is useless, and a store with its sensitivity; only to be added to."""
    folder = Path(tempfile.mkdtemp(prefix="toolchain-layers-"))
    without(Path(shutil.copytree(checkpoint_folder(), folder / "model")), 1)
    result = measure(folder, "--json", "-o", "sensitivity")
    assert result.code == 0, result.stderr
    return folder, result


def allocate(*arguments: str) -> Result:
    return call("allocate", *arguments, "--store", "store", cwd=measured()[0])


def test_what_is_measured_is_an_artifact_that_is_made_once() -> None:
    folder, first = measured()
    (found,) = first.json
    assert (found["kind"], found["made"], found["path"]) == ("sensitivity", True, "sensitivity")
    assert found["metrics"]["rows"] == len(found["record"]["rows"]) == 2 * (2 + 2 + 2) + 2
    assert found["record"]["task"] == {"reviews": {**found["record"]["task"]["reviews"], "dev_size": 16}}
    files = {path.name for path in (folder / "sensitivity").iterdir()}
    assert files == {"manifest.json", "sensitivity.json", "sensitivity.svg"}
    assert call("verify", "sensitivity", cwd=folder).code == 0
    (again,) = measure(folder, "--json").json
    assert (again["made"], again["key"]) == (False, found["key"])
    listed = call("list", "artifacts", "--store", "store", "--json", cwd=folder).json["artifacts"]
    assert found["key"][:12] in {item["key"] for item in listed if item["kind"] == "sensitivity"}
    (other,) = measure(folder, "--set", "sensitivity.ffn=[0.25]", "--json").json
    assert (other["made"], other["key"] == found["key"]) == (True, False)
    Store(folder / "store").remove(Store(folder / "store").resolve(other["key"]))


def test_the_table_has_a_row_for_each_layer_and_a_column_for_each_setting() -> None:
    text = measure(measured()[0]).stdout
    assert text.startswith("dense: dev accuracy ")
    heads = text.partition("\nheads: ")[2].partition("\nffn: ")[0].splitlines()
    assert heads[1].split() == ["layer", "0.5", "0.75"]
    assert [line.split()[0] for line in heads[2:5]] == ["0", "1", "saves"]
    assert heads[3].split()[1:] == ["0.0000", "+0.0000", "(+0.0)"] * 2, "the layer that is useless"
    bits = text.partition("\nbits: ")[2].splitlines()
    assert [line.split()[0] for line in bits[2:6]] == ["embedding", "0", "1", "saves"]


def test_a_dry_run_says_what_would_be_measured_and_measures_nothing(tmp_path: Path) -> None:
    shutil.copytree(checkpoint_folder(), tmp_path / "model")
    result = measure(tmp_path, "--dry-run")
    assert result.code == 0, result.stderr
    assert "sensitivity" in result.stdout
    assert not (tmp_path / "store").exists()


def test_a_recipe_is_measured_on_its_first_model_as_it_is_fine_tuned(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        f"task: {TASK}\nmodels: {{first: scratch:bert-1x32, second: scratch:bert-2x32}}\n"
        "stages: [{finetune: {epochs: 1}}]\nvariants: {base: [export], int8: [export, dynamic_int8]}\n"
    )
    sets = (
        "--set",
        "sensitivity.bits=[8]",
        *(w for n in ("heads", "ffn", "rank", "sparsity") for w in ("--set", f"sensitivity.{n}=[]")),
    )
    result = call("sensitivity", "r.yaml", "--store", "store", "--json", *sets, cwd=tmp_path)
    assert result.code == 0, result.stderr
    assert len(result.json[0]["record"]["layers"]) == 1
    made = [artifact.manifest["parts"]["stage"] for artifact in Store(tmp_path / "store").artifacts()]
    assert made == ["finetune", "sensitivity"]


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["sensitivity.hedas=[0.5]"], "hedas"),
        (["hedas=[0.5]"], "did you mean 'heads'"),
        (["heads=[1.5]"], "1.5 is not below 1"),
        (["bits=[5]"], "5"),
        (["heads=0.5"], "heads"),
    ],
)
def test_settings_that_are_none_are_named(sets: list[str], says: str) -> None:
    result = measure(measured()[0], *(word for text in sets for word in ("--set", text)))
    assert result.code == 1
    assert says in result.stderr


def test_a_graph_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    shutil.copytree(onnx_folder(), tmp_path / "model")
    result = measure(tmp_path)
    assert result.code == 1
    assert "is measured on a fine-tuned checkpoint, and model is of kind onnx" in result.stderr
    assert "give a checkpoint folder" in result.stderr


def test_the_layer_that_is_useless_is_cut_most() -> None:
    result = allocate("sensitivity", "--flops", "0.5", "--techniques", "heads,ffn", "--json")
    assert result.code == 0, result.stderr
    found = result.json["allocated"]
    remove = found["items"][0]["gradient_prune"]["remove"]
    assert (remove["heads"][1], remove["ffn"][1]) == (0.75, 0.75)
    assert 0 < remove["heads"][0] + remove["ffn"][0] < 1.0
    assert found["left"] <= 0.5
    assert found["cost"] < result.json["uniform"]["cost"]
    assert result.json["uniform"]["left"] <= 0.5


def test_a_folder_a_key_and_a_file_are_the_same_to_it() -> None:
    key = measured()[1].json[0]["key"]
    texts = {
        allocate(name, "--size", "0.5").stdout for name in ("sensitivity", key[:12], "sensitivity/sensitivity.json")
    }
    assert len(texts) == 1
    assert texts.pop().startswith("# ")


def test_the_fragment_is_a_variant_of_a_recipe() -> None:
    folder = measured()[0]
    for name, arguments in {"flops": ["--flops", "0.8"], "size": ["--size", "0.3"]}.items():
        fragment = allocate("sensitivity", *arguments).stdout
        (folder / f"{name}.yaml").write_text(f"task: {TASK}\nmodel: model\n{fragment}")
        result = call("validate", f"{name}.yaml", "--json", cwd=folder)
        assert result.json[0]["valid"], result.json
        assert result.json[0]["engines"] == ["allocated/onnxruntime"]


@pytest.mark.slow
def test_the_recipe_is_carried_out_and_its_sizes_are_those_that_were_allocated() -> None:
    folder = measured()[0]
    written = allocate("sensitivity", "--size", "0.3", "--techniques", "heads,ffn,bits", "-o", "made.yaml", "--json")
    assert written.code == 0, written.stderr
    assert call("validate", "made.yaml", cwd=folder).stdout.startswith("made.yaml: valid, ")
    # A matrix of 64 × 32 is not worth it, by default. Random weights flip labels at 4 bits, which is a gate: code 3.
    result = call(
        "build", "made.yaml", "--store", "store", "--json", "--threads", "1", "--set", "onnxruntime.tune=false",
        "--set", "weight_only.least_elements=1", cwd=folder,
    )  # fmt: skip
    assert result.code in (0, 3), result.stderr
    files = {item["label"].split(" · ")[0]: Path(item["path"]) / "model.onnx" for item in result.json}
    sizes = {name: (folder / path).stat().st_size for name, path in files.items()}
    assert set(sizes) == {"base", "allocated", "uniform"}
    whole = measured()[1].json[0]["record"]["dense"]["bytes"]
    for name in ("allocated", "uniform"):  # the graph itself, which is a tenth of so small a file, stays
        saved = (sizes["base"] - sizes[name]) / whole
        assert saved == pytest.approx(1 - written.json[name]["left"], abs=0.04)
    (pruned,) = (
        a for a in Store(folder / "store").artifacts()
        if a.manifest["parts"]["technique"] == "gradient_prune" and a.manifest["label"].startswith("allocated")
    )  # fmt: skip
    wanted = written.json["allocated"]["layers"]
    assert pruned.metrics["heads"] == [own.get("heads", 4) for own in wanted]
    assert pruned.metrics["ffn"] == [own.get("neurons", 128) for own in wanted]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "give one budget"),
        (["--size", "0.5", "--flops", "0.5"], 2, "give one budget"),
        (["--size", "1.5"], 2, "1.5"),
        (["--flops", "0.5", "--techniques", "haeds"], 1, "did you mean 'heads'"),
        (["--flops", "0.01"], 1, "the strongest settings that were measured leave 0."),
        (["--time", "0.5"], 1, "--set sensitivity.time=true"),
        (["--size", "0.5", "-o", "made.txt"], 1, "a recipe's name ends in .yaml"),
        (["--size", "0.5", "-o", "none/made.yaml"], 1, "cannot be written"),
    ],
)
def test_what_cannot_be_allocated_is_said(arguments: list[str], code: int, says: str) -> None:
    result = allocate("sensitivity", *arguments)
    assert result.code == code
    assert says in result.stderr
    assert result.stdout == ""


def test_what_is_no_sensitivity_is_refused(tmp_path: Path) -> None:
    folder, first = measured()
    checkpoint: Any = first.json[0]["record"]["checkpoint"]
    assert "is of kind checkpoint, and not a sensitivity" in allocate(checkpoint, "--size", "0.5").stderr
    assert "sensitivity.json is missing" in allocate("model", "--size", "0.5").stderr
    for text, says in (
        ("{", "is not valid JSON"),
        ("[]", "not a JSON object"),
        ("{}", "is not a sensitivity: version"),
    ):
        (folder / "bad.json").write_text(text)
        assert says in allocate("bad.json", "--size", "0.5").stderr
    old = json.loads((folder / "sensitivity/sensitivity.json").read_text()) | {"version": 9}
    (folder / "bad.json").write_text(json.dumps(old))
    assert "is not a sensitivity: version: Input should be 1" in allocate("bad.json", "--size", "0.5").stderr


def test_the_checkpoint_is_the_stores_or_the_one_that_is_named(tmp_path: Path) -> None:
    folder, _ = measured()
    record = str(folder / "sensitivity")
    lost = call("allocate", record, "--size", "0.5", "-o", "a.yaml", cwd=tmp_path)
    assert lost.code == 1
    assert "does not have the checkpoint" in lost.stderr
    named = call("allocate", record, "--size", "0.5", "-o", "a.yaml", "--model", str(folder / "model"), cwd=tmp_path)
    assert named.code == 0, named.stderr
    assert f"model: {folder / 'model'}\n" in (tmp_path / "a.yaml").read_text()
    assert call("allocate", record, "--size", "0.5", "-o", "a.yaml", cwd=tmp_path).code == 1, "it exists"
