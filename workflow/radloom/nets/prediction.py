"""Labels and probabilities of a scan by one net or several: windows, mirrors, and the way back to the scan's grid.

What is averaged, and in which order: the logits of overlapping windows (with Gaussian weights) and of mirror images;
then come temperature and softmax or sigmoid; then the probabilities of the nets of an ensemble are averaged,
interpolated to the scan's own grid, and decide there. Everything flows from the first plane to the last: no array
holds all classes of a volume, neither on the net's grid nor on the scan's.

On the net's grid arrays are (planes, y, x, channels), the layout that channels-last nets give.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from radloom.errors import CaseError, CohortError
from radloom.nets.cpu_layers import with_cpu_layers
from radloom.nets.determinism import be_deterministic
from radloom.nets.devices import claim_card
from radloom.nets.dropout import monte_carlo
from radloom.nets.folder import REGION_FOLDER, ModelDescription, load_model, region_folders
from radloom.nets.fusion import fused
from radloom.nets.inplane import from_grid, net_grid, on_grid, to_grid, to_input
from radloom.nets.net import Net
from radloom.nets.region import cut_to_region, find_region
from radloom.nets.windows import gaussian_weights, neighbour_slices, side_by_side, window_starts

T = TypeVar("T")
Slab = tuple[int, torch.Tensor]
"""The number of the first plane, and an array (planes, y, x, channels) on a net's grid."""

AXES = ("z", "y", "x")
PIECE = 2**26
"""Numbers that an array of all classes may hold at a time (float32: 256 MB)."""
TILE = 40
"""Pixels of the net's grid, along y and x, whose classes are sorted out together on a CPU: they fit into its caches."""
GROUP = 8
"""Planes of the net's grid that are interpolated together."""
NO_NUMBERS = (
    "the net gives values that are no numbers",
    "Look at the scan's values; a net in float16 may overflow: set its precision to float32",
)
BATCH = {2: 16, 3: 4}
"""Slices or windows that go through a net at once on CUDA, where the configuration says nothing."""
CPU_BATCH = {2: 1, 3: 1}
"""The same on a CPU: fixed, because the order of a convolution's sums, and so the last bit of its result, depends on
it. More at once are no faster."""


@dataclass(frozen=True)
class Settings:
    """How nets are used, apart from what belongs to each. Raises ValueError for what can't be."""

    device: str = "auto"
    """`auto` (CUDA where there is one), `cpu` or `cuda`."""
    batch: int | None = None
    """Slices or windows at once on CUDA; None: `BATCH`. On a CPU the batch is fixed."""
    mirrors: tuple[str, ...] = ()
    """Axes along which the scan is also seen mirrored (all their combinations): of `AXES`."""
    cpu_precision: str = "float32"
    """`model`: also a CPU computes in the model's precision, where it can."""

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"the device is auto, cpu or cuda, not {self.device!r}")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"the batch is a positive number, not {self.batch}")
        if not set(self.mirrors) <= set(AXES) or len(set(self.mirrors)) != len(self.mirrors):
            raise ValueError(f"mirrors are different ones of {', '.join(AXES)}, not {list(self.mirrors)}")
        if self.cpu_precision not in ("float32", "model"):
            raise ValueError(f"cpu_precision is float32 or model, not {self.cpu_precision!r}")


@dataclass(frozen=True)
class Scan:
    """A scan (z, y, x) on a net's grid, which has the same middle: LPS axes."""

    image: torch.Tensor
    """What the net takes, (planes, y, x) float32, on the host."""
    shape: tuple[int, int, int]
    """Voxels (z, y, x) of the scan's own grid."""
    back: tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]
    """For each axis (z, y, x) the matrix (own grid, net's grid) that interpolates; None: the grids are the same. Of a
    scan that was cut to a region (`radloom.nets.region`) the net's grid is its box, and rows beyond it are 0."""

    @cached_property
    def supports(self) -> list[tuple[int, int]]:
        """For each plane of the own grid, the planes [from, to) of the net's that it is interpolated from."""
        return _supports(self.back[0], self.shape[0])


