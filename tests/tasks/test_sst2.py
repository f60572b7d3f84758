from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.core.errors import DataError
from toolchain.tasks import sst2

#: Runs in a process of its own: the vendor reads its offline switch once, when it is imported.
OFFLINE = """
import time
from toolchain.core.errors import DataError
from toolchain.tasks import glue, sst2
for load in (lambda: sst2.load(sst2.Config()), lambda: glue.load(glue.Config(dataset="nyu-mll/glue", subset="mrpc"))):
    started = time.monotonic()
    try:
        load()
    except DataError as error:
        # A name service that answers slowly takes a few seconds; the vendor's own retries take 23.
        print(time.monotonic() - started < 15, str(error).replace("\\n", " "))
"""


def write(folder: Path, **files: str) -> sst2.Config:
    for name, text in files.items():
        (folder / f"{name}.tsv").write_text(text)
    return sst2.Config(folder=str(folder))


def test_plain_layout(tmp_path: Path) -> None:
    config = write(
        tmp_path,
        train="a fine film\t1\na bad one\t0\n",
        dev="dull\t0\n",
        test="lovely\t1\n",
    )
    data = sst2.load(config)
    assert list(data.train.texts) == [("a fine film",), ("a bad one",)]
    assert (list(data.train.labels), list(data.dev.labels), list(data.test.labels)) == ([1, 0], [0], [1])
    assert (data.labels, data.notes) == (("negative", "positive"), ())


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        (None, "{} has no test.tsv"),
        ("index\tsentence\n0\tabc\n", "{}/test.tsv has no labels"),
        ("sentence\tlabel\nabc\t-1\n", "{}/test.tsv has no labels"),
    ],
)
def test_dev_serves_where_glue_has_no_test(tmp_path: Path, test: str | None, reason: str) -> None:
    header = "sentence\tlabel\n"
    config = write(
        tmp_path,
        train=header + 'an "odd" film \t1\nbad \t0\n',
        dev=header + "dull \t0\n",
        **({"test": test} if test else {}),
    )
    data = sst2.load(config)
    assert data.test is data.dev
    assert data.train.texts[0] == ('an "odd" film',)
    assert data.notes == (
        f"{reason.format(tmp_path)}: dev serves as test, so what selection reads is also what judges",
    )


def test_test_sentences_among_the_training_phrases_are_left_out(tmp_path: Path) -> None:
    config = write(
        tmp_path, train="no more\t0\nbrilliant !\t1\nplain\t1\n", dev="x\t0\n", test="brilliant ! '\t1\nNo  more\t0\n"
    )
    data = sst2.load(config)
    assert list(data.train.texts) == [("plain",)]
    assert data.notes == ("2 of 2 different test texts also occur in train: 2 training rows left out",)


def test_foreign_label_is_named(tmp_path: Path) -> None:
    config = write(tmp_path, train="a\t1\nb\t0\nc\t2\n", dev="x\t0\n")
    with pytest.raises(DataError, match=r"train\.tsv:3: unknown label '2'; known: negative, positive"):
        sst2.load(config)


def test_missing_folder_or_file_is_said_by_load_and_identity(tmp_path: Path) -> None:
    for call in (sst2.load, sst2.identity):
        with pytest.raises(DataError, match="no such folder"):
            call(sst2.Config(folder=str(tmp_path / "nowhere")))
        with pytest.raises(DataError, match=r"train\.tsv: no such file"):
            call(sst2.Config(folder=str(tmp_path)))


def test_identity_follows_content(tmp_path: Path) -> None:
    before = sst2.identity(write(tmp_path, train="a\t1\nb\t0\n", dev="x\t0\n"))
    assert sst2.identity(write(tmp_path, train="a\t1\nb\t0\n")) == before
    assert sst2.identity(write(tmp_path, test="y\t0\n")) != before
    assert sst2.identity(sst2.Config()) != sst2.identity(sst2.Config(source="phrases"))


def test_without_network_hub_tasks_fail_fast_with_a_hint(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    # Port 9 discards: nothing listens there, which is as good as no network.
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "PATH": ""}
    for offline in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", OFFLINE],
            env=environment | {"HF_HUB_OFFLINE": offline},
            capture_output=True,
            text=True,
            check=True,
        )
        first, second = done.stdout.splitlines()
        assert first.startswith("True SetFit/sst2: the hub cannot be reached and the cache does not hold it")
        assert "--data FOLDER" in first
        assert second.startswith("True nyu-mll/glue: the hub cannot be reached and the cache does not hold it")
        assert "Retrying" not in done.stderr


def test_files_behind_links_are_not_read(tmp_path: Path) -> None:
    config = write(tmp_path, train="a fine film\t1\na bad one\t0\n", dev="dull\t0\n")
    (tmp_path / "test.tsv").symlink_to(tmp_path / "dev.tsv")
    for read in (sst2.load, sst2.identity):
        with pytest.raises(DataError, match=r"test\.tsv is a symbolic link"):
            read(config)
