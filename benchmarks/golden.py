"""Compares what another commit makes of a recipe with what these sources make of it, artifact by artifact.

    python benchmarks/golden.py --against main~20
    python benchmarks/golden.py --against v0.1.0 --recipe recipes/smoke.yaml --json golden.json

Both run in this environment, each from its own sources, into a store of its own. A change that should change no result
keeps every key, and the bytes of every checkpoint, graph, engine and evaluation under it; a JSON file may gain fields.
Exit code 1 where anything differs. A TensorRT plan is not the same bytes twice, and is only looked for.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from toolchain.core.artifact import Artifact
from toolchain.core.store import Store

ROOT = Path(__file__).resolve().parent.parent

#: Kinds whose files a second run on the same machine gives again; timings are not.
REPEATABLE = ("checkpoint", "onnx", "engine", "evaluation")


def main() -> int:
    """Run both and print what differs.

    Returns:
        0 where nothing does, 1 where something does, or the exit code of a run that failed.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", required=True, metavar="COMMIT")
    parser.add_argument("--recipe", type=Path, default=ROOT / "benchmarks/golden.yaml")
    parser.add_argument("--json", type=Path, help="write the comparison here")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="golden-") as name:
        folder = Path(name)
        unpack(chosen.against, folder / "sources")
        for sources, store in ((folder / "sources", folder / "before"), (ROOT, folder / "after")):
            print(f"running {chosen.recipe.name} from {sources}", file=sys.stderr, flush=True)
            if code := run(sources, chosen.recipe.resolve(), store):
                return code
        result = compare(Store(folder / "before"), Store(folder / "after"))
    print(summary(result))
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return int(bool(result["missing"] or result["new"] or result["differ"]))


def unpack(commit: str, out: Path) -> None:
    """Write the sources of a commit to a folder."""
    out.mkdir()
    archive = subprocess.run(["git", "archive", commit, "toolchain"], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", str(out)], input=archive.stdout, check=True)


def run(sources: Path, recipe: Path, store: Path) -> int:
    """Run a recipe from these sources and return the exit code; 3 says that nothing may be shipped, and is none."""
    environment = os.environ | {"PYTHONPATH": str(sources), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "toolchain", "run", str(recipe), "--store", str(store), "--threads", "1"]
    done = subprocess.run(command, cwd=sources, env=environment, stdout=subprocess.DEVNULL)
    return 0 if done.returncode == 3 else done.returncode


def compare(before: Store, after: Store) -> dict[str, Any]:
    """Return what two stores have in common.

    Returns:
        ``equal``: how many artifacts of each kind are the same bytes; ``missing`` and ``new``: keys of one store alone;
        ``added``: fields that JSON files of the second have besides those of the first; ``differ``: files whose bytes,
        or whose values under the same field, are others.
    """
    first, second = _repeatable(before), _repeatable(after)
    result: dict[str, Any] = {
        "missing": sorted(first.keys() - second.keys()), "new": sorted(second.keys() - first.keys()),
        "equal": Counter(), "added": Counter(), "differ": [],
    }  # fmt: skip
    for name in sorted(first.keys() & second.keys()):
        differ = list(_differences(first[name], second[name], result["added"]))
        result["differ"] += [f"{name}/{file}" for file in differ]
        result["equal"][name.partition("/")[0]] += not differ
    return result


def _repeatable(store: Store) -> dict[str, Artifact]:
    return {f"{each.kind}/{each.key}": each for each in store.artifacts() if each.kind in REPEATABLE}


def _differences(first: Artifact, second: Artifact, added: Counter[str]) -> list[str]:
    """Return the files of two artifacts that differ, and count the fields that the second's JSON files have more."""
    names = {path.name for artifact in (first, second) for path in artifact.path.iterdir() if path.is_file()}
    return [
        name for name in sorted(names - {"manifest.json"}) if not _same(first.path / name, second.path / name, added)
    ]


def _same(old: Path, new: Path, added: Counter[str]) -> bool:
    """Return whether a file is what it was, but for a plan, which is not the same bytes twice, and for added fields."""
    if not (old.is_file() and new.is_file()):
        return False
    return old.suffix == ".plan" or old.read_bytes() == new.read_bytes() or _grown(old, new, added)


def _grown(old: Path, new: Path, added: Counter[str]) -> bool:
    """Return whether a JSON object has all fields that it had, and others besides."""
    if old.suffix != ".json":
        return False
    before, after = json.loads(old.read_text("utf-8")), json.loads(new.read_text("utf-8"))
    if not isinstance(before, dict) or any(after.get(key) != value for key, value in before.items()):
        return False
    added.update(f"{old.name}: {key}" for key in after.keys() - before.keys())
    return True


def summary(result: dict[str, Any]) -> str:
    """Return the comparison in words."""
    lines = [f"{count} equal: {kind}" for kind, count in sorted(result["equal"].items())]
    lines += [f"{count} have a field more: {field}" for field, count in sorted(result["added"].items())]
    lines += [f"differs: {name}" for name in result["differ"]]
    lines += [f"only before: {name}" for name in result["missing"]] + [f"only now: {name}" for name in result["new"]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
