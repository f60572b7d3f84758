"""Makes seeded changes of a small store, and counts how many ``verify`` sees, without a root digest and with it.

    python benchmarks/verify_changes.py --changes 1000 --json changes.json

Each change is made to a copy of the same store. A *careless* change leaves the manifest's seal as it was; a *careful*
one is by somebody who knows how the seal is made, and makes it fit. Then the cost: what ``verify`` takes for a GB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolchain.core import manifest
from toolchain.core.store import MANIFEST, Artifact, Store, digest, key_of
from toolchain.core.verify import verify

#: Kinds of a chain, the first one made from nothing; of each there are as many artifacts as chains.
CHAIN = ("checkpoint", "onnx", "onnx", "engine", "evaluation")
CHAINS = 4

Change = Callable[[random.Random, list[Artifact]], object]


def build(root: Path) -> None:
    """Fill a store with chains of small artifacts, and a timing of all engines."""
    store = Store(root)
    engines = []
    for chain in range(CHAINS):
        made: list[Artifact] = []
        for step, kind in enumerate(CHAIN):
            made.append(_publish(store, kind, made[-1:], f"{chain}.{step}"))
        engines.append(made[3])
    _publish(store, "timing", engines, "timing")


def _publish(store: Store, kind: str, parents: list[Artifact], label: str) -> Artifact:
    parts = {"stage": kind, "label": label, "inputs": [parent.digest for parent in parents]}
    with store.claim(kind, key_of(parts)) as claim:
        assert claim is not None
        for name in ("model.bin", "config.json"):
            (claim.out / name).write_bytes(random.Random(label + name).randbytes(200))
        return store.publish(claim, {
            "parts": parts, "parents": [each.key for each in parents], "metrics": {"accuracy": 0.5, "steps": 8},
            "parent_digests": {each.key: each.statement for each in parents}, "started": "2026-01-01T00:00:00Z",
            "label": label,
        })  # fmt: skip


def _rewrite(artifact: Artifact, change: Callable[[dict[str, Any]], object], *, careful: bool) -> None:
    record = json.loads((artifact.path / MANIFEST).read_text("utf-8"))
    change(record)
    if careful:
        record["seal"] = manifest.seal(record)
    (artifact.path / MANIFEST).write_text(json.dumps(record), "utf-8")


def _any_file(rng: random.Random, artifact: Artifact) -> Path:
    names: list[str] = sorted(artifact.manifest["files"])
    return artifact.path / rng.choice(names)


def _swap(rng: random.Random, artifacts: list[Artifact]) -> None:
    first = rng.choice(artifacts)
    second = rng.choice([each for each in artifacts if each != first])
    aside = first.path.with_name("aside")
    first.path.rename(aside)
    second.path.rename(first.path)
    aside.rename(second.path)


def _swap_files(rng: random.Random, artifacts: list[Artifact]) -> None:
    first, second = rng.sample(artifacts, 2)
    name = rng.choice(sorted(first.manifest["files"]))
    (first.path / name).rename(first.path / "aside")
    (second.path / name).rename(first.path / name)
    (first.path / "aside").rename(second.path / name)


def _flip(rng: random.Random, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _file_and_hash(rng: random.Random, artifact: Artifact, *, careful: bool) -> None:
    path = _any_file(rng, artifact)
    _flip(rng, path)
    entry = {"sha256": digest(path), "bytes": path.stat().st_size}
    _rewrite(artifact, lambda record: record["files"].update({path.name: entry}), careful=careful)


def _link(rng: random.Random, artifact: Artifact) -> None:
    path = _any_file(rng, artifact)
    path.rename(artifact.path.parents[2] / "elsewhere")
    path.symlink_to(artifact.path.parents[2] / "elsewhere")


def _link_folder(artifact: Artifact) -> None:
    artifact.path.rename(artifact.path.parents[2] / "elsewhere")
    artifact.path.symlink_to(artifact.path.parents[2] / "elsewhere")


def _key(rng: random.Random, artifact: Artifact, *, move: bool) -> None:
    key = f"{rng.getrandbits(128):032x}"
    _rewrite(artifact, lambda record: record.update(key=key), careful=move)
    if move:
        artifact.path.rename(artifact.path.with_name(key))


def _parents(rng: random.Random, record: dict[str, Any], others: list[str]) -> None:
    record["parents"] = [rng.choice(others) for _ in record["parents"]] or [rng.choice(others)]
    record["parent_digests"] = dict.fromkeys(record["parents"], "0" * 64)


def _unseal(record: dict[str, Any]) -> None:
    for name in ("format", "seal", "replaced"):
        record.pop(name)


def changes() -> dict[str, Change]:
    """Return every kind of change by name."""
    found: dict[str, Change] = {
        "folders of two artifacts swapped": _swap,
        "files of two artifacts swapped": _swap_files,
        "a bit of a file": lambda rng, all_: _flip(rng, _any_file(rng, rng.choice(all_))),
        "a file cut": lambda rng, all_: os.truncate(_any_file(rng, rng.choice(all_)), rng.randrange(200)),
        "a file deleted": lambda rng, all_: _any_file(rng, rng.choice(all_)).unlink(),
        "a file a link": lambda rng, all_: _link(rng, rng.choice(all_)),
        "an artifact a link": lambda rng, all_: _link_folder(rng.choice(all_)),
        "a file too many": lambda rng, all_: (rng.choice(all_).path / f"x{rng.random()}").touch(),
        "a link too many": lambda rng, all_: (rng.choice(all_).path / "x").symlink_to("/etc/passwd"),
        "a stranger beside artifacts": lambda rng, all_: (rng.choice(all_).path.parent / f"x{rng.random()}").touch(),
        "a manifest deleted": lambda rng, all_: (rng.choice(all_).path / MANIFEST).unlink(),
        "a bit of a manifest": lambda rng, all_: _flip(rng, rng.choice(all_).path / MANIFEST),
        "an artifact deleted": lambda rng, all_: shutil.rmtree(rng.choice(all_).path),
        "a key": lambda rng, all_: _key(rng, rng.choice(all_), move=False),
        "a key and its folder": lambda rng, all_: _key(rng, rng.choice(all_), move=True),
        "a seal taken out": lambda rng, all_: _rewrite(rng.choice(all_), _unseal, careful=False),
    }
    fields: dict[str, Callable[[random.Random, dict[str, Any], list[str]], object]] = {
        "kind": lambda rng, record, _: record.update(kind=rng.choice(("data", "answers", "sensitivity"))),
        "metrics": lambda rng, record, _: record["metrics"].update(accuracy=rng.random()),
        "parts": lambda rng, record, _: record["parts"].update(label=str(rng.random())),
        "parents": _parents,
        "time": lambda rng, record, _: record.update(started=f"20{rng.randrange(10, 99)}-01-01T00:00:00Z"),
    }
    for careful in (False, True):
        how = "careful" if careful else "careless"
        for name, field in fields.items():
            found[f"{name}, {how}"] = _of_field(field, careful=careful)
        found[f"a file and its hash, {how}"] = _of_files(careful=careful)
    return found


def _of_field(field: Callable[[random.Random, dict[str, Any], list[str]], object], *, careful: bool) -> Change:
    def change(rng: random.Random, artifacts: list[Artifact]) -> None:
        chosen, keys = rng.choice(artifacts), [artifact.key for artifact in artifacts]
        _rewrite(chosen, lambda record: field(rng, record, keys), careful=careful)

    return change


def _of_files(*, careful: bool) -> Change:
    return lambda rng, artifacts: _file_and_hash(rng, rng.choice(artifacts), careful=careful)


def count(number: int, seed: int, folder: Path) -> dict[str, dict[str, int]]:
    """Make changes, the kinds in turn, and count what is seen.

    Returns:
        By kind: ``made``, ``seen`` without a root, ``with_root``.
    """
    build(folder / "store")
    root, kinds = verify(Store(folder / "store")).root, changes()
    found: dict[str, dict[str, int]] = defaultdict(lambda: {"made": 0, "seen": 0, "with_root": 0})
    for index in range(number):
        name = list(kinds)[index % len(kinds)]
        copy = folder / "changed" / "store"
        shutil.rmtree(copy.parent, ignore_errors=True)
        shutil.copytree(folder / "store", copy)
        kinds[name](random.Random(seed * 1_000_003 + index), list(Store(copy).artifacts()))
        after = verify(Store(copy))
        seen = bool(after.problems)
        found[name]["made"] += 1
        found[name]["seen"] += seen
        found[name]["with_root"] += seen or after.root != root
    return dict(found)


def seconds_per_gb(folder: Path, size_mb: int) -> float:
    """Return what ``verify`` takes for a GB of files, from one artifact that lies in the page cache."""
    store = Store(folder / "large")
    parts = {"stage": "checkpoint"}
    with store.claim("checkpoint", key_of(parts)) as claim:
        assert claim is not None
        with (claim.out / "model.bin").open("wb") as file:
            for block in range(size_mb):
                file.write(random.Random(block).randbytes(2**20))
        store.publish(claim, {"parts": parts, "parents": [], "metrics": {}})
    started = time.monotonic()
    assert not verify(Store(store.root)).problems
    return (time.monotonic() - started) / (size_mb * 2**20 / 1e9)


def main() -> int:
    """Make the changes and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size-mb", type=int, default=512, help="what the cost is measured on")
    parser.add_argument("--json", type=Path, help="write the counts here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="changes-") as name:
        found = count(arguments.changes, arguments.seed, Path(name))
        cost = seconds_per_gb(Path(name), arguments.size_mb)
    print(f"{'change':40s} {'made':>5s} {'seen':>5s} {'with root':>9s}")
    for kind, counts in found.items():
        print(f"{kind:40s} {counts['made']:5d} {counts['seen']:5d} {counts['with_root']:9d}")
    total = {key: sum(counts[key] for counts in found.values()) for key in ("made", "seen", "with_root")}
    print(f"{'all':40s} {total['made']:5d} {total['seen']:5d} {total['with_root']:9d}")
    print(f"verify takes {cost:.2f} s per GB (from memory)")
    if arguments.json:
        record = {"total": total, "changes": found, "seconds_per_gb": cost}
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return 0 if total["with_root"] == total["made"] else 1


if __name__ == "__main__":
    sys.exit(main())
