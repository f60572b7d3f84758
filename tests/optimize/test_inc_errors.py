from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.builders import LABELS, SENTENCES, context, onnx_folder
from tests.optimize.inc import DATA, made
from toolchain.core.data import Dataset, Split
from toolchain.core.errors import LostProcessError, MissingPackageError, ModelError, RecipeError, ToolchainError
from toolchain.optimize import inc_auto, inc_dynamic, inc_static
from toolchain.optimize.shared.inc import quantize

PLANTED = "import json, os, sys, time\nasked = json.load(open(sys.argv[1]))\nprint('loud')\n"


def plant(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    script = folder / "planted.py"
    script.write_text(PLANTED + code, encoding="utf-8")
    monkeypatch.setattr(quantize, "_SCRIPT", script)


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("time.sleep(600)", "was ended after 3 s; the best graph until then is kept"),
        ("sys.exit(0)", "SystemExit: 0; the best graph until then is kept"),
        (
            "json.dump({'ended_by': 'TypeError()'}, open(sys.argv[2], 'w'))",
            "the search ended in an error, TypeError(); the best graph is kept",
        ),
    ],
    ids=["hangs", "exits", "errs"],
)
def test_a_search_that_is_cut_off_keeps_the_best_graph_until_then_and_says_why(
    ending: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    quantized, _ = dynamic(tmp_path)
    code = f"""
import shutil
shutil.copyfile({str(quantized)!r}, asked["tuning"]["best"] + "/trial-3.onnx")
best = {{"file": "trial-3.onnx", "accuracy": 0.5, "reached": False, "baseline": 0.75, "trials": 3}}
with open(asked["tuning"]["best"] + "/best.json", "w") as file:
    json.dump(best, file)
{ending}
"""
    plant(monkeypatch, tmp_path, code)
    monkeypatch.setattr(logging.getLogger("toolchain"), "propagate", True)
    (tmp_path / "here").mkdir()
    _, metrics = made(inc_auto, "bert", tmp_path / "here", minutes=0.05, calibration_samples=8)
    assert (metrics["accuracy_dev"], metrics["target_reached"], metrics["trials"]) == (0.5, False, 3)
    assert said in caplog.text


def test_a_search_that_is_killed_gives_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
open(asked["tuning"]["best"] + "/best.json", "w").write("{}")
os.kill(os.getpid(), 9)
"""
    plant(monkeypatch, tmp_path, code)
    with pytest.raises(LostProcessError, match="was ended by SIGKILL"):
        made(inc_auto, "bert", tmp_path, calibration_samples=8)


def dynamic(folder: Path) -> tuple[Path, Any]:
    from toolchain.optimize import dynamic_int8

    (folder / "variant").mkdir()
    metrics = dynamic_int8.apply(onnx_folder(), folder / "variant", dynamic_int8.Config(), context(folder, DATA))
    return folder / "variant/model.onnx", metrics


@pytest.mark.parametrize(
    ("code", "message", "hint"),
    [
        (
            "class NothingFoundError(Exception): pass\nraise NothingFoundError('')",
            "gave no graph: it ended without saying why",
            "use another technique",
        ),
        (
            "class NothingFoundError(Exception): pass\nraise NothingFoundError(\"LinAlgError('Singular matrix')\")",
            "the calibration sentences do not determine a weight",
            "algorithm: rtn",
        ),
        ("sys.exit(0)", "gave no graph: it ended without saying why", "exclude the node"),
        ("sys.stdout.flush(); os.abort()", "was ended by SIGABRT", ""),
        ("raise ValueError('Node X has no kernel')", "ValueError: Node X has no kernel", ""),
    ],
    ids=["none", "none-singular", "exits", "crashes", "raises"],
)
def test_each_way_in_which_the_package_fails_is_an_error_that_names_the_log(
    code: str, message: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    plant(monkeypatch, tmp_path, code)
    (tmp_path / "out").mkdir()
    with pytest.raises(ToolchainError, match="inc_dynamic: Intel Neural Compressor") as caught:
        inc_dynamic.apply(onnx_folder(), tmp_path / "out", inc_dynamic.Config(), context(tmp_path, DATA))
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.__cause__ is not None
    assert str(tmp_path / "inc.log") in caught.value.message
    assert "loud" in (tmp_path / "inc.log").read_text()
    assert "loud" not in "".join(capfd.readouterr())
    assert list((tmp_path / "out").iterdir()) == []


def test_the_reason_that_the_package_logs_before_it_gives_none_reaches_the_user(tmp_path: Path) -> None:
    """By the real package: sentences of more tokens than the model has positions, 64."""
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    for name in ("model.onnx", "tokenizer.json"):
        (source / name).write_bytes((onnx_folder() / name).read_bytes())
    interface = json.loads((onnx_folder() / "interface.json").read_text())
    (source / "interface.json").write_text(json.dumps({**interface, "max_length": 512}))
    split = Split([(" ".join(SENTENCES * 2),)] * 2, [0, 1])
    data = Dataset(split, split, split, LABELS)
    with pytest.raises(ModelError, match=r"inc_static: Intel Neural Compressor gave no graph: .*Add") as caught:
        inc_static.apply(source, out, inc_static.Config(), context(tmp_path, data))
    assert "static_int8" in caught.value.hint
    assert "Traceback" in (tmp_path / "inc.log").read_text()
    assert list(out.iterdir()) == []


def test_no_time_for_a_single_trial_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    settings = inc_auto.Config(minutes=0.002, calibration_samples=8)  # less than the package takes to start
    with pytest.raises(ModelError, match=r"finished no trial within minutes: 0\.002") as caught:
        inc_auto.apply(onnx_folder(), tmp_path / "out", settings, context(tmp_path, DATA))
    assert "raise minutes" in caught.value.hint


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing in it; its folder."""
    folder = tmp_path_factory.mktemp("bare") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder


def lay(folder: Path, **versions: str) -> None:
    """Notes distributions as installed, as pip does, so that their versions can be read."""
    packages = next((folder / "lib").glob("python3*/site-packages"))
    for name, version in versions.items():
        note = packages / f"{name}-{version}.dist-info"
        note.mkdir(parents=True)
        (note / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")


@pytest.mark.parametrize(
    ("versions", "reason"),
    [
        ({}, "it is not installed in"),
        ({"neural_compressor": "3.10"}, "has 3.10, which cannot quantize ONNX: 3.7.1 is the last that can"),
        ({"neural_compressor": "3.7.1", "numpy": "2.3.1"}, "has numpy 2.3.1, and it takes numpy below 2"),
        (
            {"neural_compressor": "3.7.1", "numpy": "1.26.4", "setuptools": "83.0.0"},
            "has setuptools 83.0.0, and it needs pkg_resources",
        ),
        (
            {"neural_compressor": "3.7.1", "numpy": "1.26.4", "setuptools": "81.0.0"},
            "it cannot be imported by .*: No module named 'numpy'",
        ),
    ],
    ids=["missing", "without-onnx", "numpy", "setuptools", "broken"],
)
def test_an_interpreter_without_a_package_that_works_is_an_error_that_says_what_to_install(
    versions: dict[str, str], reason: str, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    lay(tmp_path / "env", **versions)
    (tmp_path / "out").mkdir()
    settings = inc_dynamic.Config(python=str(tmp_path / "env/bin/python"))
    with pytest.raises(MissingPackageError, match=reason) as caught:
        inc_dynamic.apply(onnx_folder(), tmp_path / "out", settings, context(tmp_path, DATA))
    assert "neural-compressor==3.7.1" in caught.value.hint


def test_an_interpreter_that_is_none_is_an_error_before_any_work() -> None:
    with pytest.raises(RecipeError, match="python: no/such/python is no program that can be run"):
        inc_static.fingerprint(inc_static.Config(python="no/such/python"))
    assert inc_static.fingerprint(inc_static.Config()) == {}
