"""The kind ``embeddings``: pairs as single texts, pooling in the graph, cosines against scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.builders import checkpoint_folder, context
from tests.tiny import call
from toolchain import Predictor, kinds
from toolchain.core.data import Split
from toolchain.core.errors import ModelError
from toolchain.kinds import embeddings
from toolchain.model import checkpoint
from toolchain.model.graph import load
from toolchain.optimize.shared.dev_accuracy import dev_accuracy, dev_batches
from toolchain.tasks import files

KIND = kinds.get("embeddings")

PAIRS = [
    ("a bird sings", "a bird sings loudly", 4.5),
    ("a cat sleeps", "the stock market fell", 0.2),
    ("two men play chess", "two men play a game", 3.8),
    ("rain is falling", "it rains", 4.7),
    ("a woman cooks", "a man swims", 0.9),
    ("the train is late", "the train has a delay", 4.4),
    ("he reads a book", "she eats an apple", 1.1),
    ("dogs bark at night", "at night dogs bark", 4.8),
]


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """An encoder without a head, as sentence-transformers saves one: mean pooling, normalized."""
    from transformers import AutoModel

    folder = tmp_path / "encoder"
    source = checkpoint_folder()
    AutoModel.from_pretrained(source).save_pretrained(folder)
    for name in {*checkpoint.TOKENIZER_FILES} & {path.name for path in source.iterdir()}:
        shutil.copyfile(source / name, folder / name)
    kinds_of = ("Transformer", "Pooling", "Normalize")
    modules = [
        {"idx": index, "name": str(index), "path": f"{index}_{name}" if index else "", "type": f"st.models.{name}"}
        for index, name in enumerate(kinds_of)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24}))
    return folder


def _expected(folder: Path, texts: list[str]) -> Any:
    """Mean pooling by hand, on transformers' own model."""
    from transformers import AutoModel

    tokenizer = checkpoint.load_tokenizer(folder)
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=24, return_tensors="pt")
    with torch.inference_mode():
        vectors = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((vectors * mask).sum(1) / mask.sum(1)).numpy()


def test_pairs_become_texts_that_hang_together() -> None:
    split = embeddings.arranged(Split([("a", "b"), ("c", "d")], [1.0, 4.0], kind="embeddings"))
    assert split.texts == [("a",), ("b",), ("c",), ("d",)]
    assert split.labels == [(0, 1.0), (0, 1.0), (1, 4.0), (1, 4.0)]
    assert split.groups == [0, 0, 1, 1]


