"""Takes in what strangers made, in a process that records every file which Python opens: run by ``test_opens.py``."""

from __future__ import annotations

import sys
from pathlib import Path

OPENED: list[str] = []


def note(event: str, arguments: tuple[object, ...]) -> None:
    """Record an opened file, or what is unpickled, as an audit hook."""
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str | bytes | Path):
        OPENED.append(str(arguments[0]))
    if event == "pickle.find_class":
        OPENED.append(f"/pickle/{arguments[1]}")


def main(root: Path) -> None:
    """Open each folder in ``root`` as the program does, and print what was opened or refused."""
    from tests.builders import context
    from toolchain.core.errors import ToolchainError
    from toolchain.core.registry import get, stage
    from toolchain.runtime.predictor import Predictor

    adopt = stage("adopt")

    def take(folder: Path) -> None:
        out = root / "store" / folder.name
        out.mkdir()
        config = adopt.config(path=str(folder))
        adopt.module.identity(config)
        adopt.module.apply(config, out, context(root / "store"))

    def read(folder: Path) -> None:
        task = get("tasks", "glue")
        config = task.config(dataset=str(folder), text=("sentence1", "sentence2"))
        task.module.identity(config)
        task.module.load(config)

    doors = {
        "checkpoint": take,
        "onnx": take,
        "engine": take,
        "served": lambda f: Predictor(f).predict(["a"]),
        "data": read,
    }
    for name, door in doors.items():
        for folder in sorted(root.glob(f"{name}*")):
            try:
                door(folder)
                print("taken", folder.name)
            except ToolchainError as error:
                print("refused", folder.name, error.message.splitlines()[0])


if __name__ == "__main__":
    import tests.builders  # what the helper itself opens is no concern  # noqa: F401

    sys.addaudithook(note)
    main(Path(sys.argv[1]))
    print("\n".join(f"opened {name}" for name in dict.fromkeys(OPENED)))
