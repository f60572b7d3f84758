from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from tests.builders import SENTENCES
from tests.command import RECIPES, ROOT
from tests.deliver.test_report import PICTURES
from tests.tiny import call, made, tiny
from toolchain.cli import COMMANDS
from toolchain.core import registry
from toolchain.core.manifest import sealed
from toolchain.core.store import Store

TASK = "{reviews: {train_size: 32, dev_size: 16, test_size: 24}}"


def _artifact(tmp_path: Path, kind: str, technique: str = "", name: str = "model") -> Path:
    """A copy of one of the shared run's artifacts, as a user holds it."""
    source = tiny().artifact(kind, technique)
    return Path(shutil.copytree(source.path, tmp_path / name))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help(tmp_path: Path, name: str) -> None:
    for flag in ("-h", "--help"):
        result = call(name, flag, cwd=tmp_path)
        assert result.code == 0
        assert result.stdout.startswith(f"Usage: toolchain {name} ")
        assert len(result.stdout.splitlines()) >= 5


def test_the_help_lists_every_command_and_the_version_is_printed(tmp_path: Path) -> None:
    listed = call("--help", cwd=tmp_path).stdout
    assert [name for name in COMMANDS if f"\n  {name} " not in listed] == []
    assert call("--version", cwd=tmp_path).stdout.startswith("toolchain, version ")


