"""The liver net and the lesion net of pyliverlesionseg as Keras computes them, in numpy, and HDF5 files of Keras.

Written from the meaning of the layers of Keras 2.2 and the package's `create_unet_like_model`, in its own axis order
(x, y, z, channels), float64, without torch: what the imported net is held against.
"""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

LEVEL_DOWN = ["conv3d", "lambda", "leaky_re_lu", "conv3d"]
LEVEL_UP = ["lambda", "leaky_re_lu", "conv3d", "lambda", "leaky_re_lu", "conv3d", "up_sampling3d", "average_pooling3d"]
CONNECTION = ["cropping3d", "average_pooling3d", "concatenate"]
NEXT = ["max_pooling3d", "lambda", "leaky_re_lu"]
KINDS = [
    *(
        "input",
        "max_pooling3d",
        "max_pooling3d",
        *LEVEL_DOWN,
        *NEXT,
        *LEVEL_DOWN,
        *NEXT,
        *LEVEL_DOWN,
        *NEXT,
        *LEVEL_DOWN,
    ),
    *("average_pooling3d", "up_sampling3d", "average_pooling3d", *CONNECTION, *LEVEL_UP, *CONNECTION, *LEVEL_UP),
    *(*CONNECTION, *LEVEL_UP, "average_pooling3d", "up_sampling3d", "average_pooling3d"),
    *("lambda", "leaky_re_lu", "conv3d", "input", "multiply", "main"),
]
"""Kinds of the layers in the order of the file's attribute `layer_names`."""
KERNELS = [
    *((3, 3, 1, 1, 20), (3, 3, 3, 20, 40), (3, 3, 1, 40, 40), (3, 3, 3, 40, 80), (3, 3, 1, 80, 80), (3, 3, 3, 80, 160)),
    *((3, 3, 3, 160, 160), (3, 3, 3, 160, 160), (3, 3, 3, 320, 160), (3, 3, 1, 160, 80), (3, 3, 3, 160, 80)),
    *((3, 3, 1, 80, 40), (3, 3, 3, 80, 40), (3, 3, 1, 40, 20), (1, 1, 1, 20, 1)),
]
"""Shapes (x, y, z, in, out) of the kernels of conv3d_1 to conv3d_15."""

_NORM = ["lambda", "leaky_re_lu"]
_LESION_UP = ["average_pooling3d", "concatenate", *_NORM, "conv3d", *_NORM, "cropping3d", "conv3d", "conv3d", "add"]
LESION_KINDS = [
    *("input", "max_pooling3d", "max_pooling3d", "conv3d", *_NORM, "cropping3d", "conv3d", "conv3d", "add"),
    *("max_pooling3d", *_NORM, "conv3d", *_NORM, "cropping3d", "conv3d", "conv3d", "add") * 2,
    *("max_pooling3d", *_NORM, "conv3d", *_NORM, "conv3d", "cropping3d", "add", "average_pooling3d"),
    *("up_sampling3d", "cropping3d", *_LESION_UP) * 3,
    *("up_sampling3d", "average_pooling3d", "up_sampling3d", *_NORM, "conv3d", "input", "multiply", "main"),
]
"""The same of the lesion net, whose shortcuts are the 1 x 1 x 1 kernels."""
LESION_KERNELS = [
    *((3, 3, 1, 1, 20), (3, 3, 3, 20, 40), (1, 1, 1, 1, 40), (3, 3, 1, 40, 40), (3, 3, 3, 40, 80), (1, 1, 1, 40, 80)),
    *((3, 3, 1, 80, 80), (3, 3, 3, 80, 160), (1, 1, 1, 80, 160), (3, 3, 1, 160, 160), (3, 3, 3, 160, 160)),
    *((3, 3, 3, 320, 160), (3, 3, 1, 160, 80), (1, 1, 1, 320, 80), (3, 3, 3, 160, 80), (3, 3, 1, 80, 40)),
    *((1, 1, 1, 160, 40), (3, 3, 3, 80, 40), (3, 3, 1, 40, 20), (1, 1, 1, 80, 20), (1, 1, 1, 20, 1)),
]

Weights = list[tuple[np.ndarray, np.ndarray]]


def random_weights(seed: int, kernels: list[tuple[int, ...]] = KERNELS) -> Weights:
    """Kernels and biases of the net's shapes."""
    rng = np.random.default_rng(seed)
    return [
        (
            rng.normal(0, np.sqrt(2 / np.prod(shape[:4])), shape).astype(np.float32),
            rng.normal(0, 0.1, shape[4]).astype(np.float32),
        )
        for shape in kernels
    ]


def layer_names(kinds: list[str]) -> list[str]:
    """Keras' names of layers, which count each kind from 1."""
    return [kind if kind == "main" else f"{kind}_{kinds[: i + 1].count(kind)}" for i, kind in enumerate(kinds)]


