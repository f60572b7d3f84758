from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from toolchain.core.data import Dataset
from toolchain.core.errors import DataError
from toolchain.tasks import glue

PAIRS = {"text": ["sentence1", "sentence2"]}


def load(**settings: Any) -> Dataset:
    return glue.load(TypeAdapter(glue.Config).validate_python(settings))


def rows(name: str, count: int, hidden: bool = False) -> dict[str, list[Any]]:
    """Rows in the columns of GLUE's MRPC."""
    return {
        "sentence1": [f"{name} says {i}" for i in range(count)],
        "sentence2": [f"{name} said {i}" for i in range(count)],
        "label": [-1 if hidden else i % 2 for i in range(count)],
        "idx": list(range(count)),
    }


def save(folder: Path, hidden: bool = False) -> str:
    """A DatasetDict as ``save_to_disk`` leaves it."""
    datasets = pytest.importorskip("datasets")
    text = datasets.Value("string")
    names = datasets.ClassLabel(names=["not_equivalent", "equivalent"])
    features = datasets.Features({"sentence1": text, "sentence2": text, "label": names, "idx": datasets.Value("int32")})
    splits = {"train": rows("alice", 40), "validation": rows("bob", 6), "test": rows("carol", 8, hidden)}
    datasets.DatasetDict(
        {name: datasets.Dataset.from_dict(split, features=features) for name, split in splits.items()}
    ).save_to_disk(str(folder))
    return str(folder)


def write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def test_folder_saved_by_datasets(tmp_path: Path) -> None:
    data = load(dataset=save(tmp_path / "mrpc"), **PAIRS)
    assert data.labels == ("not_equivalent", "equivalent")
    assert [len(split) for split in (data.train, data.dev, data.test)] == [40, 6, 8]
    assert data.test.texts[3] == ("carol says 3", "carol said 3")
    assert data.test.labels[3] == 1
    assert data.notes == ()


def test_hidden_test_labels_make_dev_the_test_and_hold_out_a_new_dev(tmp_path: Path) -> None:
    data = load(dataset=save(tmp_path / "mrpc", hidden=True), **PAIRS)
    # A tenth of each class of 20 is held out.
    assert [len(split) for split in (data.train, data.dev, data.test)] == [36, 4, 6]
    assert data.test.texts[0] == ("bob says 0", "bob said 0")
    assert sum(data.dev.labels) == 2
    assert data.notes == (
        "'test' is absent or has no labels: 'validation' is the test, and dev is 4 of the 40 training rows, "
        "held out (seed 17, every class alike)",
    )


@pytest.mark.parametrize("inside", ["", "mrpc", "data"])
def test_folder_of_parquet_shards(tmp_path: Path, inside: str) -> None:
    folder = tmp_path / inside
    for shard in (0, 1):
        write_parquet(folder / f"train-0000{shard}-of-00002.parquet", rows(f"shard{shard}", 10))
    write_parquet(folder / "validation.parquet", rows("bob", 4))
    write_parquet(folder / "test.parquet", rows("carol", 4))
    data = load(dataset=str(tmp_path), subset="mrpc", **PAIRS)
    assert data.labels == ("0", "1")
    assert [text[0] for text in data.train.texts[9:11]] == ["shard0 says 9", "shard1 says 0"]
    assert [len(split) for split in (data.train, data.dev, data.test)] == [20, 4, 4]


def test_wrong_split_and_column_names_suggest_what_is_there(tmp_path: Path) -> None:
    folder = save(tmp_path / "mrpc")
    with pytest.raises(DataError, match="no split 'validaton'") as caught:
        load(dataset=folder, dev="validaton", **PAIRS)
    assert caught.value.hint == "did you mean 'validation'? known: test, train, validation"
    with pytest.raises(DataError, match=r"mrpc: train: no column 'sentence'; columns present: 'sentence1'"):
        load(dataset=folder)


def test_folder_without_data_and_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no data set"):
        load(dataset=str(tmp_path))
    with pytest.raises(DataError, match="no such folder"):
        load(dataset=str(tmp_path / "nowhere"))


def test_single_saved_split_is_refused(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict(rows("alice", 4)).save_to_disk(str(tmp_path / "one"))
    with pytest.raises(DataError, match="holds one split"):
        load(dataset=str(tmp_path / "one"), **PAIRS)


@pytest.mark.parametrize("name", ["../../other/data.arrow", "/data.arrow", "data.bin", 5, {"path": "x"}])
def test_a_saved_split_names_arrow_files_of_its_own_alone(tmp_path: Path, name: object) -> None:
    folder = Path(save(tmp_path / "mrpc"))
    shutil.copytree(folder / "train", tmp_path / "other")
    state = json.loads((folder / "train" / "state.json").read_text())
    (folder / "train" / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": name}]}))
    with pytest.raises(DataError, match=r"train/state\.json names the file .*allowed are \.arrow files inside"):
        load(dataset=str(folder), **PAIRS)


def test_splits_are_folders_inside(tmp_path: Path) -> None:
    folder = Path(save(tmp_path / "mrpc"))
    (folder / "train").rename(tmp_path / "train")
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["../train", "validation", "test"]}))
    with pytest.raises(DataError, match=r"names the split '\.\./train'; allowed are folders inside"):
        load(dataset=str(folder), **PAIRS)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation", "test"]}))
    (folder / "train").symlink_to(tmp_path / "train")
    for read in (load, lambda **settings: glue.identity(glue.Config(**settings))):
        with pytest.raises(DataError, match="mrpc/train is a symbolic link"):
            read(dataset=str(folder), **PAIRS)


@pytest.mark.parametrize("inside", ["", "mrpc", "data"])
def test_parquet_behind_a_link_is_not_read(tmp_path: Path, inside: str) -> None:
    write_parquet(tmp_path / "outside" / "train.parquet", rows("alice", 4))
    folder = tmp_path / "folder"
    write_parquet(folder / inside / "validation.parquet", rows("bob", 4))
    (folder / inside / "train.parquet").symlink_to(tmp_path / "outside" / "train.parquet")
    for read in (load, lambda **settings: glue.identity(glue.Config(**settings))):
        with pytest.raises(DataError, match=r"train\.parquet is a symbolic link"):
            read(dataset=str(folder), subset="mrpc", **PAIRS)
    if inside:
        shutil.rmtree(folder / inside)
        (folder / inside).symlink_to(tmp_path / "outside")
        with pytest.raises(DataError, match=r"leads to .*; allowed are folders inside"):
            load(dataset=str(folder), subset="mrpc", **PAIRS)


def test_damaged_folder_is_an_error(tmp_path: Path) -> None:
    folder = Path(save(tmp_path / "mrpc"))
    for path in folder.glob("train/*.arrow"):
        path.write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="cannot be loaded"):
        load(dataset=str(folder), **PAIRS)


def test_identity_of_a_folder_is_its_content_and_of_a_hub_id_its_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", rows("alice", 4))
    before = glue.identity(glue.Config(dataset=str(tmp_path)))
    json.dumps(before)
    write_parquet(tmp_path / "train.parquet", rows("bob", 4))
    assert glue.identity(glue.Config(dataset=str(tmp_path))) != before
    hub = glue.identity(glue.Config(dataset="nyu-mll/glue", subset="mrpc", revision="abc"))
    assert (hub["dataset"], hub["subset"], hub["revision"]) == ("nyu-mll/glue", "mrpc", "abc")
