from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import SENTENCES, classifier_folder
from tests.command import ROOT
from tests.tiny import call
from toolchain.core.errors import RecipeError
from toolchain.model import checkpoint
from toolchain.pipeline import document, inputs
from toolchain.pipeline import recipe as recipes

RECIPE = """\
task: {files: {train: train.csv}, text: text, label: label}
model: model
variants:
  base: [export]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a recipe, its model and its data, all sound."""
    shutil.copytree(classifier_folder(), tmp_path / "model")
    rows = [f'"{text}",{label}' for label in ("negative", "positive") for text in (f"{label} {s}" for s in SENTENCES)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows * 2]))
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def problems(folder: Path) -> list[str]:
    """What validation finds, without the folder's name."""
    written = document.read(folder / "r.yaml")
    try:
        inputs.check(written, recipes.parse(written))
    except RecipeError as error:
        return str(error).replace(f"{folder}/", "").splitlines()
    return []


def test_nothing_is_found_where_nothing_is_wrong(folder: Path) -> None:
    assert problems(folder) == []


def test_a_missing_file_and_a_missing_column_are_found_with_the_line(folder: Path) -> None:
    (folder / "r.yaml").write_text(RECIPE.replace("text: text", "text: txt"))
    (problem,) = problems(folder)
    assert problem.startswith("r.yaml:1:8: task.files: train.csv:1: no column 'txt'; columns present: 'text', 'label'")
    (folder / "train.csv").unlink()
    (problem,) = problems(folder)
    assert problem.startswith("r.yaml:1:8: task.files: train.csv: no such file")


def test_a_missing_model_folder_and_a_missing_tokenizer_are_found(folder: Path) -> None:
    for name in checkpoint.TOKENIZER_FILES:
        (folder / "model" / name).unlink(missing_ok=True)
    (problem,) = problems(folder)
    assert problem.startswith("r.yaml:2:1: model: model holds no tokenizer (write tokenizer.json into it")
    adopted = RECIPE.replace("model: model", "stages: [{adopt: {path: model}}]")
    (folder / "r.yaml").write_text(adopted + "  int8: [export, dynamic_int8]\n")
    (problem,) = problems(folder)  # once, where it is named, and not for each variant
    assert problem.startswith("r.yaml:2:10: stages[0]: model holds no tokenizer")
    (folder / "r.yaml").write_text(RECIPE)
    shutil.rmtree(folder / "model")
    (problem,) = problems(folder)
    assert problem.startswith("r.yaml:2:1: model: model source 'model': no such folder")


def test_labels_that_the_data_do_not_have_are_found(folder: Path) -> None:
    path = folder / "model" / "interface.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": ["bad", "good"]}))
    (problem,) = problems(folder)
    assert problem.startswith("r.yaml:2:1: model: model was trained for the labels bad, good")
    assert "--set adopt.labels='{bad: negative, good: positive}'" in problem
    (folder / "r.yaml").write_text(
        RECIPE.replace("model: model", "model: {source: model, adopt: {labels: {bad: negative, good: positive}}}")
    )
    assert problems(folder) == []


def test_a_length_that_the_model_does_not_read_is_found_before_training(folder: Path) -> None:
    (folder / "r.yaml").write_text(RECIPE.replace("[export]", "[{finetune: {max_length: 600}}, export]"))
    (problem,) = problems(folder)
    assert problem.startswith(
        "r.yaml:2:1: model: finetune.max_length: 600 is more than the 512 tokens that model reads"
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("scratch:bert-2x100", "layers must be 1 or more and the width a multiple of 32"),
        ("scratch:gpt-2x64", "no such architecture to make from scratch (known: bert, "),
    ],
)
def test_a_new_model_that_cannot_be_made_is_found(folder: Path, spec: str, message: str) -> None:
    (folder / "r.yaml").write_text(
        RECIPE.replace("model: model", f"model: {spec}").replace("[export", "[finetune, export")
    )
    (problem,) = problems(folder)
    assert problem.startswith(f"r.yaml:2:1: model: '{spec}': ")
    assert message in problem


def test_validate_loads_neither_torch_nor_transformers(folder: Path) -> None:
    code = (
        "import sys; from toolchain.cli import main\n"
        "try: main(['validate', *sys.argv[1:]])\n"
        "except SystemExit as ended: assert not ended.code, ended.code\n"
        "print(sorted({'torch', 'transformers', 'onnx', 'datasets'} & set(sys.modules)))"
    )
    files = [str(folder / "r.yaml"), str(ROOT / "recipes/smoke.yaml")]
    done = subprocess.run(
        [sys.executable, "-c", code, *files], capture_output=True, text=True, cwd=ROOT, check=False, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_validate_says_which_package_is_missing_and_what_brings_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = {"openvino": "missing"}
    monkeypatch.setattr("toolchain.pipeline.keys.installed", lambda name: absent.get(name, "1"))
    (folder / "r.yaml").write_text(RECIPE + "engines: [onnxruntime, openvino]\n")
    found = call("validate", "r.yaml", "--json", cwd=folder)
    assert found.code == 0, found.stderr
    (line,) = found.json[0]["packages"]
    assert line.startswith("r.yaml:5:24: the package openvino is not installed here (pip install ")
