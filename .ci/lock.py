"""Write the versions that are installed here to a constraints file: ``python .ci/lock.py constraints.txt``.

``make lock`` runs this in environments of its own, into which pip has installed what pyproject.toml allows. Two kinds
of lines of the file stay as they are, because no environment shows them: lines whose marker names another Python, and
what stands under ``CUDA``, which only the GPU container installs.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

HEADER = "# Written by make lock. Every version that make, .ci/run and Dockerfile.gpu install.\n"
CUDA = "# What CUDA adds in the GPU container, kept by hand."

#: Installs packages, or is what is locked.
NOT_LOCKED = {"pip", "toolchain", "wheel"}


def main(arguments: list[str]) -> int:
    """Write the file.

    Args:
        arguments: Its path.

    Returns:
        0.
    """
    path = Path(arguments[0])
    path.write_text(locked(path.read_text("utf-8") if path.exists() else "", installed()), "utf-8")
    return 0


def installed() -> dict[str, str]:
    """Return the version of every distribution by its name, without the local part: ``2.13.0+cpu`` is 2.13.0."""
    versions: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():  # those that come first on the path are imported
        versions.setdefault(canonicalize_name(distribution.name), Version(distribution.version).public)
    return {name: version for name, version in versions.items() if name not in NOT_LOCKED}


def locked(before: str, versions: dict[str, str]) -> str:
    """Return the text of the file.

    Args:
        before: What it holds.
        versions: Name → version, of what is installed.
    """
    general, cuda, tail = before.partition(CUDA)
    lines = {name: [f"{name}=={version}"] for name, version in versions.items()}
    marked = [Requirement(line) for line in general.splitlines() if ";" in line and not line.startswith("#")]
    for name in {requirement.name for requirement in marked} & lines.keys():
        lines[name] = [
            f"{name}=={versions[name]} ; {each.marker}" if each.marker and each.marker.evaluate() else str(each)
            for each in marked
            if each.name == name
        ]
    return HEADER + "".join(f"{line}\n" for name in sorted(lines) for line in lines[name]) + cuda + tail


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
