"""Prediction on a CPU beside MONAI's sliding_window_inference: the same nets and windows, random weights.

Each measurement is a process of its own, so that its peak memory is its own: `segmentation.py SCENE TOOL FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TOOLS = ("radloom", "monai", "net")


@dataclass(frozen=True)
class Scene:
    """A net and a scan that it is used on."""

    title: str
    channels: tuple[int, ...]
    patch: tuple[int, ...]
    """([z,] y, x); empty: whole slices."""
    classes: int
    outputs: str
    shape: tuple[int, int, int]
    """Voxels (z, y, x) of the scan."""
    finer: int = 1
    """How many times finer than the net's grid the scan's is, in plane."""

    @property
    def dimensions(self) -> int:
        """Of the net."""
        return 3 if self.patch else 2


REFERENCE = (32, 64, 128, 256, 512)
SCENES = {
    "slices": Scene(
        "2D net of reference, 117 sigmoid outputs, 256 x 256", REFERENCE, (), 117, "sigmoid", (8, 256, 256)
    ),
    "slices_512": Scene(
        "the same, from and to a scan of 512 x 512", REFERENCE, (), 117, "sigmoid", (8, 512, 512), finer=2
    ),
    "classes_118": Scene(
        "3D net 8-16-32, 118 classes, 128^3, windows of 64^3", (8, 16, 32), (64,) * 3, 117, "softmax", (128,) * 3
    ),
    "classes_3": Scene(
        "3D net 16-32-64-128, 3 classes, 128^3, windows of 64^3", (16, 32, 64, 128), (64,) * 3, 2, "softmax", (128,) * 3
    ),
}
SMALL = {
    "slices": Scene("2D net 4-8, 6 sigmoid outputs", (4, 8), (), 6, "sigmoid", (3, 32, 32)),
    "slices_512": Scene("the same, from and to a finer scan", (4, 8), (), 6, "sigmoid", (3, 64, 64), finer=2),
    "classes_118": Scene("3D net 4-8, 30 classes, windows of 16^3", (4, 8), (16,) * 3, 29, "softmax", (24, 32, 32)),
}


def one(scene: Scene, tool: str, folder: Path) -> None:
    """Measure one tool on one scene; write its labels and figures."""
    import torch
    from torch import nn

    from radloom.nets.architecture import Architecture, build_net
    from radloom.nets.folder import ModelDescription
    from radloom.nets.prediction import Member, Predictor, Settings, member_of
    from radloom.nets.windows import window_starts

    torch.set_num_threads(1)
    torch.manual_seed(0)
    architecture = Architecture(
        dimensions=scene.dimensions,
        channels=scene.channels,
        norm="batch" if scene.dimensions == 2 else "instance",
    )
    description = ModelDescription(
        name="benchmark",
        classes={n: f"class_{n}" for n in range(1, scene.classes + 1)},
        spacing=(1.5,) * scene.dimensions,
        hu_window=(-500.0, 500.0),
        architecture=architecture,
        outputs=scene.outputs,
        patch=scene.patch,
    )
    net = build_net(architecture, description.channels_out).eval().requires_grad_(False)
    spacing = (1.5 / scene.finer, 1.5 / scene.finer, 1.5)
    rng = np.random.default_rng(0)
    scan = rng.normal(0, 150, (scene.shape[0], scene.shape[1] // 4, scene.shape[2] // 4)).astype(np.float32)
    scan = scan.repeat(4, axis=1).repeat(4, axis=2)
    softmax = scene.outputs == "softmax"

    if tool == "radloom":
        predictor = Predictor([member_of("net", net, description)], Settings(device="cpu"))
        work: Callable[[], np.ndarray] = lambda: predictor.labels(scan, spacing)  # noqa: E731
    else:
        with torch.no_grad():
            # The way to the net's grid is the same for all, and not what is compared here.
            source = Predictor([Member("net", net, description)], Settings(device="cpu"))
            net.to(memory_format=torch.contiguous_format)
            image = source.scans(scan, spacing)[0].image
        if tool == "monai":
            from monai.inferers import sliding_window_inference

            def work() -> np.ndarray:
                with torch.no_grad():
                    if scene.dimensions == 3:
                        found = sliding_window_inference(
                            image[None, None], scene.patch, 1, net, overlap=0.5, mode="gaussian", sigma_scale=0.125
                        )[0]
                    else:
                        found = sliding_window_inference(image[:, None], image.shape[1:], 4, net).movedim(1, 0)
                    found = found.softmax(dim=0) if softmax else found.sigmoid()
                    if scene.finer > 1:
                        size = scan.shape[1:]
                        found = nn.functional.interpolate(found.movedim(0, 1), size, mode="bilinear").movedim(1, 0)
                    best, number = found.max(dim=0)
                    return (number if softmax else torch.where(best > 0.5, number + 1, 0)).numpy().astype(np.uint8)

        else:

            def work() -> np.ndarray:
                with torch.no_grad():
                    if scene.dimensions == 2:
                        for start in range(0, len(image), 4):
                            net(image[start : start + 4, None])
                    else:
                        along = zip(image.shape, scene.patch, strict=True)
                        count = math.prod(len(window_starts(n, w, 0.5)) for n, w in along)
                        window = image[tuple(slice(0, w) for w in scene.patch)][None, None].clone()
                        for _ in range(count):
                            net(window)
                return np.zeros(scan.shape, np.uint8)

    if tool != "radloom":  # which has tried its net while it took the head off
        with torch.no_grad():
            net(torch.zeros(1, 1, *(2 * multiple for multiple in net.multiple)))
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_mb("VmRSS")
    start = time.process_time()
    labels = work()
    figures = {"seconds": time.process_time() - start, "peak_mb": memory_mb("VmHWM") - before}
    np.save(folder / f"{tool}.npy", labels)
    (folder / f"{tool}.json").write_text(json.dumps(figures))


def memory_mb(key: str) -> float:
    """VmRSS or VmHWM of this process in MB."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(key)) / 1024