def test_validate_counts_what_a_recipe_would_do(tmp_path: Path) -> None:
    shutil.copy(tiny().recipe, tmp_path)
    (tmp_path / "bad.yaml").write_text("variants: {base: [export]}\nseed: 1\n")
    result = call("validate", "tiny.yaml", cwd=tmp_path)
    assert (result.code, result.stdout) == (0, "tiny.yaml: valid, 8 steps, 2 engines\n")
    both = call("validate", "tiny.yaml", "bad.yaml", "--json", cwd=tmp_path)
    assert both.code == 1
    good, bad = both.json
    assert (good["valid"], good["steps"], len(good["engines"])) == (True, 8, 2)
    assert (bad["valid"], len(bad["problems"])) == (False, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.yaml", "tiny.yaml"]


def test_explain_shows_the_steps_of_a_recipe_and_the_lineage_of_an_artifact(tmp_path: Path) -> None:
    tiny().copy(tmp_path)
    steps = call("explain", "tiny.yaml", "--store", "store", "--json", cwd=tmp_path).json["steps"]
    assert [step["status"] for step in steps] == ["hit"] * 8
    assert "8 steps: 8 in the store, 0 to run" in call("explain", "tiny.yaml", "--store", "store", cwd=tmp_path).stdout
    key = tiny().artifact("onnx", "dynamic_int8").key
    lineage = call("explain", key[:16], "--store", "store", "--json", cwd=tmp_path).json["lineage"]
    assert [item["parts"]["technique"] for item in lineage] == ["finetune", "export", "dynamic_int8"]
    text = call("explain", key, "--store", "store", cwd=tmp_path).stdout
    assert text.index("finetune") < text.index("dynamic_int8")


@pytest.mark.parametrize("what", ["techniques", "engines", "tasks", "recipes", "artifacts"])
def test_list_gives_the_same_as_text_and_as_json(tmp_path: Path, what: str) -> None:
    tiny().copy(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("# What it is for. And more.\nvariants: {}\n")
    rows = call("list", what, "--store", "store", "--json", cwd=tmp_path).json[what]
    text = call("list", what, "--store", "store", cwd=tmp_path).stdout
    assert rows
    for row in rows:
        assert str(row.get("name", row.get("key"))) in text
    if what == "recipes":
        assert rows[:2] == [
            {"name": "tiny.yaml", "summary": ""}, {"name": "recipes/mine.yaml", "summary": "What it is for."}
        ]  # fmt: skip
        assert {row["name"] for row in rows[2:]} == {path.stem for path in RECIPES}
    if what == "artifacts":
        assert text.startswith(f"8 artifacts, {sum(row['bytes'] for row in rows) / 1e6:,.1f} MB in store\n")
        assert text.splitlines()[1].split() == ["kind", "key", "MB", "made", "what"]


@pytest.mark.parametrize(
    "name", [*registry.names("optimize"), *registry.names("engines"), *registry.names("tasks"), "finetune", "export"]
)
def test_show_explains_every_setting_of_a_technique(tmp_path: Path, name: str) -> None:
    result = call("show", name, "--json", cwd=tmp_path)
    assert result.code == 0
    assert [field["name"] for field in result.json["settings"] if not field["meaning"]] == []
    assert call("show", name, cwd=tmp_path).stdout.startswith(name)


def test_show_gives_a_recipe_as_it_was_understood(tmp_path: Path) -> None:
    shutil.copy(tiny().recipe, tmp_path)
    shown = call("show", "tiny.yaml", "--json", cwd=tmp_path).json
    assert shown["variants"]["base"][0]["finetune"]["warmup"] == 0.1, "what is not written has its default"
    again = call("show", "tiny.yaml", cwd=tmp_path).stdout
    (tmp_path / "again.yaml").write_text(again)
    assert call("show", "again.yaml", "--json", cwd=tmp_path).json == shown


def test_show_escapes_what_would_turn_a_line_round(tmp_path: Path) -> None:
    text = tiny().recipe.read_text("utf-8")
    (tmp_path / "tiny.yaml").write_text(f'name: "größer\\u202egpj.exe"\n{text[text.index("task") :]}', "utf-8")
    again = call("show", "tiny.yaml", cwd=tmp_path).stdout
    assert again.isascii()
    assert "\\u202e" in again.lower()
    (tmp_path / "again.yaml").write_text(again)
    shown = call("show", "again.yaml", "--json", cwd=tmp_path).json
    assert shown == call("show", "tiny.yaml", "--json", cwd=tmp_path).json


def test_show_gives_the_manifest_of_an_artifact_by_key_or_folder(tmp_path: Path) -> None:
    artifact = tiny().artifact("checkpoint")
    store = str(tiny().root / "store")
    assert call("show", artifact.key[:16], "--store", store, "--json", cwd=tmp_path).json == artifact.manifest
    assert call("show", str(artifact.path), "--json", cwd=tmp_path).json == artifact.manifest
    assert "dev_accuracy" in call("show", artifact.key, "--store", store, cwd=tmp_path).stdout


def test_verify_compares_every_byte(tmp_path: Path) -> None:
    tiny().copy(tmp_path)
    result = call("verify", "--store", "store", cwd=tmp_path)
    assert (result.code, result.stdout.partition(",")[0]) == (0, "8 artifacts")
    root = re.search(r"all as published\nroot ([0-9a-f]{64})\n$", result.stdout)
    assert root is not None
    assert call("verify", "--root", root[1], "--store", "store", cwd=tmp_path).code == 0
    other = call("verify", "--root", "0" * 64, "--store", "store", cwd=tmp_path)
    assert (other.code, f"the root digest is {root[1]}, and not 000" in other.stderr) == (1, True)
    key = tiny().artifact("timing").key
    (tmp_path / "store" / "timing" / key / "timing.json").write_text("{}")
    assert call("verify", key, "--store", "store", cwd=tmp_path).code == 1
    found = call("verify", "--store", "store", "--json", cwd=tmp_path)
    assert found.code == 1
    assert [len(problems) for problems in found.json["problems"].values()] == [1]


def test_gc_of_everything_says_first_and_then_does(tmp_path: Path) -> None:
    tiny().copy(tmp_path)
    dry = call("gc", "--all", "--dry-run", "--store", "store", cwd=tmp_path)
    assert dry.stdout.splitlines()[-1].startswith("would remove 8 artifacts, ")
    assert len(list(Store(tmp_path / "store").artifacts())) == 8
    done = call("gc", "--all", "--store", "store", "--yes", "--json", cwd=tmp_path).json
    assert (len(done["removed"]), done["kept"]) == (8, 0)
    assert list(Store(tmp_path / "store").artifacts()) == []


@pytest.mark.parametrize("more", [(), ("--json",)], ids=["text", "json"])
def test_gc_removes_nothing_without_a_yes(tmp_path: Path, more: tuple[str, ...]) -> None:
    tiny().copy(tmp_path)
    store = Store(tmp_path / "store")
    asked = call("gc", "--all", "--store", "store", *more, cwd=tmp_path)
    assert (asked.code, "--yes" in asked.stderr) == (1, True)
    assert len(list(store.artifacts())) == 8


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 1, 8), ("", 1, 8), ("y", 0, 0)])
def test_gc_asks_on_a_terminal_and_does_what_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: int
) -> None:
    tiny().copy(tmp_path)
    keyboard, terminal = pty.openpty()
    os.write(keyboard, f"{answer}\n".encode())
    with open(keyboard, "rb"), open(terminal) as stdin:  # noqa: PTH123  # they are descriptors
        monkeypatch.setattr(sys, "stdin", stdin)
        done = call("gc", "--all", "--store", "store", cwd=tmp_path)
    assert "removes 8 artifacts, " in done.stdout
    assert "Remove them? [y/N]: " in done.stdout
    assert (done.code, "error: nothing is removed\n" in done.stderr) == (code, code == 1)
    assert len(list(Store(tmp_path / "store").artifacts())) == left


