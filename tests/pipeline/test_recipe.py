from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.builders import classifier_folder, onnx_folder
from tests.pipeline.loading import BASE, load, problems, settings
from toolchain.core.errors import RecipeError
from toolchain.core.stage import StageConfig
from toolchain.pipeline.document import Document, Problems
from toolchain.pipeline.recipe import load as load_recipe
from toolchain.pipeline.settings import plain, validate


def test_what_is_not_written_has_its_default(tmp_path: Path) -> None:
    found = load(tmp_path, "model: scratch:bert-1x32\nvariants: {base: [export]}\n")
    assert (found.name, found.seeds, found.baseline) == ("r", (17,), ("base", "onnxruntime"))
    assert found.task.label == "reviews"
    assert [engine.label for engine in found.engines] == ["onnxruntime"]
    assert found.report.weights.accuracy == 1.0


@pytest.mark.parametrize(
    ("written", "epochs", "rate"),
    [("", 4, 1e-4), ("{}", 4, 1e-4), ("{epochs: 2}", 2, 1e-4), ("{learning_rate: 1e-5}", 4, 1e-5)],
)
def test_what_is_not_written_within_a_setting_has_that_settings_default(
    tmp_path: Path, written: str, epochs: int, rate: float
) -> None:
    setting = f", finetune: {written}" if written else ""
    text = f"model: scratch:bert-2x64\nvariants: {{base: [finetune, {{distill: {{layers: 1{setting}}}}}, export]}}\n"
    asked = settings(load(tmp_path, text), "base", "distill").finetune
    assert (asked.epochs, asked.learning_rate) == (epochs, rate)
    told = settings(load(tmp_path, text, "distill.finetune.precision=bf16"), "base", "distill").finetune
    assert (told.epochs, told.learning_rate, told.precision) == (epochs, rate, "bf16")


def test_a_models_own_settings_leave_the_rest_of_a_setting_as_the_variant_has_it(tmp_path: Path) -> None:
    text = (
        "models: {x: {source: 'scratch:bert-2x64', distill: {finetune: {epochs: 1}}}, y: 'scratch:bert-2x64'}\n"
        "stages: [finetune]\n"
        "variants: {base: [{distill: {layers: 1, finetune: {learning_rate: 3e-4, epochs: 6}}}, export]}\n"
    )
    own, others = (settings(load(tmp_path, text), "base", "distill", model).finetune for model in "xy")
    assert [(each.epochs, each.learning_rate) for each in (own, others)] == [(1, 3e-4), (6, 3e-4)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner(StageConfig):
    x: int = 1
    y: int = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Middle(StageConfig):
    inner: Inner = Inner(x=5)
    z: int = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer(StageConfig):
    middle: Middle = Middle(inner=Inner(x=0))


def test_defaults_hold_at_every_depth() -> None:
    def inner(given: dict[str, Any]) -> tuple[int, int]:
        problems = Problems(Document(given, None))
        found = validate(problems, Outer, given, (), "outer")
        assert found is not None
        return found.middle.inner.x, found.middle.inner.y

    assert inner({}) == inner({"middle": {}}) == inner({"middle": {"z": 1}}) == (0, 2)
    assert inner({"middle": {"inner": {"y": 7}}}) == (0, 7)
    assert inner({"middle": {"inner": {"x": 1}}}) == (1, 2)


def test_stages_stand_before_every_variant(tmp_path: Path) -> None:
    found = load(tmp_path, BASE)
    labels = {name: [item.label for item in items] for (_, name), items in found.variants.items()}
    assert labels == {"base": ["finetune", "export"], "int8": ["finetune", "export", "dynamic_int8"]}


def test_a_problem_stands_at_its_line_and_column(tmp_path: Path) -> None:
    text = BASE.replace("{epochs: 2}", "{epochs: 2, lerning_rate: 1}")
    assert text.splitlines()[2].index("lerning_rate") == 26  # columns are counted from 1
    assert problems(tmp_path, text)[0].startswith("r.yaml:3:27: stages[0] finetune: unknown setting 'lerning_rate'")


def test_a_setting_within_a_setting_is_named_whole_with_its_neighbours(tmp_path: Path) -> None:
    text = BASE.replace("[export]", "[{magnitude_prune: {finetune: {epochz: 1}}}, export]", 1)
    found = problems(tmp_path, text)[0]
    assert "magnitude_prune: unknown setting 'finetune.epochz'" in found
    assert "did you mean 'epochs'?" in found


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ("remove: {layers: 1}", "remove: {layers: 1}", "magnitude_prune of model: remove.layers: 1 of 1 layers cannot"),
        ("remove: {layers: [0]}", "sparsity: [0.5, 0.5]", "sparsity: 2 parts, and the model has 1 layers"),
        ("sparsity: 0.5", "structure: block, block: [8, 1000]", "block: sides of 1000 do not divide the model's width"),
    ],
)
def test_a_technique_is_judged_by_the_shape_that_those_before_it_leave(
    tmp_path: Path, first: str, second: str, says: str
) -> None:
    items = f"{{magnitude_prune: {{{first}}}}}, {{magnitude_prune: {{{second}}}}}"
    text = f"model: scratch:bert-2x64\nvariants: {{base: [finetune, {items}, export]}}\n"
    assert says in problems(tmp_path, text)[0]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("layers: [-1]", "distill: layers.0: -1 is below 0"),
        ("mapping: [-1, 0], losses: {hidden: 1}", "distill: mapping.0: -1 is below 0"),
        ("mapping: first", "distill: mapping: 'first' is not 'even' or 'last'"),
        ("teacher: [3]", "distill: teacher.0: 3 is not text"),
    ],
)
def test_a_setting_of_several_kinds_is_judged_by_the_kind_that_was_meant(
    tmp_path: Path, settings: str, says: str
) -> None:
    text = f"model: scratch:bert-2x64\nvariants: {{base: [finetune, {{distill: {{{settings}}}}}, export]}}\n"
    assert [says in problem for problem in problems(tmp_path, text)] == [True]