def measure(folder: Path, small: bool) -> str:
    """Time the scenes, each tool in a process of its own; return the figures as Markdown."""
    lines = [
        "One thread, float32, random weights, so that every class is possible everywhere: the worst case for Radloom's "
        "way back, which leaves out classes that can't win. *Net alone*: as many forward passes, and nothing else. "
        f"Least of {1 if small else 2} runs; load of the machine before: {os.getloadavg()[0]:.1f}. Memory: peak above "
        "what was held when the scan and the net were there.",
        "",
        "| net and scan | tool | CPU seconds a volume | a slice | over Radloom's | peak memory | other labels |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, scene in (SMALL if small else SCENES).items():
        found: dict[str, dict[str, float]] = {}
        for tool in TOOLS:
            place = folder / name
            place.mkdir(exist_ok=True)
            for _ in range(1 if small else 2):
                command = [sys.executable, __file__, name, tool, str(place), *(["--small"] if small else [])]
                subprocess.run(command, check=True)
                figures = json.loads((place / f"{tool}.json").read_text())
                if tool not in found or figures["seconds"] < found[tool]["seconds"]:
                    found[tool] = figures
        labels = {tool: np.load(place / f"{tool}.npy") for tool in ("radloom", "monai")}
        differ = float((labels["radloom"] != labels["monai"]).mean())
        titles = {"radloom": "**Radloom**", "monai": "MONAI", "net": "net alone, channels first"}
        for tool, figures in found.items():
            seconds = figures["seconds"]
            over = "" if tool == "radloom" else f"{seconds / found['radloom']['seconds']:.2f} x"
            apart = f"{differ:.1e}" if tool == "monai" else ""
            lines.append(
                f"| {scene.title if tool == 'radloom' else ''} | {titles[tool]} | {seconds:.2f} | "
                f"{seconds / scene.shape[0]:.3f} | {over} | {figures['peak_mb']:.0f} MB | {apart} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene", choices=SCENES)
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    one((SMALL if args.small else SCENES)[args.scene], args.tool, args.folder)


if __name__ == "__main__":
    main()
