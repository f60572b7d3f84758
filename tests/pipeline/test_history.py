from __future__ import annotations

import json
import platform
from pathlib import Path

from tests.tiny import tiny
from toolchain.model.checkpoint import read_json, write_json
from toolchain.pipeline.history import accompany, without_folders


def test_an_engine_folder_names_its_checkpoint_and_neither_host_nor_folders() -> None:
    engines = [artifact for artifact in tiny().store.artifacts() if artifact.kind == "engine"]
    assert len(engines) == 2
    for engine in engines:
        assert read_json(engine.path / "history.json")["origin"] == {"source": "scratch:bert-1x32"}
        assert "host" not in engine.manifest["environment"]["machine"]
        assert engine.manifest["environment"]["machine"]["logical_cpus"] >= 1
        for path in engine.path.glob("*.json"):
            values = json.dumps(read_json(path) if path.name != "tokenizer.json" else {})
            assert str(tiny().root) not in values
            assert f'"{platform.node()}"' not in values
    assert tiny().artifact("timing").manifest["environment"]["machine"]["host"] == platform.node()


def test_what_configs_and_settings_say_of_folders_stays_behind(tmp_path: Path) -> None:
    source, out = tmp_path / "graph", tmp_path / "engine"
    source.mkdir()
    out.mkdir()
    write_json(source / "config.json", {"model_type": "bert", "_name_or_path": "/home/me/bert"})
    write_json(source / "tokenizer_config.json", {"model_max_length": 512})
    write_json(source / "interface.json", {})
    (source / "tokenizer.json").write_text("{}")
    origin = {"source": "bert", "digest": "0123"}
    history = [{"technique": "distill", "config": {"teacher": "/home/me/large", "layers": 3}}]
    write_json(source / "history.json", {"techniques": history, "origin": origin})
    accompany(source, out)
    assert read_json(out / "config.json") == {"model_type": "bert"}
    assert (out / "tokenizer_config.json").read_bytes() == (source / "tokenizer_config.json").read_bytes()
    assert read_json(out / "history.json") == {
        "techniques": [{"technique": "distill", "config": {"teacher": "large", "layers": 3}}],
        "origin": origin,
    }


def test_only_paths_become_names() -> None:
    values = {"a": ["/data/train.csv", "org/name", "package:m/x", 3], "b": "~/models/bert", "c": None}
    assert without_folders(values) == {"a": ["train.csv", "org/name", "package:m/x", 3], "b": "bert", "c": None}
