"""Where a net looks when it finds a class: the gradient of its evidence by the scan's values.

The evidence for a class is the sum, over the voxels that the net gives that label, of the logit of the class's
probability (a sigmoid's logit; of a softmax its logit less the logarithm of the sum of the others' exponentials).
Its gradient says for each voxel of the input by how much the evidence changes if the voxel's value does (Simonyan et
al., ICLR workshop 2014, arXiv:1312.6034). The map is the gradient's magnitude, smoothed by a Gaussian of `SIGMA_MM`, as
a share of its largest value. Where windows overlap, the gradient is that of the averaged logits.

What it is: the values that this net's decision hangs on most, to first order. It passes the test that it changes with
the net's weights, which prettier methods fail (Adebayo et al., NeurIPS 2018, arXiv:1810.03292), and needs no layer to
be chosen, so that it works for every net. What it isn't: a segmentation, a statement of what lies there, or a cause. It
likes edges, and maps of two cases have each their own scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from radloom.nets.windows import gaussian_weights, neighbour_slices, window_starts

if TYPE_CHECKING:
    from radloom.nets.prediction import Member, Predictor, Scan

SIGMA_MM = 2.0
"""Standard deviation in mm of the Gaussian that smooths a map: gradients change their size from voxel to voxel."""

Forward = Callable[[torch.Tensor], torch.Tensor]


def class_gradients(
    net: Forward, inputs: torch.Tensor, outputs: str, numbers: Sequence[int], weights: torch.Tensor | float = 1.0
) -> dict[int, torch.Tensor]:
    """Gradient of the evidence for each class number by the inputs (n, channels, [z,] y, x), in their shape.

    `weights` ([z,] y, x) is how much each voxel of the logits counts. A class that the net finds nowhere here is left
    out.
    """
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        logits = net(inputs)
        label = _labels(logits.detach(), outputs)
        found = {}
        for number in numbers:
            region = label == number
            if region.any():
                evidence = (log_odds(logits, outputs, number) * region * weights).sum()
                (found[number],) = torch.autograd.grad(evidence, inputs, retain_graph=True)
    return found


def log_odds(logits: torch.Tensor, outputs: str, number: int) -> torch.Tensor:
    """Logit (n, ...) of the probability of a class by the net's logits (n, channels, ...)."""
    if outputs == "sigmoid":
        return logits[:, number - 1]
    others = torch.cat([logits[:, :number], logits[:, number + 1 :]], dim=1)
    return logits[:, number] - others.logsumexp(dim=1)


def scan_gradients(
    net: Forward,
    image: torch.Tensor,
    outputs: str,
    numbers: Sequence[int],
    places: Sequence[Sequence[int]],
    weights: torch.Tensor,
    neighbours: torch.Tensor | None = None,
    border: Sequence[int] = (),
) -> dict[int, torch.Tensor]:
    """Gradients of the evidence for classes over a whole image (planes, y, x) as the net sees it: in windows.

    `places` are the windows' first voxels along each axis that the net sees, ([z,] y, x); `weights` ([z,] y, x) is how
    much each voxel of a window counts where windows overlap. `neighbours` (planes, slices) are the planes that a net of
    slices takes for each; None for a net of volumes. `border` ([z,] y, x) are the voxels that a net takes, and the
    image has, beyond those that get logits.
    """
    window = weights.shape
    border = border or (0,) * len(window)
    seen = [n + 2 * b for n, b in zip(window, border, strict=True)]
    starts = list(product(*places))
    total = torch.zeros(
        [n - 2 * b for n, b in zip(image.shape[-len(window) :], border, strict=True)], device=weights.device
    )
    for start in starts:
        total[_part(start, window)] += weights
    found = {number: torch.zeros_like(image) for number in numbers}
    for plane in range(len(image)) if neighbours is not None else (None,):
        for start in starts:
            share = weights / total[_part(start, window)]
            part = _part(start, seen)
            if plane is None or neighbours is None:
                for number, gradient in class_gradients(net, image[part][None, None], outputs, numbers, share).items():
                    found[number][part] += gradient[0, 0]
            else:
                inputs = image[neighbours[plane]][(slice(None), *part)][None]
                for number, gradient in class_gradients(net, inputs, outputs, numbers, share).items():
                    # One by one: the outermost slices are their own neighbours, and count twice.
                    for neighbour, values in zip(neighbours[plane].tolist(), gradient[0], strict=True):
                        found[number][neighbour][part] += values
    return found


