"""How ROIs are derived from others: what may stand in `extract.derived_rois`, and what is wrong with it.

Each entry names an ROI and says by one of six kinds how it is made:

    peritumour: {shell: {of: tumour, outer_mm: 5, inner_mm: 0, minus: [bone]}}
    inside: {core: {of: tumour, depth_mm: 3}}
    disease: {union: [tumour, node]}
    both: {intersection: [tumour, organ]}
    main: {largest: {of: disease}}
    lesion: {each: {of: disease, min_volume_mm3: 100}}   # lesion_1, lesion_2, ... by size

ROIs that they are made of are named, or given by their label number, or derived themselves. Imports no NumPy, so that
a configuration is checked in milliseconds; `radloom.derived_rois` makes the masks.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from radloom.errors import CohortError
from radloom.labels import ROI_NAME

LONGEST_FAMILY = 27  # leaves room for `_1234`


@dataclass(frozen=True)
class Shell:
    """Voxels further than `inner_mm` and at most `outer_mm` from the ROI `of`, without those of `minus`."""

    of: str
    outer_mm: float
    inner_mm: float = 0.0
    minus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Core:
    """Voxels of the ROI `of` that are further than `depth_mm` from every voxel outside it."""

    of: str
    depth_mm: float


@dataclass(frozen=True)
class Union:
    """Voxels of any of the ROIs `of`."""

    of: tuple[str, ...]


@dataclass(frozen=True)
class Intersection:
    """Voxels that all of the ROIs `of` have."""

    of: tuple[str, ...]


@dataclass(frozen=True)
class Largest:
    """The largest 26-connected component of the ROI `of`."""

    of: str


@dataclass(frozen=True)
class Each:
    """Each 26-connected component of the ROI `of` of at least `min_volume_mm3` as an ROI of its own, by size."""

    of: str
    min_volume_mm3: float = 0.0


Definition = Shell | Core | Union | Intersection | Largest | Each
KINDS: dict[str, type[Definition]] = {
    kind.__name__.lower(): kind for kind in (Shell, Core, Union, Intersection, Largest, Each)
}


def sources_of(definition: Definition) -> tuple[str, ...]:
    """The ROIs that a definition builds on, names or label numbers as text."""
    of = (definition.of,) if isinstance(definition.of, str) else definition.of
    return (*of, *definition.minus) if isinstance(definition, Shell) else of


def family_of(name: str, definitions: Mapping[str, Definition]) -> tuple[str, int] | None:
    """The `each` definition and the number, from 1, that a name such as lesion_2 stands for, or None."""
    match = re.fullmatch(r"(.+)_([1-9][0-9]*)", name)
    if match and isinstance(definitions.get(match[1]), Each):
        return match[1], int(match[2])
    return None


def reached_from(names: Iterable[str], definitions: Mapping[str, Definition]) -> set[str]:
    """The definitions that some ROIs are made by, directly or by way of others."""
    reached: set[str] = set()
    queue = list(names)
    while queue:
        name = queue.pop()
        family = family_of(name, definitions)
        name = family[0] if family else name
        if name in definitions and name not in reached:
            reached.add(name)
            queue += sources_of(definitions[name])
    return reached


def read_definitions(section: Mapping[str, Any]) -> dict[str, Definition]:
    """The definitions of a mapping as it stands in the configuration; raises CohortError with all that is wrong."""
    definitions, problems = parse_definitions(section)
    if problems:
        raise CohortError("\n  ".join(["the derived ROIs can't be made:", *problems]))
    return definitions


def parse_definitions(
    section: Mapping[str, Any], labels: Mapping[int, Collection[str]] | None = None
) -> tuple[dict[str, Definition], list[str]]:
    """The definitions of a mapping as it stands in the configuration, and what is wrong with them.

    `labels` has the names that each label number can have, where they are known: then names that nothing stands for
    are a mistake.
    """
    definitions: dict[str, Definition] = {}
    problems: list[str] = []
    for name, entry in section.items():
        definition, found = _parse(name, entry)
        problems += [f"{name}: {problem}" for problem in found]
        if definition is not None:
            definitions[name] = definition
    if problems:
        return definitions, problems
    numbers = {str(number) for number in labels or {}}
    names = {name for of_number in (labels or {}).values() for name in of_number}
    for name in definitions:
        if name in names:
            problems.append(f"{name}: the segmentation has an ROI of this name already")
        if family := family_of(name, definitions):
            problems.append(f"{name}: this is the name of a component of {family[0]}")
    for name in sorted(names):
        if family := family_of(name, definitions):
            problems.append(f"{family[0]}: its component {name} would have the name of an ROI of the segmentation")
    known = numbers | names | set(definitions)
    for name, definition in definitions.items():
        for source in dict.fromkeys(sources_of(definition)):
            if isinstance(definitions.get(source), Each):
                problems.append(f"{name}: {source} stands for {source}_1, {source}_2, ...: name one of them")
            elif labels is not None and source not in known and not family_of(source, definitions):
                problems.append(f"{name}: there is no ROI {source}{nearest(source, sorted(known))}")
    return definitions, problems + _cycles(definitions)


def nearest(word: str, known: Collection[str]) -> str:
    """A hint at the nearest known name, or at all of them."""
    close = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known) or 'none'}"


def _parse(name: str, entry: Any) -> tuple[Definition | None, list[str]]:
    """One definition, or what is wrong with it."""
    problems = []
    if not ROI_NAME.fullmatch(name):
        problems.append("a name is a letter followed by up to 31 letters, digits or underscores")
    if not isinstance(entry, Mapping) or len(entry) != 1 or next(iter(entry)) not in KINDS:
        return None, [*problems, f"it needs one of {', '.join(KINDS)}"]
    kind, given = next(iter(entry.items()))
    if kind == "each" and len(name) > LONGEST_FAMILY:
        problems.append(f"a name of components has at most {LONGEST_FAMILY} characters")
    if kind in ("union", "intersection"):
        given = {"of": given}
        if not isinstance(given["of"], list | tuple) or len(given["of"]) < 2:
            return None, [*problems, f"{kind} needs a list of at least two ROIs"]
    elif not isinstance(given, Mapping):
        return None, [*problems, f"{kind} needs keys, such as {{of: tumour}}"]
    keys = {field.name: field for field in fields(KINDS[kind])}
    problems += [f"{kind} has no key {key}{nearest(str(key), list(keys))}" for key in given if key not in keys]
    problems += [f"{kind} needs {key}" for key, field in keys.items() if key not in given and field.default is MISSING]
    arguments: dict[str, Any] = {}
    for key in keys.keys() & given.keys():
        value = given[key]
        if key.endswith(("_mm", "_mm3")):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                problems.append(f"{key} is {value!r}, not a number of at least 0")
            else:
                arguments[key] = float(value)
        elif key == "minus" or kind in ("union", "intersection"):
            many = value if isinstance(value, list | tuple) else [value]
            problems += [f"{one!r} is no name or number of an ROI" for one in many if not _is_reference(one)]
            arguments[key] = tuple(str(one) for one in many)
        elif _is_reference(value):
            arguments[key] = str(value)
        else:
            problems.append(f"{value!r} is no name or number of an ROI")
    if problems:
        return None, problems
    definition = KINDS[kind](**arguments)
    if isinstance(definition, Shell) and definition.inner_mm >= definition.outer_mm:
        return None, [f"inner_mm ({definition.inner_mm:g}) must be smaller than outer_mm ({definition.outer_mm:g})"]
    return definition, []


def _is_reference(value: Any) -> bool:
    """Whether a value names an ROI: a name, or the number of a label."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value > 0
    return isinstance(value, str) and bool(ROI_NAME.fullmatch(value) or re.fullmatch(r"[1-9][0-9]*", value))


def _cycles(definitions: Mapping[str, Definition]) -> list[str]:
    """The circles in which definitions build on each other, each once."""
    done: set[str] = set()
    problems = []

    def follow(name: str, path: tuple[str, ...]) -> None:
        family = family_of(name, definitions)
        name = family[0] if family else name
        if name in path:
            circle = (*path[path.index(name) :], name)
            problems.append(f"{name}: it is derived from itself ({' -> '.join(circle)})")
        elif name in definitions and name not in done:
            for source in sources_of(definitions[name]):
                follow(source, (*path, name))
            done.add(name)

    for name in definitions:
        follow(name, ())
    return problems
