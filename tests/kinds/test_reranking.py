"""Passages of a query, ranked by one number for each pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toolchain
from toolchain import kinds
from toolchain.certainty import bootstrap
from toolchain.core.errors import DataError
from toolchain.tasks import files

KIND = kinds.get("reranking")


def by_hand(scores: list[float], relevances: list[float]) -> float:
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], relevances[i]))[:10]
    reached = sum(relevances[i] / np.log2(place + 2) for place, i in enumerate(order))
    ideal = sum(each / np.log2(place + 2) for place, each in enumerate(sorted(relevances, reverse=True)[:10]))
    return float(reached / ideal)


def test_the_metric_is_the_mean_ndcg_of_queries_with_a_relevant_passage() -> None:
    random = np.random.default_rng(0)
    parts = [(random.normal(size=15).round(1), random.integers(0, 3, 15).astype(float)) for _ in range(4)]
    parts.append((random.normal(size=15), np.zeros(15)))  # without a relevant passage: left out
    gold = [KIND.grouped(each, number) for number, (_, own) in enumerate(parts) for each in own]
    mixed = np.random.default_rng(1).permutation(len(gold))
    scores = KIND.score(np.concatenate([own for own, _ in parts])[:, None], gold)[mixed]
    assert KIND.combine(scores) == pytest.approx(np.mean([by_hand(*map(list, part)) for part in parts[:4]]))
    twice = np.where(scores[:, 2] == 1, 2, 0)[None, :]
    assert KIND.resampled(scores, twice)[0] == pytest.approx(by_hand(*map(list, parts[1])))
    whole = bootstrap.interval(KIND.resampled, scores, scores[:, 2].astype(np.int64))
    assert whole.low < whole.estimate < whole.high


def test_a_constant_gains_nothing_by_the_order_of_rows() -> None:
    gold = [KIND.grouped(relevance, 0) for relevance in (1.0, 0.0, 0.0)]
    assert KIND.combine(KIND.score(np.zeros((3, 1)), gold)) == pytest.approx(1 / np.log2(4))
    assert KIND.combine(KIND.score(np.zeros((1, 1)), [(0.0, 0.0)])) == 0.0


def test_losses_are_of_relevances_and_a_teacher_gives_differences() -> None:
    outputs = {"logits": torch.tensor([[1.0], [2.0]])}
    assert float(KIND.loss(outputs, {"labels": torch.tensor([[1.5, 7.0], [4.0, 7.0]])})) == pytest.approx(2.125)
    assert KIND.losses(np.array([[1.0], [2.0]]), [(1.5, 7), (4, 7)]).tolist() == [0.25, 4.0]
    assert float(KIND.soft_loss(outputs, torch.tensor([[11.0], [12.0]]), {}, 2.0)) == 0.0  # the same order and gaps
    assert float(KIND.soft_loss(outputs, torch.tensor([[1.0], [4.0]]), {}, 2.0)) == pytest.approx((0 + 4 + 4 + 0) / 4)


def table(folder: Path, rows: list[str], **settings: Any) -> files.Config:
    (folder / "a.csv").write_text("\n".join(rows) + "\n", "utf-8")
    return files.Config(
        files={"train": str(folder / "a.csv")}, text=("query", "passage"), label="relevance", kind="reranking",
        **settings,
    )  # fmt: skip


HEAD = "query,passage,relevance,topic"
ROWS = [f"query {i // 5},passage {i},{int(i % 5 == 0)},{i // 10}" for i in range(100)]


@pytest.mark.parametrize(("group", "size", "count"), [(None, 5, 20), ("topic", 10, 10)])
def test_rows_of_a_query_are_one_group_and_stay_in_one_part(
    tmp_path: Path, group: str | None, size: int, count: int
) -> None:
    data = files.load(table(tmp_path, [HEAD, *ROWS], group=group))
    parts = [set(split.groups) for split in (data.train, data.dev, data.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == count
    assert all(list(split.groups).count(each) == size for split in (data.dev, data.test) for each in split.groups)
    assert [gold[1] for gold in data.test.labels] == list(data.test.groups)
    identity = files.identity(table(tmp_path, [HEAD, *ROWS], group=group))
    assert identity.get("group") == group


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (["query 1,fine,-1,1"], {}, "a.csv:102: the relevance is '-1'; 0 or more is expected"),
        (["query 1,fine,high,1"], {}, "a.csv:102: the score is 'high'; a number is expected"),
        (["query 1,fine,1,"], {"group": "topic"}, "a.csv:102: empty group in 'topic'"),
        ([], {"group": "subject"}, "no column 'subject'"),
        ([], {"group": "passage"}, "nothing to rank (100 rows, 100 queries)"),
    ],
)
def test_what_is_wrong_with_groups_is_said(
    tmp_path: Path, rows: list[str], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        files.load(table(tmp_path, [HEAD, *ROWS, *rows], **settings))
    assert message in str(caught.value)


def test_groups_are_of_reranking_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a task of the kind regression has no groups"):
        files.Config(files={"train": "a.csv"}, group="topic", kind="regression")
    with pytest.raises(ValueError, match="'relevance' is also the column of the label"):
        table(tmp_path, [HEAD], group="relevance")


WORDS = ("rain", "snow", "wind", "sun")


@pytest.mark.slow
def test_the_pipeline_trains_quantizes_judges_and_reports_a_reranker(tmp_path: Path) -> None:
    paths = {}
    for name, count in (("train", 60), ("dev", 10), ("test", 24)):
        random = np.random.default_rng(count)
        rows = ["query,passage,relevance"]
        for query in range(count):
            order = random.permutation(4).tolist()
            rows += [f'{name} {query}, "{WORDS[k]} {WORDS[random.integers(4)]}", {k}'.replace(", ", ",") for k in order]
        paths[name] = str(tmp_path / f"{name}.csv")
        Path(paths[name]).write_text("\n".join(rows) + "\n", "utf-8")
    document = {
        "task": {"files": paths, "text": ["query", "passage"], "label": "relevance", "kind": "reranking"},
        "model": "scratch:bert-1x32",
        "stages": [{"finetune": {"epochs": 3, "learning_rate": 5e-3, "batch_size": 8}}],
        "variants": {"base": ["export"], "int8": ["export", {"static_int8": {"calibration": "min_max"}}]},
        "engines": [{"onnxruntime": {"tune": False}}],
        "benchmark": {"batch_sizes": [1], "seconds": 0.05, "rounds": 3, "sample": 8},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(document), "utf-8")
    report = toolchain.run(tmp_path / "recipe.yaml", store=tmp_path / "store", output=tmp_path / "report")
    assert len(report.lines) == 2
    for line in report.lines:
        record = line.evaluation
        assert record["kind"] == "reranking"
        assert len(set(record["groups"]["test"])) == 24
        assert record["splits"]["test"]["score"] == pytest.approx(KIND.combine(np.array(record["scores"]["test"])))
        assert line.accuracy.low < line.accuracy.estimate < line.accuracy.high <= 1
        assert line.accuracy.estimate > 0.75  # a constant has 0.68
    assert "nDCG@10 on 96 test examples" in (tmp_path / "report/report.html").read_text("utf-8")