def saliency_map(magnitude: np.ndarray, spacing: tuple[float, float, float], sigma_mm: float = SIGMA_MM) -> np.ndarray:
    """The map (z, y, x; float32) of a gradient's magnitude (z, y, x): smoothed, as a share of its largest value.

    `spacing` is (x, y, z) in mm. All 0 where the magnitude is.
    """
    smooth = ndimage.gaussian_filter(magnitude.astype(np.float32), [sigma_mm / s for s in spacing[::-1]])
    largest = float(smooth.max(initial=0))
    return smooth / np.float32(largest) if largest > 0 else smooth


def find_saliency(
    predictor: Predictor, array: np.ndarray, spacing: tuple[float, float, float], numbers: Sequence[int]
) -> dict[int, np.ndarray]:
    """Saliency maps (z, y, x; float32, 0 .. 1) of classes of a scan (HU, LPS axes; `spacing` x, y, z in mm).

    All 0 for a class that is not found. Of an ensemble the mean of the members' magnitudes, without mirror images.
    """
    found = {number: np.zeros(array.shape, np.float32) for number in numbers}
    scans = predictor.scans(array, spacing)
    on_card = predictor.device == "cuda"
    if on_card:
        # The way back through some layers has no deterministic code on CUDA; a picture needs none.
        torch.set_deterministic_debug_mode("warn")
    try:
        for member, scan in zip(predictor.members, scans, strict=True):
            gradients = _member_gradients(member, scan, predictor.outputs, numbers)
            magnitudes = torch.stack([gradients[number].abs() for number in numbers], dim=-1)
            for first, slab in predictor.to_own_grid(scan, [(0, magnitudes)]):
                for number, values in zip(numbers, slab, strict=True):
                    found[number][first : first + len(values)] += values / len(scans)
    finally:
        if on_card:
            torch.set_deterministic_debug_mode("error")
    return {number: saliency_map(magnitude, spacing) for number, magnitude in found.items()}


def _member_gradients(member: Member, scan: Scan, outputs: str, numbers: Sequence[int]) -> dict[int, torch.Tensor]:
    """Gradients (planes, y, x) of the evidence for classes on a member's grid."""
    from radloom.nets.prediction import padded

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        features = member.net(inputs)
        found: torch.Tensor = features if member.head is None else member.head(features)
        return found

    description = member.description
    image, before = padded(scan.image, member)
    image = image.to(next(member.net.parameters()).device)
    border = member.net.border[-description.architecture.dimensions :]
    size = [n - 2 * b for n, b in zip(image.shape[-len(border) :], border, strict=True)]
    window = member.window or tuple(size)
    places = [window_starts(n, w, description.overlap) for n, w in zip(size, window, strict=True)]
    single = all(len(starts) == 1 for starts in places)
    weights = (torch.ones(window) if single else gaussian_weights(window)).to(image.device)
    flat = description.architecture.dimensions == 2
    neighbours = neighbour_slices(len(image), description.architecture.slices) if flat else None
    found = scan_gradients(forward, image, outputs, numbers, places, weights, neighbours, border)
    first = [b + more for b, more in zip(before, border, strict=True)]
    z, y, x = (slice(b, b + n) for b, n in zip((0, *first)[-3:], scan.image.shape, strict=True))
    return {number: gradient[z, y, x] for number, gradient in found.items()}


def _labels(logits: torch.Tensor, outputs: str) -> torch.Tensor:
    """The labels (n, ...) that logits (n, channels, ...) stand for."""
    largest, label = logits.max(dim=1)
    return label if outputs == "softmax" else torch.where(largest > 0, label + 1, 0)


def _part(start: Sequence[int], window: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(first, first + length) for first, length in zip(start, window, strict=True))
