"""Extraction of features: Radloom beside PyRadiomics and every other public implementation that is installed.

Each implementation runs in a process of its own, one thread, and is asked for one repeat after the other in turn with
the others, so that what the machine does meanwhile meets all alike. Peers: `python benchmarks/peers/setup.py`.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from benchmarks.extraction_cases import PYRADIOMICS_DATA, Case, make_cases
from benchmarks.extraction_profile import profile
from benchmarks.peers.names import to_pyradiomics
from benchmarks.peers.process import Failed, Limits, Process
from benchmarks.peers.setup import PEERS
from radloom.images import bounding_box, read_nifti

CLASSES = {
    "first order, shape, GLCM": ["firstorder", "shape", "glcm"],
    "all seven classes": ["firstorder", "shape", "glcm", "glrlm", "glszm", "gldm", "ngtdm"],
}
ALL = "all seven classes"
ROUNDS = 5
# An implementation that has used this many CPU seconds on a case and its classes is not asked again.
ENOUGH_S = 60.0
LIMITS = Limits(cpu_s=300, wall_s=3000, memory_mb=10 * 1024)
CLOSE = (1e-9, 1e-6, 1e-2)
# PyRadiomics' definitions leave these at rounding noise where they are 0.
NOISE = 1e-12


@dataclass(frozen=True)
class Implementation:
    """What is measured: its name in the tables, its interpreter, its module among the peers, how it names columns."""

    name: str
    python: Path
    module: str
    naming: str
    differs: str = ""


@dataclass
class Runs:
    """The repeats of one implementation on one case and one set of classes, and why there are no more."""

    answers: dict[int, dict[str, Any]] = field(default_factory=dict)  # by round
    warm_up: dict[str, Any] | None = None
    failed: str = ""

    def seconds(self, parts: Iterable[str], clock: int) -> dict[int, float]:
        """The sums of these parts by round; clock 0 is the wall's, 1 the processor's."""
        return {n: sum(answer[part][clock] for part in parts) for n, answer in self.answers.items()}

    def median(self, *parts: str, clock: int = 0) -> float:
        """The median over the rounds."""
        return statistics.median(self.seconds(parts, clock).values())

    def most(self, what: str) -> float:
        """The largest of a figure over the rounds."""
        return float(max(answer[what] for answer in self.answers.values()))

    @property
    def features(self) -> dict[str, float]:
        """The features of the last round."""
        return dict(self.answers[max(self.answers)]["features"])


STOCK, OURS = "PyRadiomics", "**Radloom**"
WHOLE = ("read_s", "compute_s", "write_s")


def implementations() -> tuple[list[Implementation], list[str]]:
    """Return what can be measured here, Radloom and PyRadiomics first, and which peers can't be, with the reason."""
    here = Path(sys.executable)
    found = [
        Implementation(OURS, here, "with_radloom", "same"),
        Implementation("Radloom, `engine: pyradiomics`", here, "with_radloom_stock", "same"),
        Implementation(STOCK, here, "with_pyradiomics", "same"),
    ]
    absent = []
    for peer in PEERS:
        if reason := peer.absent():
            absent.append(f"{peer.name}: {reason}")
        else:
            found.append(Implementation(peer.name, peer.python(), peer.module, peer.naming, peer.differs))
    return found, absent


def measure(folder: Path, small: bool, pyradiomics_data: Path = PYRADIOMICS_DATA) -> str:
    """Run all implementations on all cases; return the figures as Markdown."""
    found, absent = implementations()
    cases, left_out = make_cases(folder, pyradiomics_data, small)
    tiny = tiny_case(folder)
    results: dict[str, dict[str, dict[str, Runs]]] = {}
    for case in cases:
        print(f"  {case.name}: {case.described()}", flush=True)
        results[case.name] = run_case(case, tiny, found, 1 if small else ROUNDS)
    parts = [
        "What was measured: " + "; ".join(f"*{case.name}*, {case.described()}" for case in cases) + ".",
        *[f"Left out: {reason}." for reason in left_out],
        f"One thread each, bin width 25, original image; up to {ROUNDS} repeats in turn with the others (fewer beyond "
        f"{ENOUGH_S:.0f} CPU seconds), medians. *compute*: features of volumes in memory; *step*: files read, features "
        "computed, and for Radloom the table written. *faster*: PyRadiomics' CPU seconds over those of this one in the "
        "same repeat, median and range. *peak*: memory of the step above that after imports and a first call on a tiny "
        "ROI; of computing alone above that with the volumes in memory.",
    ]
    for title in CLASSES:
        parts += [f"### Speed: {title}", speed_table(title, cases, found, results)]
    parts += ["### Agreement with PyRadiomics", agreement_table(cases, found, results)]
    parts += ["### Where PyRadiomics' time goes", profile(cases, CLASSES[ALL])]
    parts += ["### Implementations", versions(found, absent, results)]
    return "\n\n".join(parts)