def test_a_student_has_the_layers_that_it_keeps(tmp_path: Path) -> None:
    cut = "{distill: {layers: 1}}, {magnitude_prune: {sparsity: [0.5]}}"
    load(tmp_path, f"model: scratch:bert-2x64\nvariants: {{base: [finetune, {cut}, export]}}\n")
    text = f"model: scratch:bert-2x64\nvariants: {{base: [finetune, {cut.replace('0.5', '0.5, 0.5')}, export]}}\n"
    assert "sparsity: 2 parts, and the model has 1 layers" in problems(tmp_path, text)[0]


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ("uniform_qat, magnitude_prune, export", "magnitude_prune cannot come after uniform_qat"),
        ("learned_qat, uniform_qat, export", "uniform_qat cannot come after learned_qat"),
        ("uniform_qat, {export: {exporter: optimum}}", "Optimum's exporter does not know the layers of uniform_qat"),
        ("uniform_qat, export, static_int8", "static_int8 takes dialect standard, and gets qdq from export"),
        ("{uniform_qat: {bits: 9}}, export", "uniform_qat: bits: 9"),
        ("{uniform_qat: {finetune: null}}, export", "nobody is taught without finetune"),
        (
            "{distill: {layers: 1}}, {uniform_qat: {bits_by_group: {layer 1 ffn: 4}}}, export",
            "nothing fits layer 1 ffn",
        ),
    ],
)
def test_what_is_quantized_in_training_stays_so(tmp_path: Path, items: str, says: str) -> None:
    text = f"model: scratch:bert-2x64\nvariants: {{base: [finetune, {items}]}}\n"
    assert says in problems(tmp_path, text)[0]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("ranks: {9.query: 16}", "ranks: '9.query' fits none of the matrices"),
        ("ranks: {0.query: 16}, layers: [key]", "ranks: '0.query' fits none of the matrices"),
        ("rank: 64", "rank: 64 is no lower rank than the model's width, 64"),
        ("layers: [], embedding: 1000", "embedding: 1000 is no lower rank"),
    ],
)
def test_ranks_are_held_against_the_models_shape(tmp_path: Path, settings: str, says: str) -> None:
    text = f"model: scratch:bert-2x64\nvariants: {{base: [finetune, {{low_rank: {{{settings}}}}}, export]}}\n"
    assert says in problems(tmp_path, text)[0]