def test_gc_of_a_recipe_says_that_it_keeps_what_this_one_needs(tmp_path: Path) -> None:
    tiny().copy(tmp_path)
    kept = call("gc", "tiny.yaml", "--store", "store", cwd=tmp_path).stdout
    assert re.fullmatch(r"keeps 8 artifacts, [\d.]+ MB, which tiny.yaml needs\nnothing to remove\n", kept)
    fewer = ("--set", "variants={base: [export]}", "--store", "store")
    text = call("gc", "tiny.yaml", *fewer, "--dry-run", cwd=tmp_path).stdout
    assert "removes 4 artifacts, " in text
    assert "dynamic-int8 · onnxruntime" in text
    call("gc", "tiny.yaml", *fewer, "--yes", cwd=tmp_path)
    assert len(list(Store(tmp_path / "store").artifacts())) == 4


def test_doctor_says_what_runs_here(tmp_path: Path) -> None:
    result = call("doctor", "--json", cwd=tmp_path)
    assert result.code in (0, 1)
    assert result.code == bool(result.json["problems"])
    assert "onnxruntime" in json.dumps(result.json)
    assert call("doctor", cwd=tmp_path).stdout


@pytest.mark.parametrize(("shell", "part"), [("bash", "complete "), ("zsh", "compdef"), ("fish", "complete ")])
def test_completion_prints_a_script(tmp_path: Path, shell: str, part: str) -> None:
    result = call("completion", shell, cwd=tmp_path)
    if result.code:  # click asks bash for its version, and there may be none
        pytest.skip(result.stderr)
    assert part in result.stdout
    assert "_TOOLCHAIN_COMPLETE" in result.stdout


@pytest.mark.slow
def test_a_model_goes_the_whole_way_by_hand(tmp_path: Path) -> None:
    trained = call(
        "finetune", "scratch:bert-1x32", "--set", "epochs=1", "--task", TASK, "-o", "trained", "--json", cwd=tmp_path
    )
    assert trained.code == 0, trained.stderr
    assert (trained.json[0]["kind"], trained.json[0]["metrics"]["steps"]) == ("checkpoint", 1)
    assert {"config.json", "model.safetensors", "tokenizer.json", "interface.json", "history.json"} <= {
        path.name for path in (tmp_path / "trained").iterdir()
    }
    exported = call("export", "trained", "--task", TASK, "-o", "graph", cwd=tmp_path)
    assert exported.code == 0, exported.stderr
    assert exported.stdout.startswith("onnx       export ")
    quantized = call("optimize", "graph/model.onnx", "-t", "dynamic_int8", "--task", TASK, "-o", "int8", cwd=tmp_path)
    assert quantized.code == 0, quantized.stderr
    built = call("build", "int8", "--task", TASK, "-o", "engine", cwd=tmp_path)
    assert built.code == 0, built.stderr
    techniques = json.loads((tmp_path / "engine" / "history.json").read_text())["techniques"]
    assert [entry["technique"] for entry in techniques] == ["finetune", "export", "dynamic_int8"]
    settings = ("--set", "benchmark.seconds=0.02", "--set", "benchmark.rounds=3", "--set", "benchmark.batch_sizes=[1]")
    measured = call("benchmark", "graph", "engine", "--task", TASK, *settings, "--json", "-o", "out", cwd=tmp_path)
    assert measured.code == 0, measured.stderr
    lines = {line["variant"]: line for line in measured.json["lines"]}
    assert {name: line["baseline"] for name, line in lines.items()} == {"graph": True, "engine": False}
    assert lines["engine"]["compression"] > 1.5
    assert (tmp_path / "out" / "report.md").is_file()
    words = ["toolchain", "benchmark", "graph", "engine", "--task", TASK, *settings]
    assert sorted(shlex.split(measured.json["made"]["command"])) == sorted(words)
    assert measured.json["made"]["versions"]["onnxruntime"]


