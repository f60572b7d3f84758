"""No file outside the named folder, the store, the interpreter and temporary folders is opened."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import classifier_folder, engine_folder, onnx_folder
from tests.command import ROOT
from tests.model.test_pretrained import Bomb
from tests.shared import once
from tests.tasks.test_glue import save

#: What the interpreter and its libraries read of the machine.
MACHINE = ("/proc", "/sys", "/dev", "/usr", "/etc", "/lib", sys.prefix, sys.base_prefix, str(ROOT))


#: Names under which tools leave pickles.
PICKLES = ("pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "training_args.bin", "optimizer.pt", "a.npy",
           "a.npz", "data.pkl", ".metadata", "adapter_model.bin", "scheduler.bin", "cache.joblib")  # fmt: skip


def bombs(folder: Path, trace: Path) -> None:
    for name in PICKLES:
        (folder / name).write_bytes(pickle.dumps(Bomb(trace)))


def links(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(folder.parent / "secret" / name)
    return folder


@pytest.mark.skipif(os.name != "posix", reason="links are made")
def test_nothing_outside_of_a_stranger_s_folder_is_opened(tmp_path: Path) -> None:
    root = tmp_path / "root"
    sources = {"checkpoint": classifier_folder(), "onnx": onnx_folder(), "engine": once("engine", engine_folder)}
    sources["served"] = sources["engine"]
    for name, source in sources.items():
        shutil.copytree(source, root / name)
        shutil.copytree(source, root / "secret", dirs_exist_ok=True)

    def copy(name: str, case: str) -> Path:
        return Path(shutil.copytree(sources[name], root / f"{name}-{case}"))

    for name, source in sources.items():
        bombs(links(copy(name, "more"), "README.md", "extra.bin", "evil.py"), tmp_path / "trace")
        for file in ("tokenizer.json", "config.json", "interface.json", "model.safetensors", "model.onnx"):
            if (source / file).exists():
                links(copy(name, f"link-{file.replace('.', '-')}"), file)
    index = {"metadata": {}, "weight_map": {"classifier.bias": "../secret/model.safetensors"}}
    (copy("checkpoint", "index") / "model.safetensors.index.json").write_text(json.dumps(index))
    named = {"tokenizer_file": "../secret/tokenizer.json", "vocab_file": str(root / "secret" / "tokenizer.json")}
    for name in ("tokenizer_config", "special_tokens_map"):
        (copy("checkpoint", name) / f"{name}.json").write_text(json.dumps(named | {"pad_token": "[PAD]"}))
    save(root / "data")
    shutil.copytree(root / "data" / "train", root / "secret", dirs_exist_ok=True)
    shutil.copytree(root / "data", root / "data-state")
    bombs(Path(shutil.copytree(root / "data", root / "data-more")), tmp_path / "trace")
    state = {"_data_files": [{"filename": "../../secret/data-00000-of-00001.arrow"}]}
    (root / "data-state" / "train" / "state.json").write_text(json.dumps(state))
    (root / "store").mkdir()
    (tmp_path / "temp").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "temp"), "HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.model.opens", root], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "trace").exists()
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    taken = {line[1] for line in lines if line[0] == "taken"}
    refused = {line[1] for line in lines if line[0] == "refused"}
    opened = [Path(line.partition(" ")[2]) for line in done.stdout.splitlines() if line.startswith("opened ")]
    assert len(opened) > 50
    assert [path for path in opened if "secret" in str(path)] == []
    allowed = [*MACHINE, *(str(tmp_path / name) for name in ("temp", "home")), str(root / "store")]
    folders = [str(root / name) for name in taken | refused]
    outside = {str(path) for path in opened if path.is_absolute() and not str(path).startswith((*allowed, *folders))}
    assert outside <= {str(root)}  # which the helper lists
    paths_ignored = {"checkpoint-tokenizer_config", "checkpoint-special_tokens_map"}
    assert taken == {*sources, "data", "data-more", *paths_ignored, *(f"{name}-more" for name in sources)}
    assert len(refused) >= 14
    assert {"checkpoint-index", "checkpoint-link-model-safetensors", "onnx-link-model-onnx", "data-state"} <= refused