@dataclass
class Member:
    """A net, and what its predictions need."""

    name: str
    net: Net
    description: ModelDescription
    head: nn.Conv2d | nn.Conv3d | None = None
    """The last 1 x 1 convolution, where it is applied after windows and mirrors are averaged: it is linear, and what
    comes before it has fewer channels than what comes after."""

    @property
    def window(self) -> tuple[int, ...]:
        """Voxels of a window ([z,] y, x) that get logits; empty: whole slices."""
        return self.description.patch

    @property
    def seen(self) -> tuple[int, ...]:
        """Voxels of a window ([z,] y, x) that the net takes: also its border."""
        return tuple(n + 2 * b for n, b in zip(self.window, self.net.border[-len(self.window) :], strict=True))

    @property
    def outside(self) -> float:
        """What the net takes where there is no image."""
        description = self.description
        hu = description.hu_window[0] if description.outside_hu is None else description.outside_hu
        return self.value(hu)

    def value(self, hu: float) -> float:
        """What the net takes for a value in HU."""
        return float(to_input(torch.tensor([hu]), self.description.hu_window, self.description.normalisation))

    def grid(self, shape: Sequence[int], spacing: Sequence[float]) -> tuple[tuple[int, float], ...]:
        """Voxels and spacing in mm of the net's grid along z, y and x, for a scan (z, y, x; spacing x, y, z)."""
        return net_grid(shape, spacing, self.description.spacing)


