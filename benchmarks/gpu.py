"""Prediction and training on a GPU: time, share of what the card allows, and other ways to do the same.

    python benchmarks/gpu.py [--small] [--device cuda|cpu]

prints a Markdown table. It needs torch, numpy and scipy, and this repository beside it, not installed; MONAI is
measured where it can be imported. Weights are random. `--small` is for a CPU, to see that all of it works.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as load_predictor does, before CUDA starts
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workflow"))
try:
    import safetensors.torch  # noqa: F401
except ImportError:  # models are made here, none is read or written
    stand_in = types.ModuleType("safetensors")
    stand_in.SafetensorError = ValueError  # type: ignore[attr-defined]
    stand_in.torch = types.ModuleType("safetensors.torch")  # type: ignore[attr-defined]
    stand_in.torch.load = stand_in.torch.save = None
    sys.modules |= {"safetensors": stand_in, "safetensors.torch": stand_in.torch}

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from radloom.nets.architecture import Architecture, build_net
from radloom.nets.flops import cost, on_meta
from radloom.nets.folder import ModelDescription
from radloom.nets.net import Net
from radloom.nets.prediction import Predictor, Scan, Settings, member_of
from radloom.nets.windows import gaussian_weights, window_starts

SPACING = (0.8, 0.8, 1.5)
NET_SPACING = (1.5, 1.5, 1.5)
OVERLAP = 0.5


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    shape: tuple[int, int, int]
    channels: tuple[int, ...]
    window: int
    batch: int
    classes: tuple[int, ...]
    images: int
    image: int
    image_channels: tuple[int, ...]
    image_classes: int
    copied: int
    multiplied: int
    rounds: int


REAL = Size(
    (300, 512, 512), (32, 64, 128, 256, 320), 128, 4, (2, 117), 16, 256, (32, 64, 128, 256, 512), 117, 2**28, 8192, 3
)
SMALL = Size((40, 64, 64), (4, 4, 4, 4, 4), 32, 2, (4,), 2, 32, (4, 8), 5, 2**20, 128, 1)


class Card:
    """The device, and time on it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cuda = name == "cuda"
        self.half = torch.float16 if self.cuda else torch.float32
        """What nets are computed in (nnU-Net's choice); a CPU would only be slower in it."""

    def wait(self) -> None:
        """Until all that was asked for is done."""
        if self.cuda:
            torch.cuda.synchronize()

    def timed(self, work: Callable[[], Any], rounds: int) -> tuple[float, Any]:
        """The least seconds of some rounds, on a GPU after one that doesn't count; and the last result."""
        result = work() if self.cuda else None
        least = float("inf")
        for _ in range(rounds):
            result = None
            self.wait()
            if self.cuda:
                first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                first.record()
                result = work()
                last.record()
                torch.cuda.synchronize()
                least = min(least, first.elapsed_time(last) / 1000)
            else:
                start = time.perf_counter()
                result = work()
                least = min(least, time.perf_counter() - start)
        return least, result

    def peak_gb(self, work: Callable[[], Any]) -> float:
        """The card's memory that a piece of work takes at its peak; 0 on a CPU."""
        if not self.cuda:
            work()
            return 0.0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        work()
        self.wait()
        return torch.cuda.max_memory_allocated() / 1e9

    def describe(self) -> str:
        """The device and torch in a line."""
        if not self.cuda:
            return f"CPU, {torch.get_num_threads()} threads; torch {torch.__version__}"
        found = torch.cuda.get_device_properties(0)
        return (
            f"{found.name}, {found.total_memory / 1e9:.0f} GB, {found.multi_processor_count} multiprocessors; torch "
            f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
        )


def like_radloom() -> None:
    """The switches of `load_predictor`."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def like_others() -> None:
    """The switches that nnU-Net sets, and torch's own."""
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True


def copy_rate(card: Card, size: Size) -> float:
    """Bytes a second that a copy on the device moves, read and written."""
    source = torch.ones(size.copied, device=card.name)
    target = torch.empty_like(source)
    seconds, _ = card.timed(lambda: [target.copy_(source) for _ in range(10)], 3)
    return 20 * source.numel() * source.element_size() / seconds


def multiplication_rate(card: Card, size: Size) -> float:
    """Operations a second of a product of square matrices in the nets' precision."""
    one = torch.randn(size.multiplied, size.multiplied, device=card.name).to(card.half)
    seconds, _ = card.timed(lambda: [one @ one for _ in range(5)], 3)
    return 5 * 2 * size.multiplied**3 / seconds