def test_a_result_is_copied_to_an_empty_folder_and_the_store_keeps_its_own(tmp_path: Path) -> None:
    _artifact(tmp_path, "onnx", "export")
    (tmp_path / "out").mkdir()
    result = call("optimize", "model", "-t", "dynamic_int8", "--task", TASK, "-o", "out", "--json", cwd=tmp_path)
    assert (result.code, result.json[0]["path"]) == (0, "out")
    assert call("verify", "out", cwd=tmp_path).code == 0
    again = call("optimize", "model", "-t", "dynamic_int8", "--task", TASK, "-o", "second", "--json", cwd=tmp_path)
    assert (again.json[0]["made"], again.json[0]["key"]) == (False, result.json[0]["key"])


def test_targets_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    _artifact(tmp_path, "onnx", "export", "first/model")
    _artifact(tmp_path, "onnx", "dynamic_int8", "second/model")
    result = call("benchmark", "first/model", "second/model", "--task", TASK, "--dry-run", cwd=tmp_path)
    assert result.code == 0
    assert "first-model · onnxruntime" in result.stdout
    assert "second-model · onnxruntime" in result.stdout


@pytest.mark.slow
def test_another_task_takes_a_table_and_no_code(tmp_path: Path) -> None:
    rows = [
        f"{text},{['bad', 'fair', 'good'][i % 3]}" for i, text in enumerate(t.replace(",", "") for t in SENTENCES * 6)
    ]
    (tmp_path / "reviews.csv").write_text("\n".join(["review,stars", *rows]) + "\n")
    (tmp_path / "stars.yaml").write_text(
        "task: {files: {train: reviews.csv}, text: review, label: stars, holdout: 0.2}\n"
        "model: scratch:bert-1x32\nstages: [{finetune: {epochs: 1, max_length: 16}}]\nvariants: {base: [export]}\n"
        "benchmark: {batch_sizes: [1], seconds: 0.02, rounds: 3, sample: 4}\n"
    )
    result = call("run", "stars.yaml", "--json", cwd=tmp_path)
    assert result.code == 0, result.stderr
    assert made(result) == 5
    assert any("held out" in note for note in result.json["notes"])
    engine = next((tmp_path / "artifacts" / "engine").iterdir())
    assert json.loads((engine / "interface.json").read_text())["labels"] == ["bad", "fair", "good"]


def test_reports_are_set_side_by_side_and_one_is_drawn_again(tmp_path: Path) -> None:
    published = ROOT / "artifacts/published"
    names = ("extreme", "latency")
    result = call("report", *(f"{published}/{name}" for name in names), "-o", "out", cwd=tmp_path)
    assert result.code == 0, result.stderr
    assert result.stdout.startswith("# 2 runs, 13 engines, 1 machine\n")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"comparison.{kind}" for kind in ("html", "md", "json")
    }
    found = call("report", *(f"{published}/{name}/report.json" for name in names), "--json", cwd=tmp_path).json
    assert found == json.loads((tmp_path / "out/comparison.json").read_text())
    assert call("report", f"{published}/latency", "-o", "one", cwd=tmp_path).code == 0
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"report.html", *PICTURES} - {"front.svg"}


def test_reports_are_not_mixed_with_recipes_and_not_changed(tmp_path: Path) -> None:
    published = str(ROOT / "artifacts/published/latency")
    mixed = call("report", published, str(ROOT / "recipes/smoke.yaml"), cwd=tmp_path)
    assert (mixed.code, "a recipe stands alone" in mixed.stderr) == (2, True)
    changed = call("report", published, "--set", "benchmark.threads=1", cwd=tmp_path)
    assert (changed.code, "reports are as they were written" in changed.stderr) == (2, True)
    empty = call("report", str(tmp_path), cwd=tmp_path)
    assert (empty.code, "cannot be read as a report" in empty.stderr) == (1, True)


