"""Models from strangers: nothing of theirs runs, is fetched, or is read from outside of their folder."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.builders import classifier_folder, writer_folder
from tests.command import ROOT
from toolchain.core.errors import ModelError
from toolchain.model import checkpoint, pretrained, source

CODE = "from pathlib import Path\nPath(__file__).with_name('trace').touch()\nC = T = None\n"


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A checkpoint with ``evil.py`` beside it, which leaves a trace when it runs."""
    folder = Path(shutil.copytree(classifier_folder(), tmp_path / "stranger"))
    (folder / "evil.py").write_text(CODE)
    return folder


def change(path: Path, **settings: Any) -> None:
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(known | settings))


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "evil.C"}, "model_type": "evilbert"}, "auto_map names Python code"),
        ("config.json", {"auto_map": {"AutoModelForSequenceClassification": "evil.C"}}, "auto_map names Python code"),
        ("config.json", {"text_config": {"auto_map": {"AutoConfig": "o/r--evil.C"}}}, "auto_map names Python code"),
        ("config.json", {"custom_pipelines": {"x": {"impl": "evil.C"}}}, "custom_pipelines names Python code"),
        ("config.json", {"attn_implementation": "org/kernel"}, "attn_implementation is 'org/kernel', which is not a"),
        ("config.json", {"_attn_implementation": {"": "sdpa", "text": "o/k@v1:f"}}, "_attn_implementation is 'o/k@v1"),
        ("config.json", {"_attn_implementation": "flash_attention_2"}, "allowed: eager, sdpa"),
        ("config.json", {"experts_implementation": "org/kernel"}, "experts_implementation is 'org/kernel'"),
        ("config.json", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "with another package"),
        ("config.json", {"transformers_weights": "adapter_model.bin"}, "names another file of weights"),
        ("config.json", {"backbone": "org/model", "use_pretrained_backbone": True}, "fetch another model"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "evil.T"]}}, "auto_map names Python code"),
        ("tokenizer_config.json", {"auto_map": ["evil.T", None]}, "auto_map names Python code"),
        ("generation_config.json", {"compile_config": {"backend": "evil"}}, "compile and run code"),
    ],
)  # fmt: skip
def test_what_would_run_or_be_fetched_is_refused_by_name(
    stranger: Path, file: str, settings: dict[str, Any], message: str
) -> None:
    change(stranger / file, **settings)
    for load in (checkpoint.load_model, checkpoint.load_tokenizer, pretrained.config):
        with pytest.raises(ModelError, match=r"config\.json: ") as error:
            load(stranger)
        assert message in error.value.message
        assert error.value.hint
    with pytest.raises(ModelError, match=r"config\.json: "):
        source.resolve(str(stranger))  # before anything is loaded
    assert not (stranger / "trace").exists()


def test_settings_that_only_look_like_it_are_taken(stranger: Path) -> None:
    change(
        stranger / "config.json", auto_map={}, quantization_config=None, _attn_implementation="eager",
        label2id={"backbone": 0, "auto_map": 1}, id2label={"0": "backbone", "1": "auto_map"},
    )  # fmt: skip
    assert checkpoint.load_model(stranger).config.num_labels == 2