def tiny_case(folder: Path) -> tuple[Path, Path]:
    """Write a ball of noise for the warm-up; return the paths of its image and mask."""
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[0:24, 0:24, 0:24]
    ball = ((z - 12) ** 2 + (y - 12) ** 2 + (x - 12) ** 2 < 64).astype(np.uint8)
    image = rng.normal(40, 40, ball.shape).astype(np.int16)
    paths = folder / "tiny.nii.gz", folder / "tiny_mask.nii.gz"
    for path, array in zip(paths, (image, ball), strict=True):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return paths


def run_case(
    case: Case, tiny: tuple[Path, Path], found: list[Implementation], rounds: int
) -> dict[str, dict[str, Runs]]:
    """Ask every implementation for its repeats on one case; return them by title of the classes and by name."""
    results = {title: {each.name: Runs() for each in found} for title in CLASSES}
    with ExitStack() as stack:
        running: dict[str, Process] = {}
        for each in found:
            process = stack.enter_context(Process(each.python, each.module, LIMITS))
            try:
                warm_up = process.ask(*tiny, CLASSES[ALL])
                running[each.name] = process
            except Failed as error:
                warm_up = None
                for title in CLASSES:
                    results[title][each.name].failed = f"{error} on a tiny ROI"
            for title in CLASSES:
                results[title][each.name].warm_up = warm_up
        for title, classes in CLASSES.items():
            for n in range(rounds):
                for name in list(running):
                    runs = results[title][name]
                    if sum(runs.seconds(WHOLE, 1).values()) > ENOUGH_S:
                        continue
                    try:
                        runs.answers[n] = running[name].ask(case.image, case.mask, classes)
                    except Failed as error:
                        # What fails on fewer classes isn't asked for more.
                        for later in list(CLASSES)[list(CLASSES).index(title) :]:
                            results[later][name].failed = str(error)
                        del running[name]
    return results