def test_a_command_that_calibrates_or_judges_must_know_the_data(tmp_path: Path) -> None:
    _artifact(tmp_path, "onnx", "export")
    (tmp_path / "model" / "manifest.json").unlink()  # a graph of another tool
    for command in (
        ("optimize", "model", "-t", "static_int8"), ("optimize", "model", "-t", "mixed"), ("benchmark", "model"),
        ("finetune", "model"), ("compress", "model", "-t", "magnitude_prune"), ("sensitivity", "model"),
        ("build", "model", "--data", "."),
    ):  # fmt: skip
        result = call(*command, cwd=tmp_path)
        assert result.code == 2, command
        assert "--task is missing: model does not say which data it was made for" in result.stderr


def test_a_target_remembers_the_task_that_it_was_made_for(tmp_path: Path) -> None:
    _artifact(tmp_path, "onnx", "export")
    result = call("optimize", "model", "-t", "static_int8", "--dry-run", cwd=tmp_path)
    assert result.code == 0, result.stderr
    assert "task: reviews, which model was made for" in result.stderr
    path = tmp_path / "model" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["task"]["identity"]["version"] += 1
    path.write_text(json.dumps(sealed(manifest)))
    result = call("optimize", "model", "-t", "static_int8", "--dry-run", cwd=tmp_path)
    assert (result.code, "the data that model was made for have changed since" in result.stderr) == (1, True)


def test_graphs_are_compared_on_stand_ins_where_nobody_named_the_data_and_that_is_noted(tmp_path: Path) -> None:
    _artifact(tmp_path, "onnx", "export")
    (tmp_path / "model" / "manifest.json").unlink()
    interface = tmp_path / "model" / "interface.json"
    interface.write_text(json.dumps(json.loads(interface.read_text()) | {"labels": ["refund", "praise"]}))
    result = call("optimize", "model", "-t", "clean", "-o", "cleaned", cwd=tmp_path)
    assert result.code == 0, result.stderr
    assert "note: no task was named: graphs were compared, and engines tuned, on the embedded reviews" in result.stderr
    assert json.loads((tmp_path / "cleaned" / "interface.json").read_text())["labels"] == ["refund", "praise"]
    again = call("optimize", "model", "-t", "clean", "--json", cwd=tmp_path)
    assert again.json[0]["made"] is False
    assert again.stderr.count("note: no task was named") == 1
    manifest = json.loads((tmp_path / "cleaned" / "manifest.json").read_text())
    assert (manifest["task"], len(manifest["notes"])) == (None, 1)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", "nonsense"), 1, "'nonsense' is no technique"),
        (("choose", "missing.yaml"), 1, "missing.yaml"),
        (("report", "store/reports/tiny", "--set", "a=1"), 2, "are for a recipe"),
        (("run", "missing.yaml", "--nope"), 2, "--nope"),
    ],
    ids=["show", "choose", "usage", "an unknown option"],
)
def test_errors_are_json_where_json_was_asked_for(
    tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    tiny().copy(tmp_path)
    done = call(*arguments, "--json", cwd=tmp_path)
    error = done.json["error"]
    assert (done.code, error["exit_code"]) == (code, code)
    assert said in error["message"]
    assert set(error) == {"message", "hint", "exit_code"}
    assert error["message"] in done.stderr


@pytest.mark.parametrize(("columns", "width"), [(None, 80), ("100", 100), ("x", 80)])
def test_what_is_piped_is_as_wide_as_columns_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str | None, width: int
) -> None:
    tiny().copy(tmp_path)
    if columns is None:
        monkeypatch.delenv("COLUMNS")
    else:
        monkeypatch.setenv("COLUMNS", columns)
    lines = call("report", "tiny.yaml", "--store", "store", "-v", cwd=tmp_path).stdout.splitlines()
    assert max(len(line) for line in lines if not line.startswith("take  ")) == width