def test_the_metric_is_spearmans_of_cosines_in_any_order_and_without_those_that_lack_a_partner() -> None:
    from scipy.stats import spearmanr

    random = np.random.default_rng(0)
    answers = random.normal(size=(61, 8))
    gold = [(number // 2, float(number // 2 * 7 % 11)) for number in range(61)]
    one, other = answers[0:60:2], answers[1:60:2]
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    expected = spearmanr(cosines, [score for _, score in gold[0:60:2]]).statistic
    order = random.permutation(61)
    scores = KIND.score(answers[order], [gold[place] for place in order])
    assert scores[:, 2].sum() == 30
    assert KIND.combine(scores) == pytest.approx(expected)
    assert KIND.resampled(scores, np.ones((2, 61), dtype=np.int64)) == pytest.approx([expected] * 2)
    assert KIND.combine(KIND.score(answers[:1], gold[:1])) == 0


def test_texts_differ_where_their_cosine_is_below_099_whatever_the_lengths_of_their_vectors() -> None:
    expected = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    angles = np.arccos([1.0, 0.9901, 0.9899, -1.0])
    found = 3 * np.column_stack([np.cos(angles), np.sin(angles)])
    compared = KIND.agree(expected, found)
    assert compared.differs.tolist() == [False, False, True, True]
    assert compared.distance[:3] ** 2 / 2 == pytest.approx([0, 0.0099, 0.0101])
    assert KIND.margin(expected) ** 2 / 2 == pytest.approx([0.01] * 4)
    assert KIND.agree(expected, np.full((4, 2), np.nan)).differs.all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mode", ["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_a_pooling_reads_the_tokens_that_are_there_and_no_padding(mode: str, side: str) -> None:
    vectors = torch.tensor([[[1.0, -4.0], [2.0, -5.0], [6.0, -9.0]]])
    expected = {
        "cls": [1, -4], "mean": [3, -6], "max": [6, -4], "lasttoken": [6, -9],
        "mean_sqrt_len_tokens": [9 / 3**0.5, -18 / 3**0.5], "weightedmean": [23 / 6, -41 / 6],
    }[mode]  # fmt: skip
    if mode == "cls" and side == "left":
        pytest.skip("the first token is padding: such a model pads on the right")
    junk = torch.full((1, 2, 2), 77.0)
    padded = torch.cat([junk, vectors] if side == "left" else [vectors, junk], dim=1)
    mask = torch.tensor([[0, 0, 1, 1, 1]] if side == "left" else [[1, 1, 1, 0, 0]])
    assert embeddings._pool(padded, mask, mode)[0].tolist() == pytest.approx(expected)


def test_a_checkpoint_goes_the_whole_way_and_answers_as_transformers_does(encoder: Path, tmp_path: Path) -> None:
    rows = "".join(f'"{one}","{other}",{score}\n' for one, other, score in PAIRS * 3)
    (tmp_path / "pairs.csv").write_text(f"one,other,score\n{rows}")
    task = {"files": {name: "pairs.csv" for name in ("train", "dev", "test")}, "text": ["one", "other"]}
    recipe: dict[str, Any] = {
        "name": "alike",
        "task": task | {"label": "score", "kind": "embeddings", "drop_overlaps": False},
        "stages": [{"adopt": {"path": str(encoder)}}],
        "variants": {"base": ["export"], "int8": ["export", "static_int8"]},
        "engines": [{"onnxruntime": {"tune": False}}],
        "benchmark": {"batch_sizes": [1, 4], "threads": 1, "seconds": 0.05, "rounds": 3, "sample": 8, "warmup": 1},
        "evaluate": {"isa": "off"},
    }
    (tmp_path / "alike.yaml").write_text(json.dumps(recipe))
    done = call("run", "alike.yaml", "--store", "store", "--json", cwd=tmp_path)
    assert done.code in (0, 3), done.stderr
    for line in done.json["lines"]:
        assert line["gate_invariance"] == "passed", line
        assert -100 <= line["accuracy_percent_low"] <= line["accuracy_percent"] <= line["accuracy_percent_high"] <= 100
    assert [line["name"] for line in done.json["lines"] if line["error"]] == []
    assert next(line for line in done.json["lines"] if line["baseline"])["gate_parity"] == "passed"
    built = call(
        "build", "alike.yaml", "--store", "store", "--variant", "base", "--engine", "onnxruntime", "-o", "engine",
        cwd=tmp_path,
    )  # fmt: skip
    assert built.code == 0, built.stderr
    texts = ["a bird sings", "it rains", "word " * 60]
    answers = Predictor(tmp_path / "engine")(texts)
    given = np.array([answer.embedding for answer in answers])
    assert np.abs(given - _expected(encoder, texts)).max() < 1e-5
    data = files.load(
        files.Config(**recipe["task"] | {"files": {"train": str(tmp_path / "pairs.csv")}, "holdout": 0.3})
    )
    graph = next(
        path.parent for path in (tmp_path / "store/onnx").glob("*/manifest.json") if '"export"' in path.read_text()
    )
    batches = dev_batches(graph, context(tmp_path / "work", data))
    metric, _ = dev_accuracy(KIND, load(graph / "model.onnx"), batches, 1)
    vectors = Predictor(tmp_path / "engine").logits(data.dev.texts)
    assert metric == pytest.approx(KIND.combine(KIND.score(vectors, data.dev.labels)))
    interface = json.loads((tmp_path / "engine/interface.json").read_text())
    assert (interface["kind"], interface["max_length"], interface["pair"]) == ("embeddings", 24, False)


def test_the_pooling_is_a_part_of_what_identifies_a_checkpoint(encoder: Path) -> None:
    from toolchain.model import adopt

    before = adopt.identity(adopt.Config(path=str(encoder)))
    (encoder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    after = adopt.identity(adopt.Config(path=str(encoder)))
    assert {name for name in before["files"] if before["files"][name] != after["files"][name]} == {
        "1_Pooling/config.json"
    }


def _with_modules(folder: Path, *names: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([{**modules[1], "type": f"st.models.{name}"} for name in names]))


def test_what_is_not_served_is_refused_by_name(encoder: Path) -> None:
    pooling, settings = encoder / "1_Pooling/config.json", encoder / "config_sentence_transformers.json"
    assert embeddings.from_folder(encoder).config == {embeddings._KEY: {"mode": "mean", "normalize": True}}
    settings.write_text(json.dumps({"prompts": {"query": "find: "}, "default_prompt_name": "query"}))
    with pytest.raises(ModelError, match="the prompt 'find: ' stands in front of every text"):
        embeddings.from_folder(encoder)
    settings.write_text(json.dumps({"prompts": {"query": "find: ", "document": ""}, "default_prompt_name": None}))
    assert embeddings.from_folder(encoder).notes == (
        "the model knows prompts, to be put in front of texts by whoever asks: query ('find: ')",
    )
    pooling.write_text(json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}))
    with pytest.raises(ModelError, match="the pooling is mean, max; served is one of cls, mean"):
        embeddings.from_folder(encoder)
    pooling.write_text(json.dumps({"pooling_mode": "lasttoken"}))
    _with_modules(encoder, "Transformer", "Pooling")
    assert embeddings.from_folder(encoder).config == {embeddings._KEY: {"mode": "lasttoken", "normalize": False}}
    _with_modules(encoder, "Transformer", "Pooling", "Dense")
    with pytest.raises(ModelError, match="the modules Transformer, Pooling, Dense; served are"):
        embeddings.from_folder(encoder)
    (encoder / "modules.json").write_text("{}")
    with pytest.raises(ModelError, match="holds no list of modules"):
        embeddings.from_folder(encoder)
    shutil.copyfile(encoder / "config.json", encoder / "modules.json")
    (encoder / "modules.json").unlink()
    assert "no modules.json" in embeddings.from_folder(encoder).notes[0]


def test_a_task_of_another_kind_and_a_training_are_refused_before_any_work(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("one,other,score\na,b,1\nc,d,2.5\n")
    task: dict[str, Any] = {"files": {"train": "pairs.csv"}, "text": ["one", "other"], "label": "score"}

    def problem(stages: list[Any], **settings: Any) -> str:
        recipe = {"name": "no", "task": task | settings, "stages": stages, "variants": {"base": ["export"]}}
        (tmp_path / "no.yaml").write_text(json.dumps(recipe | {"model": str(encoder)}))
        done = call("validate", "no.yaml", cwd=tmp_path)
        assert done.code == 1, done.stdout
        return done.stdout + done.stderr

    adopt = [{"adopt": {"path": str(encoder)}}]
    assert "is a model for embeddings" in problem(adopt, kind="regression")
    assert "name a task of the kind embeddings" in problem(adopt, kind="regression")
    assert "pairs of texts are not learned from here" in problem(["finetune"], kind="embeddings")
    assert "has 2 columns of text" in problem(adopt, kind="embeddings", text="one")