def speed_table(
    title: str, cases: list[Case], found: list[Implementation], results: Mapping[str, Mapping[str, Mapping[str, Runs]]]
) -> str:
    """Seconds and memory of every implementation on every case."""
    lines = [
        "| case | implementation | compute: wall, CPU (s) | faster | step: wall, CPU (s) | faster | peak (MB) |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        stock = results[case.name][title][STOCK]
        for each in found:
            runs = results[case.name][title][each.name]
            if not runs.answers:
                lines.append(f"| {case.name} | {each.name} | {runs.failed} | | | | |")
                continue
            cells = [
                f"{_s(runs.median('compute_s'))}, {_s(runs.median('compute_s', clock=1))}",
                _faster(stock, runs, "compute_s"),
                f"{_s(runs.median(*WHOLE))}, {_s(runs.median(*WHOLE, clock=1))}",
                _faster(stock, runs, *WHOLE),
                f"{runs.most('peak_mb'):.0f}, {runs.most('compute_peak_mb'):.0f}",
            ]
            lines.append(f"| {case.name} | {each.name} | {' | '.join(cells)} |")
    boxes = ", ".join(f"{case.name} {_box_mb(case):.1f} MB" for case in cases)
    return "\n".join(lines) + f"\n\nThe ROI's box of the image as float64: {boxes}."


def agreement_table(
    cases: list[Case], found: list[Implementation], results: Mapping[str, Mapping[str, Mapping[str, Runs]]]
) -> str:
    """How far each implementation's features are from PyRadiomics', over all features that both have."""
    lines = [
        "Relative differences |a - b| / max(|a|, |b|) of the features that both have, all seven classes; *off*: those "
        "of each class that are not within 1e-6.",
        "",
        "| case | implementation | features | within 1e-9 | 1e-6 | 1e-2 | median | largest | off |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        stock = results[case.name][ALL][STOCK]
        if not stock.answers:
            continue
        reference = to_pyradiomics("same", stock.features)
        for each in found:
            runs = results[case.name][ALL][each.name]
            if each.name == STOCK or not runs.answers:
                continue
            theirs = to_pyradiomics(each.naming, runs.features)
            off = {name: difference(reference[name], value) for name, value in theirs.items()}
            worst = max(off, key=lambda name: off[name])
            within = [str(sum(value <= limit for value in off.values())) for limit in CLOSE]
            cells = [str(len(off)), *within, f"{statistics.median(off.values()):.0e}"]
            cells += [f"{off[worst]:.0e}" + (f" ({worst.removeprefix('original_')})" if off[worst] > 1e-9 else "")]
            lines.append(f"| {case.name} | {each.name} | {' | '.join(cells)} | {_by_class(off)} |")
    notes = [f"- {each.name}: {each.differs}." for each in found if each.differs]
    return "\n".join(lines) + "\n\nKnown reasons:\n\n" + "\n".join(notes)


def difference(a: float, b: float) -> float:
    """Return |a - b| / max(|a|, |b|); 0 where both are NaN or rounding noise, infinity where one is not finite."""
    if math.isnan(a) and math.isnan(b):
        return 0.0
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    return 0.0 if abs(a - b) <= NOISE else abs(a - b) / max(abs(a), abs(b))


def versions(
    found: list[Implementation], absent: list[str], results: Mapping[str, Mapping[str, Mapping[str, Runs]]]
) -> str:
    """What each implementation is, what its import takes, and which are not here."""
    lines = [
        "| implementation | version | import, and first call on a tiny ROI (s) | memory then (MB) |",
        "|---|---|---|---|",
    ]
    own = {OURS: "this tree", "Radloom, `engine: pyradiomics`": "this tree"}
    own[STOCK] = f"pyradiomics-bhklab {version('pyradiomics-bhklab')}"
    pins = {peer.name: (*peer.requirements, *peer.without_its_own) for peer in PEERS}
    by_case = [by_title[ALL] for by_title in results.values()]
    for each in found:
        what = own.get(each.name) or next(p for p in pins[each.name] if p.startswith(f"{each.name}==")).replace(
            "==", " "
        )
        starts = [runs[each.name].warm_up for runs in by_case]
        known = [start for start in starts if start is not None]
        cells = ["", ""]
        if known:
            imports = statistics.median(start["import_s"][0] for start in known)
            first = statistics.median(start["read_s"][0] + start["compute_s"][0] for start in known)
            cells = [f"{imports:.1f} + {first:.1f}", f"{statistics.median(s['imported_mb'] for s in known):.0f}"]
        lines.append(f"| {each.name} | {what} | {' | '.join(cells)} |")
    text = "\n".join(lines)
    if absent:
        text += "\n\nNot measured (`python benchmarks/peers/setup.py` installs them):\n\n"
        text += "\n".join(f"- {reason}" for reason in absent)
    return text


def _faster(stock: Runs, runs: Runs, *parts: str) -> str:
    if stock is runs or not stock.answers:
        return ""
    theirs, ours = stock.seconds(parts, 1), runs.seconds(parts, 1)
    both = [theirs[n] / ours[n] for n in sorted(set(theirs) & set(ours))]
    if not both:
        return ""
    text = f"{_x(statistics.median(both))}"
    return text if len(both) == 1 else f"{text} ({_x(min(both))} to {_x(max(both))})"


def _by_class(off: Mapping[str, float]) -> str:
    counts: dict[str, list[bool]] = {}
    for name, value in off.items():
        counts.setdefault(name.split("_")[1], []).append(value > CLOSE[1])
    return ", ".join(f"{name} {sum(bad)} of {len(bad)}" for name, bad in counts.items() if any(bad))


def _box_mb(case: Case) -> float:
    box = bounding_box(read_nifti(case.mask).array)
    assert box is not None
    return math.prod(part.stop - part.start for part in box) * 8 / 2**20


def _s(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 100 else f"{seconds:.3g}"


def _x(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 20 else f"{ratio:.2g}x"
