"""Cases of model folders: of a checkpoint as a stranger would send it, one file is changed."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_readers import changes
from fuzz_readers.goods import MODULE, RECIPE, TASK, Reducer

#: Options of direct commands.
DIRECT = ("--task", TASK, "-q", "--store", "made")
#: A command that adopts a checkpoint, loads it, and then refuses to shrink it so far: no training, no tracing.
LOADED = ("compress", "model", "-t", "low_rank", *DIRECT)


def write(path: Path, content: bytes | str) -> None:
    """Write a changed file; ``OUTSIDE`` in it becomes the path of the folder that no case may open."""
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    path.write_bytes(data.replace(b"OUTSIDE", os.fsencode(Path.cwd().parent.parent / "outside")))


def change_json(rng: random.Random, path: Path) -> None:
    """Change a JSON file: its tree mostly, else its bytes, else what it is."""
    if rng.random() < 0.06:
        changes.file(rng, path)
    else:
        write(path, changes.dumped(rng, changes.tree(rng, json.loads(path.read_text("utf-8")))))


def model(rng: random.Random, good: Path, name: str, change: Callable[[random.Random, Path], None]) -> list[str]:
    """A checkpoint folder of which one file is changed."""
    shutil.copytree(good / ("sharded" if name.endswith("index.json") else "model"), "model")
    change(rng, Path("model") / name)
    what = rng.randrange(20)
    if what < 4:
        Path("r.yaml").write_text(RECIPE.replace("scratch:bert-1x32", "./model"), "utf-8")
        return ["validate", "r.yaml"] if what < 2 else ["explain", "r.yaml", "--store", "made"]
    if what == 4:
        return ["init", "model", "--task", "reviews", "-o", "made.yaml"]
    return ["export", "model", *DIRECT] if what == 5 else list(LOADED)


def config(rng: random.Random, path: Path) -> None:
    """Change ``config.json``: code of its own, kernels and quantizers by name, sizes, or any value."""
    if rng.random() > 0.15:
        change_json(rng, path)
        return
    (path.parent / "evil.py").write_text(MODULE, "utf-8")
    config = json.loads(path.read_text("utf-8"))
    names = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoTokenizer")
    config |= rng.choice(
        (
            {"auto_map": dict.fromkeys(names, "evil.C"), "model_type": "evilbert"},
            {"auto_map": dict.fromkeys(names, "evil.C")}, {"attn_implementation": "org/kernel"},
            {"_attn_implementation": "org/kernel"}, {"quantization_config": {"quant_method": "bitsandbytes"}},
            {"quantization_config": {"quant_method": "gptq", "bits": 4}}, {"tokenizer_class": "evil.C"},
            {"architectures": ["evil.C"]}, {"num_hidden_layers": 1_000_000}, {"vocab_size": 2**31},
        )
    )  # fmt: skip
    write(path, json.dumps(config))


_SPLIT = {"type": "Split", "pattern": {"Regex": "(a|a)*b"}, "behavior": "Isolated", "invert": False}


def tokenizer(rng: random.Random, path: Path) -> None:
    """Change ``tokenizer.json``: parts that never end or grow without bound, or any value."""
    if rng.random() > 0.2:
        change_json(rng, path)
        return
    value = json.loads(path.read_text("utf-8"))
    part, change = rng.choice(
        (
            ("pre_tokenizer", {"type": "FixedLength", "length": 0}),
            ("pre_tokenizer", _SPLIT),
            ("normalizer", {"type": "Replace", "pattern": {"String": ""}, "content": "x" * 1000}),
            ("normalizer", {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "x" * 9000}] * 9}),
            ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "////"}),
            ("post_processor", _template(50)), ("post_processor", _template(5000)),
            ("truncation", {"max_length": 0, "strategy": "LongestFirst", "stride": 99, "direction": "Right"}),
            ("padding", {"strategy": {"Fixed": 2**40}, "direction": "Left", "pad_to_multiple_of": 0, "pad_id": 2**31,
                         "pad_type_id": 0, "pad_token": "x"}),
            ("decoder", {"type": "WordPiece"}), ("added_tokens", [{"id": 2**31, "content": "x"}]),
        )
    )  # fmt: skip
    write(path, json.dumps(value | {part: change}))


def _template(count: int) -> dict[str, Any]:
    return {
        "type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * count,
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}] * count,
        "special_tokens": {},
    }  # fmt: skip


def tokenizer_config(rng: random.Random, path: Path) -> None:
    """Change ``tokenizer_config.json``: code of its own, files elsewhere, or any value."""
    if rng.random() > 0.15:
        change_json(rng, path)
        return
    (path.parent / "evil.py").write_text(MODULE, "utf-8")
    value = json.loads(path.read_text("utf-8"))
    change = rng.choice(
        (
            {"auto_map": {"AutoTokenizer": ["evil.C", "evil.C"]}}, {"tokenizer_class": "evil.C"},
            {"tokenizer_file": "OUTSIDE/secret.txt"}, {"vocab_file": "../../outside/secret.txt"},
            {"chat_template": "{{ ''.__class__.__mro__ }}"}, {"model_max_length": 10**30}, {"padding_side": "up"},
            {"added_tokens_decoder": {"999999999999": {"content": "x"}}}, {"extra_special_tokens": {"a": {"b": "c"}}},
        )
    )  # fmt: skip
    write(path, json.dumps(value | change))


def safetensors(rng: random.Random, path: Path) -> None:
    """Change weights: their header, their bytes, or a pickle in their place."""
    content = path.read_bytes()
    what = rng.randrange(20)
    if what < 11:
        (size,) = struct.unpack("<Q", content[:8])
        header = changes.dumped(rng, changes.tree(rng, json.loads(content[8 : 8 + size])))
        length = len(header) if rng.random() < 0.9 else rng.choice((0, 2**63, 2**40, len(header) - 1))
        write(path, struct.pack("<Q", length) + header + content[8 + size :])
    elif what < 16:
        write(path, changes.raw(rng, content))
    elif what == 16:
        changes.file(rng, path)
    else:
        path.unlink()
        name = rng.choice(("pytorch_model.bin", "model.safetensors", "model.pt", "training_args.bin", "tf_model.h5"))
        (path.parent / name).write_bytes(pickle.dumps(Reducer()))


def index(rng: random.Random, path: Path) -> None:
    """Change the index of several files of weights: names outside, pickles, or any value."""
    if rng.random() > 0.35:
        change_json(rng, path)
        return
    (path.parent / "weights.bin").write_bytes(pickle.dumps(Reducer()))
    value = json.loads(path.read_text("utf-8"))
    names = ("../../outside/secret.safetensors", "OUTSIDE/secret.safetensors", "weights.bin", "config.json", "a\nb", "")
    chosen = rng.choice(names)
    for name in list(value["weight_map"])[:: rng.choice((1, 2, 9))]:
        value["weight_map"][name] = chosen
    write(path, json.dumps(value))


def shard(rng: random.Random, good: Path) -> list[str]:
    """A checkpoint of two files of weights, whose index is changed."""
    return model(rng, good, "model.safetensors.index.json", index)
