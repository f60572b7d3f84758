"""Gives an artifact to its user: a copy outside of the store that is what was published."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolchain.core import files
from toolchain.core.artifact import Artifact
from toolchain.core.errors import DamagedError, ToolchainError
from toolchain.core.log import logger
from toolchain.core.manifest import MANIFEST


def check_target(output: Path, option: str = "-o") -> None:
    """Refuse a place that a result cannot be copied to, before work starts.

    Args:
        output: A folder that is to be made, or an empty one.
        option: What named it, for errors.

    Raises:
        ToolchainError: It is a file, holds something, would be written through a link, or cannot be written.
    """
    files.check_output(output, option)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ToolchainError(f"{option} {output}: it exists and is not an empty folder", "choose another, or remove it")
    above = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ToolchainError(f"{option} {output} cannot be written: {above} is no folder that can be", "choose another")


@contextmanager
def writing(path: Path, option: str = "-o") -> Iterator[None]:
    """Turn the system's errors about a path that is written to into ones that name it.

    Raises:
        ToolchainError: It cannot be written, or would be written through a link.
    """
    try:
        files.check_output(path, option)
        yield
    except OSError as error:
        raise ToolchainError(
            f"{option} {path} cannot be written: {error.strerror or error}", "choose another"
        ) from error


def copy(artifact: Artifact, output: Path, option: str = "-o") -> None:
    """Copy an artifact, its manifest included, and hold the copy against the manifest.

    Raises:
        ToolchainError: It cannot be copied there.
        DamagedError: What was copied is not what was published.
    """
    with writing(output, option):
        files.copy_files(artifact.path, [*artifact.manifest["files"], MANIFEST], output, DamagedError)
    if changed := dataclasses.replace(artifact, path=output).changes():
        raise DamagedError("; ".join(changed), f"it was copied from {artifact.path}: run 'toolchain verify'")
    logger.info("%s: digest %s", output, artifact.digest)
