"""Palette masks: their indices are the values, so files whose indices can't mean one thing are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Value = int | tuple[int, int, int]
Palette = tuple[int, ...]
_REMEDY = (
    "Save the masks as RGB or all with one palette; if the indices are right as they are, name them: "
    "classes={0: 'background', 1: ...}."
)


def palette_conflict(
    rows: Sequence[Mapping[Value, int]], palettes: Sequence[Palette | None], labels: Sequence[object]
) -> str | None:
    """Why the indices of a table's palette masks can't be trusted; None where they can.

    An index with two colours: programs that give every file a palette of its own number colours as they
    come. Palette masks beside others, whose values are their colours and not their indices.
    """
    seen: dict[int, tuple[tuple[int, ...], object]] = {}
    plain = {v for row, palette in zip(rows, palettes, strict=True) if palette is None for v in row}
    for row, palette, label in zip(rows, palettes, labels, strict=True):
        if palette is None:
            continue
        colours = {v: palette[3 * v : 3 * v + 3] for v in row if isinstance(v, int)}
        if len(set(colours.values())) < len(colours):
            continue  # two indices of one colour: nobody tells classes apart by these colours
        for index, colour in colours.items():
            first, where = seen.setdefault(index, (colour, label))
            if first != colour:
                return (
                    f"The palette masks contradict each other: index {index} is the colour {first} in row "
                    f"{where!r} and {colour} in row {label!r}. {_REMEDY}"
                )
        own = any(colour != (index, index, index) for index, colour in colours.items())
        if plain and own and not plain.issuperset(row) and _are_among(colours.values(), plain):
            return (
                f"Palette masks stand beside masks without one, whose values are their colours: row "
                f"{label!r} holds the indices {sorted(colours)} for {sorted(colours.values())}. {_REMEDY}"
            )
    return None


def _are_among(colours: Iterable[tuple[int, ...]], plain: set[Value]) -> bool:
    return {(v, v, v) if isinstance(v, int) else v for v in plain}.issuperset(colours)