@pytest.mark.parametrize(
    ("path", "items", "says"),
    [
        (
            "CHECKPOINT",
            "{distill: {layers: 9}}",
            "layers: a student of 9 layers, from a model of 2",
        ),
        ("CHECKPOINT", '{learned_qat: {bits_by_group: {"layer 7 ffn": 4}}}', "nothing fits layer 7 ffn"),
        ("CHECKPOINT", "{distill: {layers: 1}}", None),
        ("GRAPH", "{distill: {layers: 1}}", " is of kind onnx"),
    ],
)
def test_what_is_adopted_is_held_against_its_config_too(
    tmp_path: Path, path: str, items: str, says: str | None
) -> None:
    (tmp_path / "CHECKPOINT").symlink_to(classifier_folder())
    (tmp_path / "GRAPH").symlink_to(onnx_folder())
    text = f"variants: {{base: [{{adopt: {{path: {path}}}}}, {items}, export]}}"
    if says is None:
        load(tmp_path, text)
    else:
        assert [line for line in problems(tmp_path, text) if says in line]


def test_all_problems_come_at_once_in_the_order_of_the_document(tmp_path: Path) -> None:
    text = BASE.replace("epochs: 2", "epochs: 0").replace("dynamic_int8]", "dynamc_int8]") + "seed: 1\nseeds: [a]\n"
    count, *lines = problems(tmp_path, text)
    assert count == "4 problems"
    assert sorted(line.split(" ")[0] for line in lines) == [
        "r.yaml:3:16:",
        "r.yaml:6:18:",
        "r.yaml:7:1:",
        "r.yaml:8:1:",
    ]
    assert all("did you mean" in line for line in lines if "unknown" in line)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("[2, 4]", "[2, 4]"),
        ("2:4", "'2:4'"),
        ("no", "'no'"),
        ("off", "'off'"),
        ("1e-4", "0.0001"),
        ("0o17", "15"),
        ("017", "17"),
    ],
)
def test_yaml_is_1_2(tmp_path: Path, written: str, expected: str) -> None:
    lines = problems(tmp_path, BASE.replace("epochs: 2", f"precision: {written}"))
    assert f"precision: {expected} is not" in lines[0]


def test_numbers_are_what_they_look_like(tmp_path: Path) -> None:
    found = load(tmp_path, BASE.replace("epochs: 2", "learning_rate: 1e-4, epochs: 0x10, weight_decay: 0"))
    config = settings(found, "base", "finetune")
    assert (config.learning_rate, config.epochs, config.weight_decay) == (0.0001, 16, 0.0)


def test_a_duplicate_key_is_an_error(tmp_path: Path) -> None:
    lines = problems(tmp_path, BASE + "  int8: [export]\n")
    assert lines[0].startswith('r.yaml:7:3: found duplicate key "int8"')