def write_keras(path: Path, weights: Weights, kinds: list[str] = KINDS, spacing: tuple[float, ...] = (3, 3, 3)) -> None:
    """Write weights as Keras does with `save_weights`, and the voxel size as the package has it beside them."""
    with h5py.File(path, "w") as file:
        names = layer_names(kinds)
        file.attrs["layer_names"] = [name.encode() for name in names]
        file["header/voxel_size"] = np.array(spacing, np.float64)
        convolutions = iter(weights)
        for name in names:
            group = file.create_group(name)
            parts = [f"{name}/{part}:0" for part in ("kernel", "bias")] if name.startswith("conv3d") else []
            group.attrs["weight_names"] = np.array([part.encode() for part in parts], dtype="S40")
            for part, values in zip(parts, next(convolutions) if parts else (), strict=True):
                group[part] = values


def read_keras(path: Path) -> Weights:
    """The kernels and biases of conv3d_1, conv3d_2 ..., in this order."""
    with h5py.File(path, "r") as file:
        count = sum(name.startswith("conv3d") for name in file)
        groups = [file[f"conv3d_{i}/conv3d_{i}"] for i in range(1, count + 1)]
        return [(group["kernel:0"][...], group["bias:0"][...]) for group in groups]


def convolved(maps: np.ndarray, kernel: np.ndarray, bias: np.ndarray, valid: bool = False) -> np.ndarray:
    """`Conv3D(padding="same")`: a correlation, with zeros around; or `Conv3D(padding="valid")`."""
    border = [(0, 0) if valid else (k // 2, k // 2) for k in kernel.shape[:3]]
    padded = np.pad(maps, [*border, (0, 0)])
    nx, ny, nz = (n - k + 1 for n, k in zip(padded.shape[:3], kernel.shape[:3], strict=True))
    out = np.zeros((nx, ny, nz, kernel.shape[4])) + bias
    for i, j, k in np.ndindex(*kernel.shape[:3]):
        out += padded[i : i + nx, j : j + ny, k : k + nz] @ kernel[i, j, k].astype(np.float64)
    return out


def activated(maps: np.ndarray) -> np.ndarray:
    """The package's instance normalisation, and `LeakyReLU(0.01)`."""
    scores = (maps - maps.mean(axis=(0, 1, 2))) / (maps.std(axis=(0, 1, 2)) + 1e-7)
    return np.where(scores >= 0, scores, 0.01 * scores)


def max_pooled(maps: np.ndarray, size: int = 3) -> np.ndarray:
    """`MaxPooling3D(size)`."""
    nx, ny, nz = (n // size for n in maps.shape[:3])
    return maps.reshape(nx, size, ny, size, nz, size, -1).max(axis=(1, 3, 5))


def enlarged(maps: np.ndarray) -> np.ndarray:
    """`UpSampling3D(3)`, which repeats, and `AveragePooling3D(3, strides=1, padding="valid")`."""
    for axis in range(3):
        maps = maps.repeat(3, axis=axis)
        length = maps.shape[axis] - 2
        maps = sum(maps.take(range(i, i + length), axis=axis) for i in range(3)) / 3
    return maps


def cropped(maps: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`Cropping3D` by as much on both sides of each axis."""
    cuts = [(have - want) // 2 for have, want in zip(maps.shape[:3], like.shape[:3], strict=True)]
    return maps[tuple(slice(cut, cut + want) for cut, want in zip(cuts, like.shape[:3], strict=True))]


def forward(image: np.ndarray, weights: Weights, seen: Callable[[np.ndarray], None] = lambda _: None) -> np.ndarray:
    """Logits (x, y, z) of an image (x, y, z; RAS); `seen` gets what each convolution makes, in their order."""
    numbers = iter(weights)

    def convolution(maps: np.ndarray) -> np.ndarray:
        out = convolved(maps, *next(numbers))
        seen(out)
        return out

    first = convolution(image[..., None].astype(np.float64))
    levels = [convolution(activated(first))]
    for _ in range(3):
        levels.append(convolution(activated(convolution(activated(max_pooled(levels[-1]))))))
    maps = levels.pop()
    while levels:
        maps = enlarged(maps)
        maps = np.concatenate([cropped(levels.pop(), maps), maps], axis=-1)
        maps = convolution(activated(convolution(activated(maps))))
    return convolution(activated(maps))[..., 0]


def forward_lesion(
    image: np.ndarray, weights: Weights, seen: Callable[[np.ndarray], None] = lambda _: None
) -> np.ndarray:
    """As `forward`, of the lesion net, whose logits are those of the middle: 44 voxels along x and y, 22 along z less.

    `UpSampling3D(2)` repeats. The average poolings are of 1 voxel: `create_unet_like_model` finds no half steps.
    """
    numbers = iter(weights)

    def convolution(maps: np.ndarray) -> np.ndarray:
        out = convolved(maps, *next(numbers), valid=True)
        seen(out)
        return out

    def level(maps: np.ndarray, first: bool = False) -> np.ndarray:
        out = convolution(activated(convolution(maps if first else activated(maps))))
        shortcut = cropped(maps, out)
        return out + (shortcut if shortcut.shape == out.shape else convolution(shortcut))

    levels = [level(image[..., None].astype(np.float64), first=True)]
    for _ in range(3):
        levels.append(level(max_pooled(levels[-1], 2)))
    maps = levels.pop()
    while levels:
        maps = maps.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
        maps = level(np.concatenate([cropped(levels.pop(), maps), maps], axis=-1))
    return convolution(activated(maps))[..., 0]
