"""Recipes that tests write and load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolchain.core.errors import RecipeError
from toolchain.pipeline import recipe as recipes
from toolchain.pipeline.recipe import Recipe

BASE = """\
model: scratch:bert-1x32
stages:
  - finetune: {epochs: 2}
variants:
  base: [export]
  int8: [export, dynamic_int8]
"""


def load(tmp_path: Path, text: str, *sets: str, **sources: Any) -> Recipe:
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    return recipes.load(tmp_path / "r.yaml", sets, **sources)


def problems(tmp_path: Path, text: str, *sets: str, **sources: Any) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text, *sets, **sources)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


def settings(recipe: Recipe, variant: str, technique: str, model: str = "model") -> Any:
    return next(item.config for item in recipe.variants[model, variant] if item.label == technique)