class TestSet:
    def test_a_path_from_the_top(self, tmp_path: Path) -> None:
        found = load(tmp_path, BASE, "benchmark.threads=2", "seeds=[1, 2]", "report.weights.speedup=0.5", "name=other")
        assert (found.benchmark.threads, found.seeds, found.report.weights.speedup) == (2, (1, 2), 0.5)
        assert found.name == "other"

    def test_a_technique_wherever_it_stands(self, tmp_path: Path) -> None:
        text = BASE + "  other: [{export: {opset: 20}}, dynamic_int8]\n"
        found = load(tmp_path, text, "export.opset=19", "dynamic_int8.per_channel=false")
        assert [settings(found, name, "export").opset for name in ("base", "int8", "other")] == [19, 19, 19]
        assert [settings(found, name, "dynamic_int8").per_channel for name in ("int8", "other")] == [False, False]

    def test_an_item_by_its_place_or_its_name(self, tmp_path: Path) -> None:
        found = load(tmp_path, BASE, "variants.int8.dynamic_int8.embeddings=false", "stages.0.finetune.epochs=5")
        assert settings(found, "int8", "dynamic_int8").embeddings is False
        assert settings(found, "int8", "finetune").epochs == 5
        replaced = load(tmp_path, BASE, "variants.int8.1=static_int8")
        assert [item.label for item in replaced.variants["model", "int8"]] == ["finetune", "export", "static_int8"]

    def test_a_task_gets_settings(self, tmp_path: Path) -> None:
        assert load(tmp_path, BASE, "task.reviews.train_size=32").task.config.train_size == 32
        assert load(tmp_path, BASE, "reviews.train_size=32", "task=reviews").task.config.train_size == 3000
        assert load(tmp_path, BASE + "task: reviews\n", "reviews.train_size=32").task.config.train_size == 32

    def test_an_engine_gets_settings(self, tmp_path: Path) -> None:
        found = load(tmp_path, BASE + "engines: [onnxruntime]\n", "onnxruntime.offline=false")
        assert found.engines[0].config.offline is False

    def test_a_bad_value_names_the_option_that_gave_it(self, tmp_path: Path) -> None:
        assert problems(tmp_path, BASE, "finetune.epochs=0") == [
            "--set finetune.epochs=0: stages[0] finetune: epochs: 0 is below 1"
        ]

    def test_a_path_that_leads_nowhere_is_an_error(self, tmp_path: Path) -> None:
        assert "'epoch' is no key" in problems(tmp_path, BASE, "epoch=1")[0]
        assert "unknown key 'deeper'" in problems(tmp_path, BASE, "model.deeper=1")[0]


