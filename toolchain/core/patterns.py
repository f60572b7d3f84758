"""Settings that are given by name or by shell pattern."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from toolchain.core.errors import RecipeError


def bits_by_group(
    named: Mapping[str, int | None], groups: Iterable[str], setting: str = "bits_by_group", kind: str = "groups"
) -> dict[str, int | None]:
    """The bits that groups are given; those that nothing fits are left out.

    Args:
        named: Bits by a group's name or a shell pattern; a name goes before a pattern.
        groups: The groups that there are.
        setting: What the setting is called in messages.
        kind: What the groups are called in messages.

    Raises:
        RecipeError: A name fits no group, or two patterns give one group two widths.
    """
    known = list(groups)
    found: dict[str, int | None] = {}
    for group in known:
        fitting = {named[group]} if group in named else {b for name, b in named.items() if fnmatchcase(group, name)}
        if len(fitting) > 1:
            raise RecipeError(f"{setting}: two patterns give {group} two widths", f"name it: {group}: 4, 8 or null")
        found.update((group, bits) for bits in fitting)
    unused = [name for name in named if not any(name == group or fnmatchcase(group, name) for group in known)]
    if unused:
        raise RecipeError(f"{setting}: nothing fits {', '.join(unused)}", f"{kind}: {', '.join(known)}")
    return found
