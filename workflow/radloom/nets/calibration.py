"""Are the net's probabilities what they say? One temperature for the logits, and how far off they are with and without.

**Temperature** (Guo et al., ICML 2017, arXiv:1706.04599): logits are divided by one number T > 0 before softmax or
sigmoid, T being where the mean negative log-likelihood of held-out labels is least; it is convex in 1 / T, so that
there is one. The label with the largest probability stays the same one; a sigmoid's one half stays one half.

**Which voxels.** A scan is nearly all background that no net gets wrong, and all logits of all scans fit nowhere. Of
each array of logits at most `per_array` voxels are drawn, half of them where the truth or the net's label isn't
background (where there are so many), by a generator with a seed; each carries the number of voxels it stands for, so
that all means are estimates of those over all voxels.

**Expected calibration error** (ECE): probabilities are put into equal bins (a, b] of 0 .. 1; it is the mean over voxels
of the distance between their bin's mean probability and its share of hits. For `all` it is that of the label that is
chosen and its probability (a sigmoid net's background has 1 less the largest); for `foreground` the same where that
label isn't background (choosing voxels by the truth would leave out right ones, and make a calibrated net look bad);
for a class that of its own probability and of the voxels that are its own. The Brier score of a class is the mean
squared distance of its probability from 0 or 1, and that of `all` their sum over the classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax

PER_ARRAY = 5000
N_BINS = 15
LIMITS = (0.05, 20.0)
"""Temperatures that are looked at; a best one at an end is none."""


@dataclass
class Sample:
    """Voxels drawn from a validation: logits (n, channels), labels (n,), and how many voxels each stands for (n,)."""

    logits: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    outputs: str

    def probabilities(self, temperature: float = 1.0) -> np.ndarray:
        """Probabilities (n, channels) of the logits divided by `temperature`."""
        return probabilities(self.logits, self.outputs, temperature)

    def nll(self, temperature: float = 1.0) -> float:
        """Mean negative log-likelihood in nats: of the label (softmax), or of all channels' yes or no (sigmoid)."""
        scaled = self.logits / temperature
        if self.outputs == "softmax":
            losses = -log_softmax(scaled, axis=1)[np.arange(len(self.labels)), self.labels]
        else:
            losses = (np.logaddexp(0, scaled) - scaled * _hits(self.labels, scaled.shape[1], self.outputs)).sum(axis=1)
        return float(np.average(losses, weights=self.weights))

    def separated(self) -> bool:
        """Whether every channel is right everywhere, so that the likelihood grows as the temperature falls to 0."""
        if self.outputs == "softmax":
            own = self.logits[np.arange(len(self.labels)), self.labels]
            return bool((own >= self.logits.max(axis=1)).all())
        return bool(((self.logits > 0) == _hits(self.labels, self.logits.shape[1], self.outputs)).all())


@dataclass(frozen=True)
class TemperatureFit:
    """What calibration found. `reason` says why there is no temperature other than 1, or is empty."""

    temperature: float
    nll_before: float
    nll_after: float
    voxels: int
    """Voxels that were drawn."""
    reason: str
    before: Reliability
    after: Reliability

    def rows(self) -> list[dict[str, Any]]:
        """A row each for `all`, `foreground` and the classes: ECE and Brier before and after."""
        return [
            {
                "class": old["class"],
                "ece_before": old["ece"],
                "ece_after": new["ece"],
                "brier_before": old["brier"],
                "brier_after": new["brier"],
            }
            for old, new in zip(self.before.rows(), self.after.rows(), strict=True)
        ]