class TestSources:
    def test_model_takes_the_place_of_the_only_one(self, tmp_path: Path) -> None:
        assert load(tmp_path, BASE, models=["a/b"]).models == {"model": "a/b"}

    def test_model_names_one_of_several_and_keeps_its_settings(self, tmp_path: Path) -> None:
        several = "models: {a: x/y, b: {source: x/z, finetune: {epochs: 7}}}"
        found = load(tmp_path, BASE.replace("model: scratch:bert-1x32", several), models=["b=./local"])
        assert found.models == {"a": "x/y", "b": "./local"}
        assert (
            settings(found, "base", "finetune", "a").epochs,
            settings(found, "base", "finetune", "b").epochs,
        ) == (
            2,
            7,
        )

    def test_data_is_the_folder_of_the_task(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        found = load(tmp_path, BASE + "task: {sst2: {drop_overlaps: false}}\n", data=str(tmp_path / "data"))
        assert found.task.config.folder == str(tmp_path / "data")
        assert found.task.config.drop_overlaps is False

    def test_data_finds_the_recipes_files_in_another_folder(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "a.csv").write_text("x")
        text = BASE + "task: {files: {train: somewhere/a.csv}, text: review}\n"
        found = load(tmp_path, text, data=str(tmp_path / "data"))
        assert found.task.config.files == {"train": str(tmp_path / "data" / "a.csv")}
        assert "missing" in problems(tmp_path, text.replace("a.csv", "b.csv"), data=str(tmp_path / "data"))[0]

    def test_paths_may_be_relative_to_the_recipe(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("x")
        found = load(tmp_path, BASE + "task: {files: {train: a.csv}}\n")
        assert found.task.config.files == {"train": str(tmp_path / "a.csv")}

    @pytest.mark.parametrize("value", ["", "null", "[]", "{}", "5", "[a, b]"])
    def test_any_kind_of_task_and_model_is_refused_without_a_crash(self, tmp_path: Path, value: str) -> None:
        text = (
            f"models: {value}\ntask: {value}\nvariants: {value}\nstages: {value}\nengines: {value}\nbaseline: {value}\n"
        )
        assert problems(tmp_path, text + f"report: {value}\nbenchmark: {value}\n")
        for name in ("task", "models"):
            bad = BASE.replace("model:", "models: {a: x/y} #") if name == "task" else BASE.partition("\n")[2]
            assert problems(tmp_path, f"{name}: {value}\n{bad}", models=["c=x/y"], data=str(tmp_path))


class TestModels:
    TWO = BASE.replace(
        "model: scratch:bert-1x32", "models:\n  a: x/y\n  b: {source: x/z, finetune: {epochs: 7}, export: {opset: 19}}"
    )

    def test_settings_of_its_own_are_laid_over_the_variants(self, tmp_path: Path) -> None:
        found = load(tmp_path, self.TWO.replace("{epochs: 2}", "{epochs: 2, learning_rate: 1e-3}"))
        assert plain(settings(found, "int8", "finetune", "b")) | {"epochs": 2} == plain(
            settings(found, "int8", "finetune", "a")
        )
        assert (settings(found, "base", "export", "a").opset, settings(found, "base", "export", "b").opset) == (
            20,
            19,
        )

    def test_a_bad_setting_stands_at_the_model(self, tmp_path: Path) -> None:
        lines = problems(tmp_path, self.TWO.replace("opset: 19", "opset: 9"))
        assert lines == ["r.yaml:3:52: models.b export: opset: 9 is below 18"]


class TestOrder:
    @pytest.mark.parametrize(
        ("items", "message"),
        [
            ("[export, finetune]", "finetune cannot come after export (the order is"),
            ("[dynamic_int8, export]", "export cannot come after dynamic_int8"),
            ("[finetune, finetune, export]", "finetune stands there twice"),
            ("[dynamic_int8]", "never exported"),
            ("[export, dynamic_int8, dynamic_int8]", "takes dialect standard, and gets ort from dynamic_int8"),
            ("[export, static_int8, dynamic_int8]", "takes dialect standard, and gets qdq from static_int8"),
            ("[export, {static_int8: {symmetric: false}}, dynamic_int8]", "gets qdq-asymmetric from static_int8"),
        ],
    )
    def test_one_direction_and_no_way_back(self, tmp_path: Path, items: str, message: str) -> None:
        lines = problems(tmp_path, f"model: x/y\nvariants: {{v: {items}}}\n")
        assert len(lines) == 1
        assert lines[0].startswith("r.yaml:2:12: variants.v: ")
        assert message in lines[0]


class TestEngines:
    def test_one_engine_may_stand_there_twice_under_two_names(self, tmp_path: Path) -> None:
        text = (
            BASE + "engines: [onnxruntime, {onnxruntime: {as: no-arena, arena: false}}]\nbaseline: {engine: no-arena}\n"
        )
        found = load(tmp_path, text)
        assert [(e.label, e.technique.name, e.config.arena) for e in found.engines] == [
            ("onnxruntime", "onnxruntime", None), ("no-arena", "onnxruntime", False),
        ]  # fmt: skip
        assert found.baseline == ("base", "no-arena")

    def test_the_baseline_is_the_first_of_each_unless_named(self, tmp_path: Path) -> None:
        assert load(tmp_path, BASE + "engines: [pytorch, onnxruntime]\n").baseline == ("base", "pytorch")
        assert load(tmp_path, BASE + "baseline: {variant: int8}\n").baseline == ("int8", "onnxruntime")
        assert "did you mean 'int8'?" in problems(tmp_path, BASE + "baseline: {variant: int}\n")[0]


@pytest.mark.parametrize("place", ["9" * 5000, "7", "²"])
def test_a_place_that_no_list_has_is_an_error(place: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: scratch:bert-1x32\nstages: [finetune]\nvariants: {base: [export]}\n")
    with pytest.raises(RecipeError, match="items: finetune"):
        load_recipe(tmp_path / "r.yaml", [f"stages.{place}=1"])