def traffic(net: Net, window: tuple[int, ...], item: int) -> int:
    """Bytes that must move for one window: each convolution's input, weights and output once.

    As if normalisation, activation, dropout and concatenation cost nothing, fused into the convolutions beside them.
    """
    total = 0

    def count(module: nn.Module, taken: tuple[torch.Tensor, ...], given: torch.Tensor) -> None:
        nonlocal total
        total += (taken[0].numel() + given.numel() + module.weight.numel()) * item

    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    hooks = [module.register_forward_hook(count) for module in net.modules() if isinstance(module, kinds)]
    on_meta(net, (1, 1, *window))
    for hook in hooks:
        hook.remove()
    return total


def scan_of(shape: tuple[int, int, int]) -> np.ndarray:
    """A scan (z, y, x) in HU with structure of some centimetres and noise."""
    rng = np.random.default_rng(0)
    coarse = ndimage.gaussian_filter(rng.normal(size=[max(2, n // 16) for n in shape]), 1.0)
    coarse *= 300 / coarse.std()
    smooth = ndimage.zoom(coarse, [n / c for n, c in zip(shape, coarse.shape, strict=True)], order=1)
    return (smooth[tuple(slice(0, n) for n in shape)] + rng.normal(0, 15, shape)).astype(np.float32)


def monai_logits(net: nn.Module, image: torch.Tensor, window: tuple[int, ...], batch: int) -> torch.Tensor:
    """Logits (channels, z, y, x) by MONAI's sliding window."""
    from monai.inferers import sliding_window_inference

    return sliding_window_inference(
        image[None, None], window, batch, net, overlap=OVERLAP, mode="gaussian", sigma_scale=0.125
    )[0]


def nnunet_like_logits(net: nn.Module, image: torch.Tensor, window: tuple[int, ...], channels: int) -> torch.Tensor:
    """Logits (channels, z, y, x) as nnU-Net sums them: window by window, Gaussian weights, float16 on the device."""
    weights = gaussian_weights(window).to(image.device, torch.float16)
    sums = torch.zeros((channels, *image.shape), dtype=torch.float16, device=image.device)
    counts = torch.zeros(image.shape, dtype=torch.float16, device=image.device)
    starts = [window_starts(length, side, OVERLAP) for length, side in zip(image.shape, window, strict=True)]
    for z in starts[0]:
        for y in starts[1]:
            for x in starts[2]:
                place = (slice(z, z + window[0]), slice(y, y + window[1]), slice(x, x + window[2]))
                sums[:, *place] += net(image[place][None, None])[0].half() * weights
                counts[place] += weights
    return sums.div_(counts)


def labels_by_interpolation(logits: torch.Tensor, shape: tuple[int, int, int]) -> np.ndarray:
    """Labels on the scan's grid: each class's logits interpolated there, and the highest kept."""
    best: torch.Tensor | None = None
    label = torch.zeros(shape, dtype=torch.uint8, device=logits.device)
    for number, one in enumerate(logits):
        there = nn.functional.interpolate(one[None, None].float(), shape, mode="trilinear")[0, 0]
        if best is None:
            best = there
        else:
            label.masked_fill_(there > best, number)
            torch.maximum(best, there, out=best)
    return label.cpu().numpy()


def describe_model(size: Size, classes: int, precision: str) -> ModelDescription:
    return ModelDescription(
        name="benchmark",
        classes={n: f"class_{n}" for n in range(1, classes + 1)},
        spacing=NET_SPACING,
        hu_window=(-500.0, 500.0),
        architecture=Architecture(dimensions=3, channels=size.channels, norm="instance"),
        outputs="softmax",
        patch=(size.window,) * 3,
        overlap=OVERLAP,
        precision=precision,
    )


def prediction(card: Card, size: Size, classes: int, bandwidth: float, rate: float) -> list[str]:
    """The rows of one number of classes."""
    array = scan_of(size.shape)
    half = "float16" if card.cuda else "float32"
    torch.manual_seed(0)
    net = build_net(describe_model(size, classes, half).architecture, classes + 1).eval().requires_grad_(False)

    def predictor(precision: str, batch: int, device: str = card.name) -> Predictor:
        own, description = copy.deepcopy(net).cpu(), describe_model(size, classes, precision)
        return Predictor([member_of("net", own, description)], Settings(device=device, batch=batch), device)

    like_radloom()
    ours = predictor(half, size.batch)
    there, scans = card.timed(lambda: ours.scans(array, SPACING), size.rounds)
    scan: Scan = scans[0]
    window = (size.window,) * 3
    counts = [len(window_starts(n, w, OVERLAP)) for n, w in zip(scan.image.shape, window, strict=True)]
    windows = int(np.prod(counts))
    item = 2 if card.cuda else 4
    moved = windows * traffic(net, window, item) + scan.image.numel() * 4 + array.size
    operations = windows * cost(net, 1, window).flops
    floor, compute = moved / bandwidth, operations / rate
    size_text = " x ".join(map(str, reversed(scan.image.shape)))
    rows = [
        f"**{classes + 1} classes**: {windows} windows of {size.window}^3 over {size_text}; must move "
        f"{moved / 1e9:.1f} GB, which takes {floor:.3f} s; must compute {operations / 1e12:.1f} Tflop, which takes "
        f"{compute:.3f} s at the rate of a matrix product.",
        "",
        "| tool | windows | way back | both | memory floor / both | higher floor / both | memory | same labels |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def through_windows(one: Predictor) -> torch.Tensor:
        """The labels on the net's grid, slab by slab."""
        return torch.cat([slab.argmax(dim=-1).byte() for _, slab in one.probabilities(scan)])

    exact = predictor("float32", size.batch)
    exact_total, _ = card.timed(lambda: exact.decide([scan], [exact.probabilities(scan)]), 1)
    reference = through_windows(exact).cpu()

    def row(title: str, through: float, total: float, memory: float, labels: torch.Tensor) -> str:
        return (
            f"| {title} | {through:.3f} s | {total - through:.3f} s | {total:.3f} s | {floor / total:.2f} | "
            f"{max(floor, compute) / total:.2f} | {memory:.1f} GB | "
            f"{(labels.cpu() == reference).double().mean():.5f} |"
        )

    through, there_labels = card.timed(lambda: through_windows(ours), size.rounds)
    total, labels = card.timed(lambda: ours.decide([scan], [ours.probabilities(scan)]), size.rounds)
    memory = card.peak_gb(lambda: ours.decide([scan], [ours.probabilities(scan)]))
    rows.append(row(f"**Radloom**, {half}", through, total, memory, there_labels))
    rows.append(f"| Radloom, float32 | | | {exact_total:.3f} s | | | | 1 |")
    said = list(ours.warnings)
    singly = predictor(half, 1)
    alone = singly.decide([scan], [singly.probabilities(scan)])

    like_others()
    net.to(card.name, memory_format=torch.contiguous_format)
    image = scan.image.to(card.name)
    peers: dict[str, Callable[[], torch.Tensor]] = {
        "MONAI": lambda: monai_logits(net, image, window, size.batch),
        "nnU-Net-like loop": lambda: nnunet_like_logits(net, image, window, classes + 1),
    }
    for title, logits in peers.items():

        def both(logits: Callable[[], torch.Tensor] = logits) -> np.ndarray:
            with torch.no_grad(), torch.autocast(card.name, card.half, enabled=card.cuda):
                return labels_by_interpolation(logits(), size.shape)

        def net_labels(logits: Callable[[], torch.Tensor] = logits) -> torch.Tensor:
            with torch.no_grad(), torch.autocast(card.name, card.half, enabled=card.cuda):
                return logits().argmax(dim=0)

        try:
            through, found = card.timed(net_labels, size.rounds)
            total, _ = card.timed(both, size.rounds)
            rows.append(row(title, through, total, card.peak_gb(both), found))
        except ImportError:
            rows.append(f"| {title} | not installed | | | | | | |")
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if "memory" not in str(error):
                raise
            rows.append(f"| {title} | not enough memory | | | | | | |")
    net.cpu()
    rows += [
        "",
        f"From the scan to the net's grid: {there:.3f} s more, for Radloom (the others are given its result). "
        f"Other labels with one window at a time: {int((alone != labels).sum()):,} of {labels.size:,} voxels. "
        + (f"Said: {'; '.join(said)}. " if said else ""),
    ]
    if card.cuda:
        rows[-1] += on_both(size, predictor, array)
    return rows


def on_both(size: Size, predictor: Callable[[str, int, str], Predictor], array: np.ndarray) -> str:
    """How many labels of a part of the scan differ between CPU and CUDA in float32, in words."""
    part = np.ascontiguousarray(array[tuple(slice(0, n // 4) for n in array.shape)])
    like_radloom()
    found = [predictor("float32", size.batch, device).labels(part, SPACING) for device in ("cpu", "cuda")]
    return f"CPU and CUDA in float32: {int((found[0] != found[1]).sum()):,} of {part.size:,} voxels differ."


def training(card: Card, size: Size) -> list[str]:
    """Images a second of the 2D net of reference, forward, backward and AdamW's step."""
    rows = [
        f"**Training**: 2D net {'-'.join(map(str, size.image_channels))}, {size.image_classes} sigmoid outputs, "
        f"{size.image} x {size.image}, batch {size.images}, binary cross-entropy, AdamW; images are on the device.",
        "",
        "| how | images a second |",
        "|---|---|",
    ]
    low = torch.bfloat16
    ways = {
        "**bfloat16, channels last**": (low, torch.channels_last),
        "bfloat16, channels first": (low, torch.contiguous_format),
        "float32, channels last": (torch.float32, torch.channels_last),
        "float32, channels first": (torch.float32, torch.contiguous_format),
    }
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(size.images, 1, size.image, size.image, generator=generator).to(card.name)
    labels = torch.randint(0, size.image_classes + 1, (size.images, size.image, size.image), generator=generator)
    labels = labels.to(card.name)
    like_others()
    for title, (precision, memory) in ways.items():
        torch.manual_seed(0)
        architecture = Architecture(channels=size.image_channels)
        net = build_net(architecture, size.image_classes).train().to(card.name, memory_format=memory)
        optimiser = torch.optim.AdamW(net.parameters(), 1e-3)
        inputs = images.contiguous(memory_format=memory)
        numbers = torch.arange(1, size.image_classes + 1, device=card.name)[None, :, None, None]

        def step(
            net: nn.Module = net,
            optimiser: torch.optim.Optimizer = optimiser,
            inputs: torch.Tensor = inputs,
            numbers: torch.Tensor = numbers,
            precision: torch.dtype = precision,
        ) -> None:
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(card.name, precision, enabled=precision != torch.float32):
                found = net(inputs)
            wanted = (labels[:, None] == numbers).float()
            nn.functional.binary_cross_entropy_with_logits(found.float(), wanted).backward()
            optimiser.step()

        many = 10 if card.cuda else 1
        for _ in range(3 if card.cuda else 0):
            step()
        seconds, _ = card.timed(lambda step=step, many=many: [step() for _ in range(many)], size.rounds)
        rows.append(f"| {title} | {many * size.images / seconds:.0f} |")
    return rows


def measure(device: str, small: bool) -> str:
    """All figures as Markdown."""
    card, size = Card(device), SMALL if small else REAL
    like_others()
    bandwidth, rate = copy_rate(card, size), multiplication_rate(card, size)
    shape = " x ".join(map(str, reversed(size.shape)))
    lines = [
        f"Device: {card.describe()}. A copy moves {bandwidth / 1e9:.0f} GB/s, a matrix product in "
        f"{str(card.half).removeprefix('torch.')} does {rate / 1e12:.1f} Tflop/s.",
        "",
        f"**Prediction**: scan of {shape} at {' x '.join(map(str, SPACING))} mm, 3D U-Net "
        f"{'-'.join(map(str, size.channels))} with instance norm at {NET_SPACING[0]} mm, overlap {OVERLAP}, batch "
        f"{size.batch}, random weights; from the image on the net's grid to labels on the scan's. *Memory floor*: each "
        "convolution's input, weights and output moved once at the rate of a copy, all else for nothing. *Higher "
        "floor*: that, or the operations at the rate of a matrix product. *Windows* "
        "ends with labels on the net's grid, which the last column compares with Radloom's in float32. Least of "
        f"{size.rounds} after a warm-up.",
        "",
    ]
    for classes in size.classes:
        lines += [*prediction(card, size, classes, bandwidth, rate), ""]
    return "\n".join([*lines, *training(card, size)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that all of it works")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where there is one")
    args = parser.parse_args()
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu" and not args.small:
        parser.error("there is no CUDA device; --small runs on a CPU")
    print(measure(device, args.small))


if __name__ == "__main__":
    main()
