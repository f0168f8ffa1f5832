"""Where stock PyRadiomics spends its time, by its own functions and the C code below them."""

from __future__ import annotations

import cProfile
import logging
import pstats
import time

import SimpleITK as sitk

from benchmarks.extraction_cases import Case

# Name in the table, and the functions below which that time passes: `<file> <function>`, or a built-in's name. They do
# not overlap, but for those that begin with a dash.
PARTS = {
    "shape in C: the mesh, and all pairs of its vertices for the diameters": ["_cshape.calculate_coefficients"],
    "texture matrices in C": [f"_cmatrices.calculate_{name}" for name in ("glcm", "glrlm", "glszm", "gldm", "ngtdm")],
    "diagnostics of the whole volume: hashes, statistics, components": [
        "generalinfo.py addImageElements",
        "generalinfo.py addMaskElements",
    ],
    "check of the mask: label statistics of the whole volume": ["imageoperations.py checkMask"],
    "labels of the mask: cast, `unique` of the whole volume": ["imageoperations.py getMask"],
    "grey levels, anew for each class": ["base.py _applyBinning"],
    "- of it Python's own `min` and `max` over voxels": ["builtins.min", "builtins.max"],
    "- GLCM's coefficients and MCC": ["glcm.py _calculateCoefficients", "glcm.py getMCCFeatureValue"],
}
REST, WHOLE = "everything else", "`execute` in all"


def profile(cases: list[Case], classes: list[str]) -> str:
    """Run PyRadiomics under a profiler of CPU seconds on each case; return the shares as a Markdown table."""
    columns = [_run(case, classes) for case in cases]
    lines = [
        f"| part | {' | '.join(case.name for case in cases)} |",
        "|---" * (len(cases) + 1) + "|",
    ]
    for part in columns[0] if columns else ():
        cells = [f"{column[part]:.2f} s ({column[part] / column[WHOLE]:.0%})" for column in columns]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _run(case: Case, classes: list[str]) -> dict[str, float]:
    from radiomics import featureextractor, setVerbosity

    setVerbosity(logging.CRITICAL)
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    image, mask = sitk.ReadImage(str(case.image)), sitk.ReadImage(str(case.mask))
    extractor = featureextractor.RadiomicsFeatureExtractor(binWidth=25)
    extractor.disableAllFeatures()
    for name in classes:
        extractor.enableFeatureClassByName(name)
    profiler = cProfile.Profile(time.process_time)
    profiler.runcall(extractor.execute, image, mask)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    return _shares(pstats.Stats(profiler))


def _shares(stats: pstats.Stats) -> dict[str, float]:
    below: dict[str, float] = {}
    for (file, _, name), (*_, seconds, _) in stats.stats.items():  # type: ignore[attr-defined]
        # A built-in stands there as `<built-in method radiomics._cshape.calculate_coefficients>`.
        key = f"{file.rpartition('/')[2]} {name}" if file != "~" else ".".join(name.strip("<>").split(".")[-2:])
        below[key.rpartition("method ")[2]] = below.get(key, 0.0) + seconds
    shares = {part: sum(below.get(key, 0.0) for key in keys) for part, keys in PARTS.items()}
    whole = below["featureextractor.py execute"]
    rest = whole - sum(seconds for part, seconds in shares.items() if not part.startswith("-"))
    return {**shares, REST: rest, WHOLE: whole}
