"""What no other engine beats in accuracy, size and speed together, and how much of the three it covers.

Zitzler and Thiele, "Multiobjective evolutionary algorithms: a comparative case study and the strength Pareto approach",
IEEE Transactions on Evolutionary Computation 3 (1999): the hypervolume.
"""

from __future__ import annotations

from collections.abc import Sequence

#: One engine's gains, larger is better in each.
Gains = tuple[float, ...]


def beats(one: Gains, other: Gains) -> bool:
    """Whether one is at least as good in every gain, and better in one."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and one != other


def front(points: Sequence[Gains]) -> list[int]:
    """Positions of the points that no other beats; of equal points, none beats another."""
    return [index for index, point in enumerate(points) if not any(beats(other, point) for other in points)]


def hypervolume(points: Sequence[Gains], reference: Gains) -> float:
    """The volume of all that some point is at least as good as, from a reference point on.

    Sliced along the last gain: from each point's value up to the next better one's, what the points there cover in the
    gains before.

    Args:
        points: Gains of each, all of the reference's length.
        reference: Where volume begins; a point that is not above it in every gain adds nothing.

    Returns:
        The product of the gains' units; 0 without a point above the reference.
    """
    inside = [point for point in points if all(a > b for a, b in zip(point, reference, strict=True))]
    if len(reference) == 1:
        return max((point[0] for point in inside), default=reference[0]) - reference[0]
    inside.sort(key=lambda point: point[-1], reverse=True)
    volume = 0.0
    for place, point in enumerate(inside):
        below = inside[place + 1][-1] if place + 1 < len(inside) else reference[-1]
        if point[-1] > below:
            covered = [other[:-1] for other in inside[: place + 1]]
            volume += (point[-1] - below) * hypervolume(covered, reference[:-1])
    return volume