class Predictor:
    """One net, or an ensemble whose mean probability decides, on a device; made by `load_predictor`.

    Short memory makes it step down: smaller batches, sums kept on the host, at last the CPU. Each step is told in
    `warnings`. A new case (`scans`, `labels`) begins at the top again, so that no case depends on the one before.
    """

    def __init__(
        self,
        members: Sequence[Member],
        settings: Settings = Settings(),
        device: str = "cpu",
        region: Predictor | None = None,
    ) -> None:
        """`region` finds what the one net looks at, where its description names a region."""
        first = members[0].description
        for member in members:
            self._check(member, first, settings)
        if len(members) > 1 and any(member.description.region for member in members):
            raise CohortError("a model that looks at a region can't be one of an ensemble")
        if (first.region is None) != (region is None):
            raise ValueError("a model with a region needs what finds it, and no other does")
        self.region = region
        self.found: np.ndarray | None = None
        """The region (z, y, x; bool) of the last case, on its own grid."""
        self.members = list(members)
        self.settings = settings
        self.device = device
        self.classes = dict(first.classes)
        self.outputs = first.outputs
        self.channels = first.channels_out
        self.warnings: list[str] = []
        for member in self.members:
            memory = torch.channels_last if member.description.architecture.dimensions == 2 else torch.channels_last_3d
            member.net.eval().requires_grad_(False).to(device=device, memory_format=memory)  # type: ignore[call-overload]
            if member.head is not None:
                member.head.requires_grad_(False).to(device)
        self._start()

    @staticmethod
    def _check(member: Member, first: ModelDescription, settings: Settings) -> None:
        description = member.description
        if description.classes != first.classes or description.outputs != first.outputs:
            raise CohortError(
                f"the models of an ensemble need the same classes and outputs; {member.name!r} has "
                f"{list(description.classes.values())} ({description.outputs}), "
                f"the first {list(first.classes.values())} ({first.outputs})"
            )
        multiples = member.net.multiple
        if any(length % multiple for length, multiple in zip(member.window, multiples, strict=False)):
            raise CohortError(
                f"the model {member.name!r} can't be used: its patch {list(member.window)} is not a multiple of "
                f"{list(multiples)}, as its net needs"
            )
        if "z" in settings.mirrors and description.architecture.dimensions == 2:
            raise CohortError(f"segment.tta: the model {member.name!r} sees slices, which can't be mirrored along z")

    # --- the ladder of memory

    def _start(self) -> None:
        """Back to the top of the ladder."""
        self.warnings = []
        self._place(self.device)
        self._sums_on_host = False
        own = self.settings.batch
        self._batch = dict(CPU_BATCH) if self.device == "cpu" else {d: own or batch for d, batch in BATCH.items()}
        self._slices = self._batch[2]

    def _place(self, device: str) -> None:
        self._at = device
        for member in self.members:
            member.net.to(device)
            if member.head is not None:
                member.head.to(device)

    def _step_down(self) -> None:
        """Need less memory of the card from now on. Raises MemoryError where nothing is left to do."""
        if self._at == "cpu":
            raise MemoryError
        torch.cuda.empty_cache()
        if max(self._batch.values()) > 1:
            self._batch = {dimensions: max(1, batch // 2) for dimensions, batch in self._batch.items()}
            self.warnings.append("short of memory on the card: the batch was halved")
        elif not self._sums_on_host:
            self._sums_on_host = True
            self.warnings.append("short of memory on the card: sums were kept in the host's memory")
        else:
            self._place("cpu")
            self._batch = dict(CPU_BATCH)
            self.warnings.append("short of memory on the card: the net went on on the CPU")

    def _afford(self, work: Callable[[], T]) -> T:
        """The result of `work`, which is done again after each step down that it takes."""
        while True:
            try:
                return work()
            except (MemoryError, RuntimeError) as error:
                if not short_of_memory(error):
                    raise
            # Only here is the error gone, and with it what its frames held.
            self._step_down()

    def _zeros(self, shape: tuple[int, ...]) -> torch.Tensor:
        return self._afford(lambda: torch.zeros(shape, device=self._sums_at))

    @property
    def _sums_at(self) -> str:
        return "cpu" if self._sums_on_host else self._at

    def facts(self) -> dict[str, Any]:
        """For the record: what the last case was computed on, and in which precision."""
        facts: dict[str, Any] = {"device": self._at, "precision": sorted({self._precision(m) for m in self.members})}
        if self._at == "cuda":
            facts["card"] = torch.cuda.get_device_name()
        return facts

    def _precision(self, member: Member) -> str:
        """What a net is computed in here: the model's precision where the device has it, else float32."""
        wanted = member.description.precision
        if torch.device(self._at).type == "cpu":
            has_it = wanted == "bfloat16" and self.settings.cpu_precision == "model" and cpu_has_bfloat16()
        else:
            has_it = wanted != "bfloat16" or torch.cuda.is_bf16_supported(including_emulation=False)
        return wanted if has_it else "float32"

    # --- to the net's grid

    def scans(self, array: np.ndarray, spacing: tuple[float, float, float]) -> list[Scan]:
        """The scan (z, y, x; HU, LPS axes; `spacing` x, y, z in mm) on each member's grid; begins a new case.

        Members of the same grid, window and normalisation share one `Scan`.
        """
        self._start()
        region = self.members[0].description.region
        if self.region is not None and region is not None:
            self.found = find_region(self.region, region, array, spacing)
            self.warnings += self.region.warnings
        made: dict[Any, Scan] = {}
        scans = []
        for member in self.members:
            description = member.description
            key = (member.grid(array.shape, spacing), description.hu_window, description.normalisation)
            if key not in made:
                made[key] = _on_grid(array, spacing, key[0], member, self.found)
            scans.append(made[key])
        return scans

    # --- through the net

    def logits(self, scan: Scan, member: int = 0, seed: int | None = None, mirror: bool = True) -> Iterator[Slab]:
        """Logits of a member on its grid, slab by slab from the first plane to the last.

        Slabs are the same for each call with the same scan and member. With a `seed` the net's dropout is at work, and
        drops the same feature maps in all windows. `mirror=False` leaves out the mirror images of the settings.
        """
        head = self.members[member].head
        for first, raw in self._raw(scan, member, seed, mirror):
            planes = max(1, PIECE // (raw.shape[1] * raw.shape[2] * self.channels))
            for start in range(0, len(raw), planes):
                piece = raw[start : start + planes]
                yield first + start, piece if head is None else _apply(head, piece)

    def probabilities(
        self, scan: Scan, member: int = 0, seed: int | None = None, mirror: bool = True
    ) -> Iterator[Slab]:
        """As `logits`, but probabilities: of all channels, the background first (softmax), or of the classes.

        Raises CaseError where they are no numbers.
        """
        temperature = self.members[member].description.temperature
        for first, logits in self.logits(scan, member, seed, mirror):
            if temperature != 1:
                logits = logits / temperature
            slab = logits.softmax(dim=-1) if self.outputs == "softmax" else logits.sigmoid()
            # A voxel with one logit that is none has a softmax without numbers in every channel.
            if torch.isnan(slab[..., 0] if self.outputs == "softmax" else slab.sum(dim=-1)).any():
                raise CaseError(*NO_NUMBERS)
            yield first, slab

    def _raw(self, scan: Scan, member: int, seed: int | None = None, mirror: bool = True) -> Iterator[Slab]:
        """Logits, or where a member's head is apart the features that it makes logits of."""
        chosen = self.members[member]
        mirrors = self.settings.mirrors if mirror else ()
        slabs = self._volume_slabs if chosen.description.architecture.dimensions == 3 else self._slice_slabs
        return slabs(chosen, scan, mirrors, seed)

    def _slice_slabs(self, member: Member, scan: Scan, mirrors: tuple[str, ...], seed: int | None) -> Iterator[Slab]:
        """Slabs of a net of slices: as many as go through it at once, in tiles or whole."""
        image, before = padded(scan.image, member)
        size = tuple(image.shape[1:])
        window = member.window or size
        overlap = member.description.overlap
        places = list(itertools.product(*map(window_starts, size, window, itertools.repeat(overlap))))
        neighbours = neighbour_slices(len(image), member.description.architecture.slices)
        weights = gaussian_weights(window) if len(places) > 1 else None
        count = _weight_sums(size, places, weights)
        inside = tuple(slice(b, b + n) for b, n in zip(before, scan.image.shape[1:], strict=True))
        step = self._slices
        for start in range(0, len(image), step):
            chosen = neighbours[start : start + step]
            sums: torch.Tensor | None = None
            for y, x in places:
                inputs = image[:, y : y + window[0], x : x + window[1]][chosen]
                found = self._through(member, inputs, mirrors, seed)
                if weights is None:
                    sums = found
                    break
                if sums is None:
                    sums = self._zeros((len(chosen), *size, found.shape[-1]))
                sums, found = sums.to(self._sums_at), found.to(self._sums_at)
                part = sums[:, y : y + window[0], x : x + window[1]]
                part.addcmul_(found, weights.to(found.device)[..., None])
            assert sums is not None
            sums = sums[:, inside[0], inside[1]]
            if count is not None:
                sums = sums / count[inside].to(sums.device)[..., None]
            yield start, sums

    def _volume_slabs(self, member: Member, scan: Scan, mirrors: tuple[str, ...], seed: int | None) -> Iterator[Slab]:
        """Slabs of a net of volumes: the planes that the next row of windows doesn't reach any more."""
        image, before = padded(scan.image, member)
        window = member.window
        size = tuple(n - 2 * b for n, b in zip(image.shape, member.net.border, strict=True))
        shares: list[dict[int, torch.Tensor]] = []
        if any(member.net.border):
            # At its edge such a window knows as much as in its middle. DeepVoxNet begins at the left, back and feet.
            shares = [
                side_by_side(n, w, from_end=axis > 0) for axis, (n, w) in enumerate(zip(size, window, strict=True))
            ]
            rows, *across = map(list, shares)
        else:
            rows, *across = map(window_starts, size, window, itertools.repeat(member.description.overlap))
        places = list(itertools.product(*across))
        weights = gaussian_weights(window)
        inside = (slice(before[1], before[1] + scan.image.shape[1]), slice(before[2], before[2] + scan.image.shape[2]))
        last = before[0] + scan.image.shape[0]
        sums: torch.Tensor | None = None
        count = torch.zeros(window[0], *size[1:])
        depth, height, width = member.seen
        for row, z in enumerate(rows):
            planes = image[z : z + depth]
            start = 0
            while start < len(places):
                chosen = places[start : start + self._batch[3]]
                inputs = torch.stack([planes[:, y : y + height, x : x + width] for y, x in chosen])[:, None]
                found = self._through(member, inputs, mirrors, seed)
                if sums is None:
                    sums = self._zeros((window[0], *size[1:], found.shape[-1]))
                sums, found = sums.to(self._sums_at), found.to(self._sums_at)
                for (y, x), one in zip(chosen, found, strict=True):
                    if shares:
                        weights = torch.einsum("i,j,k->ijk", shares[0][z], shares[1][y], shares[2][x])
                    weight = weights.to(sums.device)
                    sums[:, y : y + window[1], x : x + window[2]].addcmul_(one, weight[..., None])
                    count[:, y : y + window[1], x : x + window[2]] += weights
                start += len(chosen)
            assert sums is not None
            done = (rows[row + 1] if row + 1 < len(rows) else size[0]) - z
            low, high = max(z, before[0]), min(z + done, last)
            if low < high:
                # Division by pieces: the slab itself may be large.
                slab = sums[low - z : high - z, inside[0], inside[1]]
                total = count[low - z : high - z, inside[0], inside[1]].to(slab.device)
                planes_at_once = max(1, PIECE // slab[0].numel())
                for a in range(0, len(slab), planes_at_once):
                    yield low - before[0] + a, slab[a : a + planes_at_once] / total[a : a + planes_at_once, ..., None]
            if row + 1 < len(rows):
                kept = window[0] - done
                for moved in (sums, count):
                    moved[:kept] = moved[done:].clone()
                    moved[kept:] = 0

    def _through(
        self, member: Member, inputs: torch.Tensor, mirrors: tuple[str, ...], seed: int | None
    ) -> torch.Tensor:
        """Mean logits or features of inputs (n, channels, [z,] y, x) and mirror images: (n, [z,] y, x, channels).

        They lie where sums are kept. Batches are lowered when memory is short.
        """
        dimensions = inputs.ndim - 2
        done: list[torch.Tensor] = []
        start = 0
        while start < len(inputs):

            def work(start: int = start) -> torch.Tensor:
                part = inputs[start : start + self._batch[dimensions]]
                return self._once(member, part, mirrors, seed).to(self._sums_at)

            done.append(self._afford(work))
            start += len(done[-1])
        return done[0] if len(done) == 1 else torch.cat([part.to(self._sums_at) for part in done])

    def _once(self, member: Member, inputs: torch.Tensor, mirrors: tuple[str, ...], seed: int | None) -> torch.Tensor:
        dimensions = inputs.ndim - 2
        memory = torch.channels_last if dimensions == 2 else torch.channels_last_3d
        inputs = inputs.to(self._at).contiguous(memory_format=memory)
        axes = [inputs.ndim - len(AXES) + AXES.index(name) for name in mirrors]
        flips = [flip for n in range(len(axes) + 1) for flip in itertools.combinations(axes, n)]
        precision = getattr(torch, self._precision(member))
        total: torch.Tensor | None = None
        with (
            torch.no_grad(),
            torch.autocast(torch.device(self._at).type, precision, enabled=precision != torch.float32),
        ):
            for flip in flips:
                seen = inputs.flip(flip).contiguous(memory_format=memory) if flip else inputs
                with nullcontext() if seed is None else monte_carlo(member.net, [seed] * len(seen)):
                    found = member.net(seen).float()
                found = found.flip(flip) if flip else found
                total = found if total is None else total.add_(found)
            assert total is not None
            if len(flips) > 1:
                total /= len(flips)
            return total.movedim(1, -1).contiguous()

    # --- back to the scan's grid

    def labels(self, array: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
        """Labels (uint8) of a scan (z, y, x; HU, LPS axes; `spacing` x, y, z in mm), on its own grid.

        Raises CaseError where the net gives values that are no numbers.
        """
        fields = [
            _Field(scan, self._raw(scan, i), self.outputs, member.head, member.description.temperature)
            for i, (scan, member) in enumerate(zip(self.scans(array, spacing), self.members, strict=True))
        ]
        return self._decide(fields)

    def decide(self, scans: Sequence[Scan], streams: Sequence[Iterable[Slab]]) -> np.ndarray:
        """Labels (uint8) on the scan's own grid, by the mean of the streams' interpolated probabilities.

        softmax: the largest probability decides. sigmoid: the largest one above one half. Of equal ones the lower
        number wins. A stream gives the probabilities of all channels on its scan's grid, as `probabilities` does.
        """
        return self._decide(
            [_Field(scan, iter(stream), self.outputs) for scan, stream in zip(scans, streams, strict=True)]
        )

    def _decide(self, fields: Sequence[_Field]) -> np.ndarray:
        labels = np.zeros(fields[0].scan.shape, np.uint8)
        tile = self._tile(fields)
        # Where nothing is averaged and nothing interpolated, logits decide as probabilities do.
        alone = len(fields) == 1 and all(matrix is None for matrix in fields[0].scan.back)
        for start, end in _groups([field.scan for field in fields]):
            for field in fields:
                field.draw(start, end)
            for y, x in itertools.product(*(range(0, n, t) for n, t in zip(labels.shape[1:], tile, strict=True))):
                out = labels[start:end, y : y + tile[0], x : x + tile[1]]
                decide = self._largest if alone else self._decide_tile
                out[...] = self._afford(partial(decide, fields, (y, x), out.shape))
        return labels

    def _tile(self, fields: Sequence[_Field]) -> tuple[int, int]:
        """Pixels (y, x) of the own grid whose classes are sorted out together."""
        _, *own = fields[0].scan.shape
        if self._at != "cpu":
            return own[0], own[1]
        finest = [max(field.scan.image.shape[axis] for field in fields) for axis in (1, 2)]
        return max(1, TILE * own[0] // finest[0]), max(1, TILE * own[1] // finest[1])

    def _largest(self, fields: Sequence[_Field], first: tuple[int, int], shape: Sequence[int]) -> np.ndarray:
        """As `_decide_tile`, of the one field on the own grid."""
        part, _ = fields[0].part(first, shape, self._sums_at)
        # NumPy's is four times as fast as torch's on a CPU; both give the place of a value that is no number.
        best = torch.from_numpy(part.numpy().argmax(axis=-1)) if part.device.type == "cpu" else part.argmax(dim=-1)
        value = part.gather(-1, best[..., None])[..., 0]
        if torch.isnan(value).any():
            raise CaseError(*NO_NUMBERS)
        if self.outputs == "sigmoid":
            best = torch.where(value > fields[0].half, best + 1, 0)
        return best.to(torch.uint8).cpu().numpy()

    def _decide_tile(self, fields: Sequence[_Field], first: tuple[int, int], shape: Sequence[int]) -> np.ndarray | int:
        """Labels (planes, y, x) of a tile of the own grid that begins at `first` (y, x); 0 where all is background.

        Only classes are interpolated that can win.
        """
        softmax = self.outputs == "softmax"
        parts = [field.part(first, shape, self._sums_at) for field in fields]
        possible = torch.stack([field.possible(part) for field, (part, _) in zip(fields, parts, strict=True)])
        candidates = torch.nonzero(possible.any(dim=0))[:, 0].tolist()
        if not candidates:
            return 0
        mean: torch.Tensor | None = None
        for field, (part, ways) in zip(fields, parts, strict=True):
            one = _interpolated(field.chosen(part, [0, *candidates] if softmax else candidates), ways)
            mean = one if mean is None else mean.add_(one)
        assert mean is not None
        if len(fields) > 1:
            mean /= len(fields)
        best = mean[0].clone() if softmax else torch.full_like(mean[0], 0.5)
        labels = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
        for channel, one in zip(candidates, mean[1:] if softmax else mean, strict=True):
            labels.masked_fill_(one > best, channel if softmax else channel + 1)
            torch.maximum(best, one, out=best)
        return labels.cpu().numpy()

    def to_own_grid(self, scan: Scan, slabs: Iterable[Slab]) -> Iterator[tuple[int, np.ndarray]]:
        """Slabs of any channels on the net's grid, interpolated: (first plane, (channels, planes, y, x) float32)."""
        field = _Field(scan, iter(slabs), self.outputs)
        for start, end in _groups([scan]):
            field.draw(start, end)
            part, ways = field.part((0, 0), (end - start, *scan.shape[1:]), self._sums_at)
            yield start, _interpolated(part.movedim(-1, 0).contiguous(), ways).cpu().numpy()


class _Field:
    """What decides on a net's grid, of which a few planes are at hand: features, logits or probabilities."""

    def __init__(
        self,
        scan: Scan,
        slabs: Iterator[Slab],
        outputs: str,
        head: nn.Conv2d | nn.Conv3d | None = None,
        temperature: float | None = None,
    ) -> None:
        """`head` makes logits of what the slabs hold; with a `temperature` those are logits, else probabilities."""
        self.scan = scan
        self.outputs = outputs
        self.head = head
        self.temperature = temperature
        self._roll = _Roll(slabs)
        self._upright: torch.Tensor | None = None
        self._planes = torch.empty(0)

    def draw(self, start: int, end: int) -> None:
        """Take the planes that planes [start, end) of the own grid are interpolated from; `start` only ascends."""
        low, high = self.scan.supports[start][0], self.scan.supports[end - 1][1]
        self._planes = self._roll.planes(low, high)
        matrix = self.scan.back[0]
        self._upright = None if matrix is None else matrix[start:end, low:high]

    def part(
        self, first: tuple[int, int], shape: Sequence[int], place: str
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """The voxels (planes, y, x, channels) that a tile of the own grid needs, and its matrices along z, y and x."""
        (rows, down), (columns, right) = (
            _part(matrix, at, n) for matrix, at, n in zip(self.scan.back[1:], first, shape[1:], strict=True)
        )
        part = self._planes[:, rows, columns].to(place)
        if self.head is not None:
            part = _apply(self.head, part)
        return part, [None if m is None else m.to(place) for m in (self._upright, down, right)]

    @property
    def half(self) -> float:
        """What a class must exceed where there is no background: a probability of one half, or its logit."""
        return 0.5 if self.temperature is None else 0.0

    def possible(self, part: torch.Tensor) -> torch.Tensor:
        """Which channels can win in a tile: where none of the voxels that contribute gives a class more than the
        background (sigmoid: more than one half), no weighted mean does."""
        least = part[..., :1] if self.outputs == "softmax" else self.half
        most = (part - least).flatten(0, 2).amax(dim=0)
        if torch.isnan(most).any():
            raise CaseError(*NO_NUMBERS)
        return (most > 0).cpu()

    def chosen(self, part: torch.Tensor, channels: list[int]) -> torch.Tensor:
        """Probabilities (channels, planes, y, x) of chosen channels."""
        wanted = torch.tensor(channels, device=part.device)
        if self.temperature is None:
            return part.index_select(-1, wanted).movedim(-1, 0).contiguous()
        if self.temperature != 1:
            part = part / self.temperature
        if self.outputs == "softmax":
            return part.softmax(dim=-1).index_select(-1, wanted).movedim(-1, 0).contiguous()
        return part.index_select(-1, wanted).sigmoid_().movedim(-1, 0).contiguous()


class _Roll:
    """Planes of a stream of slabs by their numbers, in ascending order; what lies behind is forgotten."""

    def __init__(self, slabs: Iterator[Slab]) -> None:
        self._slabs = slabs
        self._first = 0
        self._held: list[torch.Tensor] = []

    def planes(self, low: int, high: int) -> torch.Tensor:
        """Planes [low, high); `low` never lower than before."""
        while self._held and self._first + len(self._held[0]) <= low:
            self._first += len(self._held.pop(0))
        while self._first + sum(map(len, self._held)) < high:
            first, slab = next(self._slabs)
            if not self._held:
                self._first = first
            self._held.append(slab)
            while self._first + len(self._held[0]) <= low:
                self._first += len(self._held.pop(0))
        wanted, at = [], self._first
        for slab in self._held:
            part = slab[max(low - at, 0) : max(high - at, 0)]
            if len(part):
                wanted.append(part)
            at += len(slab)
        return wanted[0] if len(wanted) == 1 else torch.cat([part.to(wanted[-1].device) for part in wanted])


def _groups(scans: Sequence[Scan]) -> Iterator[tuple[int, int]]:
    """Planes [start, end) of the own grid that are interpolated together."""
    count = scans[0].shape[0]
    start = 0
    while start < count:
        end = start + 1
        while end < count and all(s.supports[end][1] - s.supports[start][0] <= GROUP for s in scans):
            end += 1
        yield start, end
        start = end


def _interpolated(chosen: torch.Tensor, ways: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """(channels, z, y, x), contiguous, interpolated along each axis that has a matrix."""
    upright, down, right = ways
    if upright is not None:
        k, nz, ny, nx = chosen.shape
        chosen = (upright @ chosen.reshape(k, nz, ny * nx)).reshape(k, len(upright), ny, nx)
    if right is not None:
        chosen = chosen @ right.T
    if down is not None:
        chosen = down @ chosen
    return chosen


def _supports(matrix: torch.Tensor | None, count: int) -> list[tuple[int, int]]:
    if matrix is None:
        return [(i, i + 1) for i in range(count)]
    used = matrix > 0
    first = used.int().argmax(dim=1)
    last = matrix.shape[1] - used.flip(1).int().argmax(dim=1)
    # A plane beyond the region takes nothing of any plane, and the order is kept by the nearest.
    none = ~used.any(dim=1)
    inside = torch.nonzero(~none)
    if none.any() and len(inside):
        behind = none & (torch.arange(count) > inside[-1])
        first[none], last[none] = 0, 1
        first[behind], last[behind] = matrix.shape[1] - 1, matrix.shape[1]
    return list(zip(first.tolist(), last.tolist(), strict=True))


def _part(matrix: torch.Tensor | None, first: int, count: int) -> tuple[slice, torch.Tensor | None]:
    """The net's voxels along an axis that `count` voxels of the own grid from `first` on need, and their weights."""
    if matrix is None:
        return slice(first, first + count), None
    rows = matrix[first : first + count]
    used = torch.nonzero((rows > 0).any(dim=0))[:, 0]
    low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
    return slice(low, high), rows[:, low:high]


def _on_grid(
    array: np.ndarray,
    spacing: tuple[float, float, float],
    grid: tuple[tuple[int, float], ...],
    member: Member,
    found: np.ndarray | None,
) -> Scan:
    """The scan resampled to a net's grid (averaged where that is coarser), cut to its window and normalised.

    Also cut to the box of what was `found` of the net's region, if it has one.
    """
    description = member.description
    forth = to_grid(array.shape, spacing, grid)
    image = on_grid(array, forth)
    z, y, x = from_grid(array.shape, spacing, grid)
    scan = Scan(to_input(image, description.hu_window, description.normalisation), tuple(array.shape), (z, y, x))
    if found is None or description.region is None:
        return scan
    return cut_to_region(scan, found, forth, description.region, member.value(description.region.outside_hu))


def padded(image: torch.Tensor, member: Member) -> tuple[torch.Tensor, tuple[int, ...]]:
    """The image with what lies outside of it for the model where a window needs more; and how much came before.

    Along the axes that the net sees, ([z,] y, x): to a window at least, or for whole slices to what the net halves. A
    net's border comes around that, and isn't counted.
    """
    description = member.description
    dimensions = description.architecture.dimensions
    lengths = image.shape[-dimensions:]
    if member.window:
        wanted = [max(n, w) for n, w in zip(lengths, member.window, strict=True)]
    else:
        wanted = [n + -n % m for n, m in zip(lengths, member.net.multiple, strict=True)]
    before = tuple((w - n) // 2 for n, w in zip(lengths, wanted, strict=True))
    border = member.net.border[-dimensions:]
    sides = [
        side
        for n, w, b, more in zip(lengths, wanted, before, border, strict=True)
        for side in (w - n - b + more, b + more)
    ]
    return (nn.functional.pad(image, sides[::-1], value=member.outside) if any(sides) else image), before


def _weight_sums(
    size: tuple[int, ...], places: Sequence[tuple[int, ...]], weights: torch.Tensor | None
) -> torch.Tensor | None:
    """What the weights of all windows add up to in each pixel (y, x)."""
    if weights is None:
        return None
    total = torch.zeros(size)
    for y, x in places:
        total[y : y + weights.shape[0], x : x + weights.shape[1]] += weights
    return total


def _apply(head: nn.Conv2d | nn.Conv3d, features: torch.Tensor) -> torch.Tensor:
    """A 1 x 1 convolution of features (planes, y, x, channels), where they lie."""
    bias = None if head.bias is None else head.bias.to(features.device)
    return nn.functional.linear(features, head.weight.flatten(1).to(features.device), bias)


def short_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory, the card's or the host's, was not enough."""
    words = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        said in words for said in ("out of memory", "can't allocate memory", "alloc_failed")
    )


def cpu_has_bfloat16() -> bool:
    """Tell whether this CPU computes in bfloat16 (AVX-512 BF16, AMX or Arm's), not only stores it."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def choose_device(wanted: str) -> str:
    """The device that `auto`, `cpu` or `cuda` stands for here. Raises CohortError for a CUDA that isn't there."""
    if wanted == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise CohortError(
            "device is cuda, and torch finds no CUDA device here; install a torch built for CUDA and a driver, "
            "or set device to cpu or auto"
        )
    return "cpu"


def split_head(net: Net, description: ModelDescription) -> nn.Conv2d | nn.Conv3d | None:
    """Take the last 1 x 1 convolution off a net where that saves work; returns it, or None where the net stays whole.

    Whether a convolution is the last thing that the net does is tried, not assumed.
    """
    heads = [
        (name, layer)
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Conv3d)
        and layer.in_channels < layer.out_channels == description.channels_out
        and {*layer.kernel_size, layer.groups} == {1}
    ]
    if not heads:
        return None
    # Twice, because instance norm wants more than one voxel at the bottom.
    shape = [2 * n + 2 * b for n, b in zip(net.multiple, net.border[-len(net.multiple) :], strict=True)]
    probe = torch.rand(1, description.architecture.inputs, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = net(probe)
        for name, head in heads:
            parent, _, leaf = name.rpartition(".")
            setattr(net.get_submodule(parent), leaf, nn.Identity())
            try:
                if torch.allclose(head(net(probe)), whole, rtol=1e-4, atol=1e-5):
                    return head
            except (RuntimeError, ValueError):
                pass  # the convolution stands somewhere else, where fewer channels don't fit
            setattr(net.get_submodule(parent), leaf, head)
    return None


def member_of(name: str, net: Net, description: ModelDescription) -> Member:
    """A net in eval mode in the form that is fast to predict with; the net itself stays as it is."""
    net = fused(net)
    head = split_head(net, description)
    return Member(name, with_cpu_layers(net), description, head)


def load_predictor(folders: Mapping[str, Path], settings: Settings = Settings()) -> Predictor:
    """The predictor of one or several model folders, on the device that the settings choose; takes a free card.

    Raises CohortError for a model that can't be used, models that don't fit together, and a device that isn't there.
    """
    be_deterministic()
    device = choose_device(settings.device)
    if device == "cuda":
        torch.cuda.set_device(claim_card())
    members = []
    for name, folder in folders.items():
        members.append(member_of(name, *load_model(folder)))
    region = None
    if len(members) == 1 and members[0].description.region is not None:
        (name, folder), *_ = folders.items()
        region_folders(folder)  # refuses a region that its own model doesn't know
        region = load_predictor({f"{name}/{REGION_FOLDER}": folder / REGION_FOLDER}, settings)
    return Predictor(members, settings, device, region)
