"""The Python API: the same work as the commands, the same store, and the page that shows it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import toolchain
from tests.builders import classifier_folder
from tests.command import ROOT, python
from toolchain.cli import COMMANDS
from toolchain.core import registry
from toolchain.pipeline import direct

TASK: dict[str, Any] = {"reviews": {"train_size": 32, "dev_size": 16, "test_size": 24}}
CODE = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/python.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_to_import_it_loads_nothing() -> None:
    done = python(
        "import sys; before = set(sys.modules); import toolchain; import json\n"
        "names = sorted(set(sys.modules) - before)\n"
        "print(json.dumps([name for name in names if name.startswith(('toolchain', 'numpy', 'torch'))]))"
    )
    assert json.loads(done.stdout) == ["toolchain"]


def test_every_name_is_there_and_an_unknown_one_is_an_error() -> None:
    assert all(getattr(toolchain, name) is not None for name in toolchain.__all__)
    assert set(toolchain.__all__) <= set(dir(toolchain))
    with pytest.raises(AttributeError, match="has no attribute 'quantize'"):
        _ = toolchain.quantize


def test_a_folder_of_techniques_is_called_as_the_function_of_its_name() -> None:
    import toolchain.optimize.clean as technique
    from toolchain import api, optimize

    assert technique.VERSION >= 1
    assert callable(optimize)
    assert set(toolchain._FOLDERS) <= set(api.__all__)


def test_a_function_has_the_name_of_its_command() -> None:
    from toolchain import api

    assert set(api.__all__) - {"load"} <= set(COMMANDS)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api") / "store"


def test_a_checkpoint_becomes_an_engine_that_answers(store: Path, tmp_path: Path) -> None:
    graph = toolchain.export(classifier_folder(), task=TASK, store=store)
    small = toolchain.optimize(graph, "dynamic_int8", store=store)
    engine = toolchain.build(small, store=store, overrides={"onnxruntime.tune": False}, output=tmp_path / "engine")
    assert engine == tmp_path / "engine"
    assert (engine / "engine.json").is_file()
    assert graph.parent.parent == store
    assert toolchain.export(classifier_folder(), task=TASK, store=store) == graph
    model = toolchain.load(engine, threads=1)
    texts = ["one of the finest films of the year", "dull"]
    assert model(texts) == model.predict(texts)
    assert {prediction.label for prediction in model(texts)} <= set(model.labels)


def test_engines_are_compared_and_the_report_is_written(store: Path, tmp_path: Path) -> None:
    graph = toolchain.export(classifier_folder(), task=TASK, store=store)
    report = toolchain.benchmark(
        graph, toolchain.optimize(graph, "clean", store=store), store=store, task=TASK, output=tmp_path, threads=1,
        overrides={"benchmark.seconds": 0.02, "benchmark.rounds": 3, "benchmark.sample": 8, "onnxruntime.tune": False},
    )  # fmt: skip
    written = json.loads((tmp_path / "report.json").read_text("utf-8"))
    figures = report.to_dicts()
    assert [row["name"] for row in figures] == [line["name"] for line in written["lines"]]
    assert list(report.to_pandas()["size_mb"]) == [row["size_mb"] for row in figures]
    assert report.to_markdown() == (tmp_path / "report.md").read_text("utf-8")
    assert report._repr_html_().startswith('<iframe srcdoc="&lt;!doctype html')


def test_what_is_wrong_is_an_error_that_says_what_to_do(store: Path, tmp_path: Path) -> None:
    with pytest.raises(toolchain.errors.RecipeError, match="epoch") as caught:
        toolchain.run(ROOT / "recipes/smoke.yaml", overrides={"finetune.epoch": 1}, store=store)
    assert "epochs" in caught.value.hint + caught.value.message
    with pytest.raises(toolchain.errors.RecipeError, match="--task is missing"):
        toolchain.compress(classifier_folder(), "low_rank", store=store)
    with pytest.raises(toolchain.errors.RecipeError, match="unknown"):
        toolchain.optimize(classifier_folder(), "dynamic_int9", task=TASK, store=store)
    (tmp_path / "file").write_text("x")
    with pytest.raises(toolchain.errors.ToolchainError, match=r"output .*file: it exists and is not an empty folder"):
        toolchain.export(classifier_folder(), task=TASK, store=store, output=tmp_path / "file")
    with pytest.raises(toolchain.errors.ModelError, match="no such folder"):
        toolchain.load(tmp_path / "nowhere")
    with pytest.raises(toolchain.errors.RecipeError, match="'exprot' is no stage") as caught:
        toolchain.run(ROOT / "recipes/smoke.yaml", force=["exprot"], store=store)
    assert caught.value.hint.startswith("did you mean 'export'?")
    with pytest.raises(TypeError, match=r"unexpected argument 'thread'; allowed: task, .*threads"):
        toolchain.export(classifier_folder(), thread=2)  # type: ignore[call-arg]


def test_stages_that_are_forced_are_named_alone_together_or_all() -> None:
    assert direct.forced("export") == direct.forced(["export", "export"]) == ("export",)
    assert direct.forced("benchmark") == ("evaluate", "time")
    assert direct.forced("*") == tuple(registry.stages())
    assert direct.forced(()) == ()


def test_a_recipe_is_checked(tmp_path: Path) -> None:
    assert "base/onnxruntime" in toolchain.validate(ROOT / "recipes/smoke.yaml")
    (tmp_path / "bad.yaml").write_text("variants: {base: [exprot]}\n")
    with pytest.raises(toolchain.errors.RecipeError, match="exprot"):
        toolchain.validate(tmp_path / "bad.yaml")


@pytest.mark.slow
def test_the_page_runs_as_it_stands(smoke_store: Path, tmp_path: Path) -> None:
    assert len(CODE) >= 4
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(CODE)], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "TOOLCHAIN_STORE": str(smoke_store), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "finetune.epoch" in done.stdout
    assert (tmp_path / "engine" / "engine.json").is_file()


@pytest.mark.slow
def test_a_script_on_it_is_typed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("\n".join(CODE) + "\nreveal_type(report)\nreveal_type(graph)\nreveal_type(model([]))\n", "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "--follow-imports", "silent", script],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    kinds = [
        "toolchain.deliver.report.result.Report",
        "pathlib.Path",
        "list[toolchain.kinds.shared.prediction.Prediction]",
    ]
    assert re.findall(r'Revealed type is "(?:builtins\.)?(.*)"', done.stdout) == kinds