class Reliability:
    """Sums by bins of probability, to which voxels are added a part at a time."""

    def __init__(self, classes: Sequence[str], outputs: str, n_bins: int = N_BINS) -> None:
        """For the names of the classes without the background, in the order of the channels."""
        self.outputs = outputs
        self.names = ["all", "foreground", *(["background"] if outputs == "softmax" else []), *classes]
        self.edges = np.linspace(0, 1, n_bins + 1)
        self.weight, self.predicted, self.observed = np.zeros((3, len(self.names), n_bins))
        self.squares = np.zeros(len(self.names) - 2)

    def add(self, values: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Count voxels: probabilities (n, channels), true labels (n,), and how many voxels each stands for (n,)."""
        each = np.ones(len(labels)) if weights is None else weights
        label, confidence = decide(values, self.outputs)
        foreground = label > 0
        self._count(0, confidence, label == labels, each)
        self._count(1, confidence[foreground], (label == labels)[foreground], each[foreground])
        hits = _hits(labels, values.shape[1], self.outputs)
        for channel in range(values.shape[1]):
            self._count(2 + channel, values[:, channel], hits[:, channel], each)
        self.squares += each @ (values - hits) ** 2

    def ece(self) -> np.ndarray:
        """Expected calibration error of each of `names`; NaN where there were no voxels."""
        total = self.weight.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.where(total > 0, np.abs(self.predicted - self.observed).sum(axis=1) / total, np.nan)

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean probability, share of hits and voxels of the bins that aren't empty."""
        row = self.names.index(name)
        filled = self.weight[row] > 0
        weight = self.weight[row][filled]
        return self.predicted[row][filled] / weight, self.observed[row][filled] / weight, weight

    def rows(self) -> list[dict[str, Any]]:
        """A row each of `names`: class, ECE, Brier score (none for `foreground`) and voxels."""
        total = self.weight.sum(axis=1)
        brier = self.squares / total[0] if total[0] else np.full(len(self.squares), np.nan)
        scores = [float(brier.sum()), math.nan, *brier.tolist()]
        return [
            {"class": name, "ece": float(ece), "brier": score, "voxels": float(voxels)}
            for name, ece, score, voxels in zip(self.names, self.ece(), scores, total, strict=True)
        ]

    def _count(self, row: int, values: np.ndarray, hits: np.ndarray, weights: np.ndarray) -> None:
        """Add probabilities and hits to the bins of a row."""
        length = len(self.edges) - 1
        at = np.searchsorted(self.edges[1:-1], values)
        self.weight[row] += np.bincount(at, weights, length)
        self.predicted[row] += np.bincount(at, weights * values, length)
        self.observed[row] += np.bincount(at, weights * hits, length)


def fit_temperature(
    logits: Iterable[Any],
    labels: Iterable[Any],
    classes: Sequence[str],
    outputs: str = "softmax",
    per_array: int = PER_ARRAY,
    seed: int = 0,
    n_bins: int = N_BINS,
) -> TemperatureFit:
    """Fit the temperature on a validation, read once: arrays or CPU tensors of logits (channels, ...), labels (...).

    A softmax net has a channel for the background first, so that a label is its channel's number; a sigmoid net has
    none, and label k is channel k - 1. `classes` are the names without the background. Raises ValueError for labels
    that are no channel's, for shapes that don't fit each other, for logits that aren't finite, and for no voxels.
    """
    sample = draw(logits, labels, outputs, per_array, seed)
    if sample.logits.shape[1] != len(classes) + (outputs == "softmax"):
        raise ValueError(f"{sample.logits.shape[1]} channels are not those of {len(classes)} classes with {outputs}")
    low, high = math.log(LIMITS[0]), math.log(LIMITS[1])
    # In the logarithm: convex in 1 / T means one valley in any monotone function of it, and this one has no units.
    found = minimize_scalar(
        lambda x: sample.nll(math.exp(x)), bounds=(low, high), method="bounded", options={"xatol": 1e-6}
    )
    temperature, reason = math.exp(float(found.x)), ""
    if sample.separated():
        temperature, reason = 1.0, "the net has every voxel drawn right, so that no temperature is low enough"
    elif min(found.x - low, high - found.x) < 1e-3:
        temperature, reason = 1.0, f"the best temperature is not within {LIMITS[0]:g} .. {LIMITS[1]:g}"
    before, after = (Reliability(classes, outputs, n_bins) for _ in range(2))
    before.add(sample.probabilities(), sample.labels, sample.weights)
    after.add(sample.probabilities(temperature), sample.labels, sample.weights)
    return TemperatureFit(temperature, sample.nll(), sample.nll(temperature), len(sample.labels), reason, before, after)


def draw(
    logits: Iterable[Any], labels: Iterable[Any], outputs: str, per_array: int = PER_ARRAY, seed: int = 0
) -> Sample:
    """Draw voxels of arrays of logits (channels, ...) and labels (...), as this module's head says."""
    if outputs not in ("softmax", "sigmoid"):
        raise ValueError(f"outputs are softmax or sigmoid, not {outputs!r}")
    generator = np.random.default_rng(seed)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for array, truth in zip(logits, labels, strict=True):
        values, true = np.asarray(array), np.asarray(truth)
        if values.shape[1:] != true.shape:
            raise ValueError(f"logits of the shape {values.shape} don't fit labels of the shape {true.shape}")
        values, true = values.reshape(len(values), -1), true.reshape(-1).astype(np.int64)
        if true.min(initial=0) < 0 or true.max(initial=0) >= len(values) + (outputs == "sigmoid"):
            raise ValueError(
                f"the labels {true.min()} .. {true.max()} are not those of {len(values)} channels ({outputs})"
            )
        # The sign of logits decides as probabilities do.
        label = values.argmax(axis=0) if outputs == "softmax" else (values.max(axis=0) > 0).astype(np.int64)
        foreground = (label > 0) | (true > 0)
        strata = [np.flatnonzero(foreground), np.flatnonzero(~foreground)]
        first = min(len(strata[0]), max(per_array // 2, per_array - len(strata[1])))
        for voxels, wanted in zip(strata, (first, per_array - first), strict=True):
            taken = voxels if len(voxels) <= wanted else generator.choice(voxels, wanted, replace=False, shuffle=False)
            if len(taken):
                weight = np.full(len(taken), len(voxels) / len(taken))
                parts.append((values[:, taken].T.astype(np.float64), true[taken], weight))
    if not parts:
        raise ValueError("there are no voxels to calibrate with")
    drawn, of, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
    sample = Sample(drawn, of, weights, outputs)
    if not np.isfinite(sample.logits).all():
        raise ValueError("some logits are not finite")
    return sample


def probabilities(logits: np.ndarray, outputs: str, temperature: float = 1.0) -> np.ndarray:
    """Probabilities (n, channels) of logits (n, channels)."""
    scaled = logits / temperature
    return softmax(scaled, axis=1) if outputs == "softmax" else expit(scaled)


def decide(values: np.ndarray, outputs: str) -> tuple[np.ndarray, np.ndarray]:
    """The label (n,) that probabilities (n, channels) stand for, and the probability that it is right (n,)."""
    label, largest = values.argmax(axis=1), values.max(axis=1)
    if outputs == "softmax":
        return label, largest
    return np.where(largest > 0.5, label + 1, 0), np.where(largest > 0.5, largest, 1 - largest)


def draw_reliability(fit: TemperatureFit, path: Path, name: str = "foreground") -> None:
    """Draw the reliability before and after into an SVG or PNG file: share of hits against probability, and voxels."""
    import matplotlib.pyplot as plt

    from radloom.figures import COLOURS, FAINT, STYLE

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            2, 2, figsize=(6.6, 4.4), sharex=True, height_ratios=(3, 1), layout="constrained", sharey="row"
        )
        titles = "Temperature 1", f"Temperature {fit.temperature:.3g}"
        for column, (title, reliability) in enumerate(zip(titles, (fit.before, fit.after), strict=True)):
            predicted, observed, weight = reliability.curve(name)
            top, bottom = axes[:, column]
            top.plot([0, 1], [0, 1], color=FAINT, linewidth=1, zorder=0)
            top.plot(predicted, observed, color=COLOURS[0], marker="o", markersize=4)
            ece = reliability.ece()[reliability.names.index(name)]
            top.set(title=title, xlim=(0, 1), ylim=(0, 1), aspect="equal")
            top.text(0.04, 0.9, f"ECE {ece:.3f}", transform=top.transAxes)
            bottom.bar(predicted, weight / weight.sum(), width=0.6 / (len(reliability.edges) - 1), color=COLOURS[0])
            bottom.set_xlabel("Probability of the label")
        axes[0, 0].set_ylabel(f"Share that is right ({name})")
        axes[1, 0].set_ylabel("Voxels")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
        plt.close(figure)


def _hits(labels: np.ndarray, channels: int, outputs: str) -> np.ndarray:
    """Where a channel is the true one's (n, channels)."""
    return labels[:, None] == np.arange(channels) + (outputs == "sigmoid")