def test_a_command_reads_no_answer_and_runs_nothing(stranger: Path) -> None:
    change(stranger / "config.json", auto_map={"AutoConfig": "evil.C"}, model_type="evilbert")
    done = subprocess.run(
        [sys.executable, "-m", "toolchain", "export", stranger, "--store", stranger.parent / "store"],
        input="yes\n" * 100, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1
    assert "auto_map names Python code" in done.stderr
    assert "Traceback" not in done.stderr
    assert "[y/N]" not in done.stdout + done.stderr
    assert not (stranger / "trace").exists()


def test_a_tokenizer_that_names_files_reads_its_own(stranger: Path, tmp_path: Path) -> None:
    own = checkpoint.load_tokenizer(stranger).get_vocab()
    other = json.loads((stranger / "tokenizer.json").read_text())
    other["added_tokens"].append(dict(other["added_tokens"][0], id=len(own), content="outside"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(other))
    outside = {name: str(tmp_path / "tokenizer.json") for name in ("tokenizer_file", "vocab_file", "vocab")}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        change(stranger / name, **outside, fast_tokenizer_files=["../tokenizer.json"])
        assert checkpoint.load_tokenizer(stranger).get_vocab() == own


@pytest.mark.parametrize("name", ["BertJapaneseTokenizer", "RagTokenizer", "Trainer", "pipeline"])
def test_a_tokenizer_class_that_brings_other_programs_is_refused(stranger: Path, name: str) -> None:
    change(stranger / "tokenizer_config.json", tokenizer_class=name, mecab_kwargs={"mecab_option": "-r /etc/passwd"})
    with pytest.raises(ModelError, match=f"{name} has no fast version"):
        checkpoint.load_tokenizer(stranger)


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("place", ["../outside/x.safetensors", "weights.bin", "/x.safetensors", "a/b.safetensors", 5])
def test_an_index_names_safetensors_files_of_its_folder_alone(stranger: Path, tmp_path: Path, place: Any) -> None:
    trace = tmp_path / "trace"
    for target in (tmp_path / "outside", stranger / "a"):
        target.mkdir()
    (stranger / "model.safetensors").rename(tmp_path / "outside" / "x.safetensors")
    shutil.copy(tmp_path / "outside" / "x.safetensors", stranger / "a" / "b.safetensors")
    (stranger / "weights.bin").write_bytes(pickle.dumps(Bomb(trace)))
    (stranger / "other.safetensors").touch()
    index = {"metadata": {}, "weight_map": {"bert.embeddings.LayerNorm.bias": place}}
    (stranger / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"allowed are \*\.safetensors files of its own folder"):
        checkpoint.load_model(stranger)
    assert not trace.exists()


def test_shards_are_loaded_and_all_are_in_the_key(stranger: Path) -> None:
    model = checkpoint.load_model(stranger)
    whole = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.save_pretrained(stranger, max_shard_size="200KB")
    (stranger / "model.safetensors").unlink()
    shards = sorted(stranger.glob("*.safetensors"))
    assert len(shards) > 2
    for name, weight in checkpoint.load_model(stranger).state_dict().items():
        assert weight.equal(whole[name])
    assert {path.name for path in shards} <= set(source.resolve(str(stranger)).identity["files"])


def test_a_model_in_the_hub_s_cache_is_loaded_through_its_links(stranger: Path, tmp_path: Path) -> None:
    model = tmp_path / "hub" / "models--org--name"
    snapshot = model / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (model / "blobs").mkdir()
    for number, path in enumerate(sorted(stranger.glob("*.*"))):
        path.rename(model / "blobs" / f"{number:02x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:02x}")
    text = ["a warm and funny film"]
    assert checkpoint.load_model(snapshot).config.num_labels == 2
    assert checkpoint.load_tokenizer(snapshot)(text) == checkpoint.load_tokenizer(classifier_folder())(text)
    names = {path.name for path in classifier_folder().iterdir()} - {"manifest.json"}
    assert set(source.resolve(str(snapshot)).identity["files"]) == names


def test_a_change_after_a_look_is_seen(stranger: Path) -> None:
    source.resolve(str(stranger))
    change(stranger / "config.json", auto_map={"AutoConfig": "evil.C"})
    with pytest.raises(ModelError, match="auto_map names Python code"):
        source.resolve(str(stranger))


def test_no_pickle_is_opened_whatever_it_is_called(stranger: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    data = pickle.dumps(Bomb(trace))
    names = (".metadata", "pytorch_model.bin", "training_args.bin", "model.pt", "model.pth", "model.ckpt", "a.npy",
             "adapter_model.bin", "vocab.pkl", "optimizer.pt", "__0_0.distcp")  # fmt: skip
    for name in names:
        (stranger / name).write_bytes(data)
    change(stranger / "pytorch_model.bin.index.json", metadata={}, weight_map={"x": "pytorch_model.bin"})
    (stranger / "custom_generate").mkdir()
    (stranger / "custom_generate" / "generate.py").write_text(CODE)
    checkpoint.load_model(stranger)
    checkpoint.load_tokenizer(stranger)
    assert not trace.exists()
    (stranger / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match="weights are damaged"):
        checkpoint.load_model(stranger)
    assert not trace.exists()


def test_a_writer_s_generation_code_is_not_run(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(writer_folder("CausalLM"), tmp_path / "writer"))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(CODE)
    pretrained.model(folder, "CausalLM")
    assert not (folder / "custom_generate" / "trace").exists()


def test_nothing_else_loads_with_transformers_or_unpickles() -> None:
    found = set()
    for path in sorted((ROOT / "toolchain").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "from_pretrained":
                found.add(path.name)
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {getattr(node, "module", None) or "", *(name.name for name in node.names)}
                assert not names & {"pickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
                owner = ast.unparse(node.func.value)
                assert owner != "torch", path
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", path
    assert found == {"pretrained.py"}
