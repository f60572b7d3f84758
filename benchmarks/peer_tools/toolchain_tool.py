"""This project's command line: ``toolchain build`` of one variant for one engine, from the checkpoint, on a new store.

Settings: ``recipe``, the text of a recipe with that one variant and engine; JSON is YAML.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))
from peer_tools.shared import Asked, main


def work(asked: Asked, out: Path) -> Sequence[str]:
    """Builds; an engine folder."""
    from toolchain.cli import main as toolchain

    recipe, made = Path("recipe.yaml"), Path("made")
    recipe.write_text(asked["recipe"], "utf-8")
    command = ["build", str(recipe), "--store", "store", "--threads", str(asked["threads"]), "-o", str(made)]
    try:
        toolchain(command)
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"toolchain build ended with code {ended.code}") from ended
    shutil.copytree(made, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
    return []


if __name__ == "__main__":
    main(work, ("toolchain",))
