"""Puts the folder recipes/ into the wheel as package data; everything else is in pyproject.toml."""

from __future__ import annotations

from pathlib import Path
from shutil import copyfile

from setuptools import setup
from setuptools.command.build_py import build_py

RECIPES = Path("recipes")
PATTERNS = ("*.yaml", "README.md", "data/*.csv", "data/*.py")


class BuildWithRecipes(build_py):
    """Copies the recipes into the package, where toolchain.pipeline.shipped looks for them."""

    def run(self) -> None:
        """Build the package, then add the recipes; an editable install reads them from the sources."""
        super().run()
        if self.editable_mode:
            return
        for source, target in self._recipes().items():
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            copyfile(source, target)

    def get_source_files(self) -> list[str]:
        """Return what belongs into a source distribution."""
        return [*super().get_source_files(), *self._recipes()]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return what a build writes."""
        return [*super().get_outputs(include_bytecode), *self._recipes().values()]

    def _recipes(self) -> dict[str, str]:
        files = sorted(path for pattern in PATTERNS for path in RECIPES.glob(pattern))
        return {str(path): str(Path(self.build_lib) / "toolchain" / path) for path in files}


setup(cmdclass={"build_py": BuildWithRecipes})
