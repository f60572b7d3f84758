"""Whether one engine can run here: what a container's health check asks. No framework is loaded unless it is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolchain.core import registry
from toolchain.core.artifact import copied
from toolchain.core.errors import EngineError, ModelError
from toolchain.core.hooks import Engine
from toolchain.deliver.doctor import diagnose
from toolchain.engines.shared.artifact import EngineFile, check_digest, read_engine
from toolchain.model import heads
from toolchain.model.tokens import TOKENIZER_FILE
from toolchain.runtime.interface import read_interface

#: What an engine is asked when it is opened.
QUESTION = "Is anybody there?"


def examine(folder: Path, *, opened: bool = False, digest: str | None = None) -> dict[str, Any]:
    """Looks at an engine folder, and at what its engine needs of this machine.

    Files are compared with the manifest that the store keeps beside them: their sizes, and their digests too where the
    engine is opened. A plan of TensorRT, which is code, is compared with its digest always.

    Args:
        folder: The engine folder.
        opened: Open it too, and let it answer a sentence.
        digest: The digest of its content that is known from elsewhere; without it the folder is trusted.

    Returns:
        ``engine``, ``provider``, ``folder``, ``opened``, the ``label`` that it answered, or None, and a ``note`` on
        what is trusted, or None.

    Raises:
        EngineError: The engine is missing or damaged, or cannot run here; the message says why.
        ModelError: What is known of its model is missing or damaged, or it is no single-label classifier.
    """
    engine_file = read_engine(folder)
    if digest is not None:
        check_digest(folder, digest)
    interface = read_interface(folder)
    heads.check_deployed(folder, interface.labels, interface.kind)
    if not (folder / TOKENIZER_FILE).is_file():
        raise ModelError(f"{folder / TOKENIZER_FILE} is missing", "an engine folder is what 'toolchain build' writes")
    _compare(folder, engine_file, opened)
    known = diagnose(folder)["engines"]
    provider = str(engine_file.options.get("provider", ""))
    ours = [each for each in known if each["engine"] == engine_file.engine and each["provider"] in ("", provider)]
    if not ours:
        names = [each["engine"] for each in known]
        raise EngineError(
            f"{folder} is for the engine {engine_file.engine!r}", registry.suggest(engine_file.engine, names)
        )
    if not ours[0]["runs"]:
        named = f"{engine_file.engine} ({provider})" if provider else engine_file.engine
        raise EngineError(f"{folder}: {named} cannot run here: {ours[0]['reason']}", "'toolchain doctor' shows all")
    label = None
    if opened:
        from toolchain.runtime.predictor import Predictor

        text = (QUESTION, QUESTION) if interface.pair else QUESTION
        label = Predictor(folder).predict([text])[0].label
    return {
        "engine": engine_file.engine, "provider": provider, "folder": str(folder), "opened": opened, "label": label,
        "note": trust_note(engine_file) if digest is None else None,
    }  # fmt: skip


def trust_note(engine: EngineFile) -> str | None:
    """Return what is trusted of an engine that is opened without a digest from elsewhere; None if nothing is."""
    if not registry.get("engines", engine.engine).of(Engine).holds_code(engine.extra):
        return None
    return (
        "its plan is native code, which is trusted: the digest beside it shows damage, not who made it; "
        "--digest DIGEST, as whoever built it knows it, shows that"
    )


def _compare(folder: Path, engine_file: EngineFile, opened: bool) -> None:
    """Compares the files with what is recorded of them.

    Raises:
        EngineError: One differs.
    """
    if engine_file.engine in registry.names("engines"):
        registry.get("engines", engine_file.engine).of(Engine).check_code(folder)
    artifact = copied(folder)
    if artifact is None:
        return
    sizes = {name: int(entry["bytes"]) for name, entry in artifact.manifest["files"].items()}
    changed = artifact.changes() if opened else [
        f"{folder / name}: missing, or not of the {size:,} bytes that it was built with"
        for name, size in sizes.items()
        if not (folder / name).is_file() or (folder / name).stat().st_size != size
    ]  # fmt: skip
    if changed:
        raise EngineError(
            "; ".join(changed), "copy the folder again from where it was built, or build the engine again"
        )
