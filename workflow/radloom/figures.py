"""The figures of the report: plain functions from arrays to SVG text, the same bytes for the same numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

# Okabe and Ito (2008): eight colours that people with any kind of colour vision can tell apart; yellow last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555", "#B8A900")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK = "#222222"
FAINT = "#B5BAC0"
MOST_POINTS = 1500
"""Scatter plots of more points are drawn as an image inside the SVG: the file stays small."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "radloom",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": "#777777",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.dpi": 100,
    "savefig.dpi": 130,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Survival:
    """Kaplan-Meier curve: survival just after each time, with a 95 % interval (log-log transformation)."""

    times: np.ndarray
    survival: np.ndarray
    low: np.ndarray
    high: np.ndarray


def kaplan_meier(times: np.ndarray, events: np.ndarray) -> Survival:
    """Estimate the survival curve; it starts at time 0 with 1 (Kaplan and Meier 1958, Greenwood's variance).

    Where the interval is not defined (nobody has had an event yet), it is NaN.
    """
    from sksurv.nonparametric import kaplan_meier_estimator

    at, survival, interval = kaplan_meier_estimator(events.astype(bool), times, conf_type="log-log")
    no_interval = (survival >= 1) | (survival <= 0)
    low, high = (np.where(no_interval, np.nan, bound) for bound in interval)
    return Survival(np.r_[0, at], np.r_[1, survival], np.r_[np.nan, low], np.r_[np.nan, high])


def log_rank(times: np.ndarray, events: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Chi-square and p of the log-rank test between groups; NaN where a test is impossible (one group, no
    event).
    """
    from sksurv.compare import compare_survival
    from sksurv.util import Surv

    if len(np.unique(groups)) < 2 or not events.any():
        return float("nan"), float("nan")
    chi2, p = compare_survival(Surv.from_arrays(events.astype(bool), times), groups)
    return float(chi2), float(p)


def roc_points(score: np.ndarray, outcome: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rate at every threshold of the score, from (0, 0) to (1, 1); ties move
    together.
    """
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.r_[np.flatnonzero(np.diff(score[order])), len(score) - 1]
    positives = np.cumsum(outcome[order] == 1)[last_of_tie]
    negatives = np.cumsum(outcome[order] != 1)[last_of_tie]
    return np.r_[0, negatives / negatives[-1]], np.r_[0, positives / positives[-1]]


def explained_by(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Share of each column's variance that lies between the groups (eta squared, R2 of a one-way ANOVA).

    `values` is (rows, features); rows in which a feature is NaN are left out of that feature; a constant
    feature is NaN.
    """
    shares = np.full(values.shape[1], np.nan)
    for j, column in enumerate(values.T):
        known = np.isfinite(column)
        x, g = column[known], groups[known]
        total = float(np.sum((x - x.mean()) ** 2)) if x.size else 0.0
        if total > 1e-20 * max(1.0, float(np.max(np.abs(x), initial=0.0)) ** 2):
            shares[j] = sum(np.sum(g == k) * float(x[g == k].mean() - x.mean()) ** 2 for k in np.unique(g)) / total
    return shares


def principal_components(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """First two principal components of the columns' ranks: scores (rows, 2), explained shares (2,),
    columns used.

    Columns with a NaN or without spread are left out. The values are replaced by their ranks, or a few
    outliers would be the first components. The sign is fixed: the largest loading is positive.
    """
    spread = np.ptp(values, axis=0) if len(values) else np.zeros(values.shape[1])
    usable = np.isfinite(values).all(axis=0) & (spread > 1e-12 * np.maximum(1, np.abs(values).max(axis=0)))
    x = values[:, usable]
    if x.shape[0] < 3 or x.shape[1] < 2:
        return np.empty((0, 2)), np.empty(0), int(usable.sum())
    x = pd.DataFrame(x).rank().to_numpy()
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    sign = np.sign(vt[np.arange(2), np.abs(vt[:2]).argmax(axis=1)])
    return u[:, :2] * s[:2] * sign, s[:2] ** 2 / np.sum(s**2), int(usable.sum())


def _svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an inline SVG element that carries its title for screen readers, and ids that no other
    figure has.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", pad_inches=0.05, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Two figures in one page must not share ids: clip paths and markers would be taken from the other one.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'(xlink:href|href)="#', rf'\1="#{name}-', text)
    text = text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, Arial, sans-serif")
    safe = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return text.replace("<svg", f'<svg role="img" aria-label="{safe}"', 1)


def _axes(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure, axes = plt.subplots(1, columns, figsize=(width, height), squeeze=False, layout="constrained")
    return figure, list(axes[0])


def distribution(
    name: str, feature: str, stages: Sequence[tuple[str, Sequence[np.ndarray]]], groups: Sequence[str]
) -> str:
    """Box plots of one feature by batch, a panel a stage (before, after harmonisation), on one shared axis.

    `stages` holds (title, values by group); boxes are quartiles, whiskers reach to 1.5 interquartile ranges,
    dots are cases (where there are at most 300 of them).
    """
    with matplotlib.rc_context(STYLE):
        width = max(1.5, 0.34 * len(groups) + 0.7)
        figure, plots = plt.subplots(
            1,
            len(stages),
            figsize=(width * len(stages) + 0.3, 2.5),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        jitter = np.random.default_rng(0)
        for axes, (title, values) in zip(plots[0], stages, strict=True):
            finite = [v[np.isfinite(v)] for v in values]
            boxes = axes.boxplot(
                finite, widths=0.62, showfliers=sum(map(len, finite)) > 300, patch_artist=True,
                flierprops={"marker": ".", "markersize": 2, "markeredgecolor": "#777777"},
                medianprops={"color": INK, "linewidth": 1.4},
            )  # fmt: skip
            for k, box in enumerate(boxes["boxes"]):
                box.set(facecolor=COLOURS[k % len(COLOURS)], alpha=0.35, edgecolor=COLOURS[k % len(COLOURS)])
            if sum(map(len, finite)) <= 300:
                for k, v in enumerate(finite):
                    axes.plot(
                        k + 1 + jitter.uniform(-0.2, 0.2, len(v)), v, ".", ms=2.6, alpha=0.75,
                        color=COLOURS[k % len(COLOURS)], mew=0,
                    )  # fmt: skip
            axes.set_title(title, fontweight="normal", fontsize=8.5)
            long = max(map(len, groups)) > 3
            axes.set_xticks(
                range(1, len(groups) + 1),
                groups,
                rotation=40 if long else 0,
                ha="right" if long else "center",
            )
            axes.tick_params(axis="x", length=0)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}".replace("e+0", "e")))
        figure.suptitle(feature, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
        return _svg(figure, name, f"{feature} by batch")


def explained_by_batch(name: str, before: np.ndarray, after: np.ndarray | None) -> str:
    """Cumulative share of the features over the variance that the batch explains, before and after
    harmonisation.
    """
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = _axes(4.4, 2.9)
        reach = 0.05
        for values, label, colour, dash in (
            (before, "before", COLOURS[1], "-"), (after, "after", COLOURS[0], "--"),
        ):  # fmt: skip
            if values is None or not np.isfinite(values).any():
                continue
            x = np.sort(values[np.isfinite(values)])
            reach = max(reach, float(x[-1]))
            axes.step(
                np.r_[0, x, 1], np.r_[0, np.arange(1, len(x) + 1) / len(x), 1] * 100, where="post", color=colour,
                ls=dash, label=f"{label} (median {np.median(x):.3f})",
            )  # fmt: skip
        axes.set(
            xlim=(-0.01 * reach, reach), ylim=(0, 101), xlabel="R² of the batch", ylabel="features up to that R², %"
        )
        axes.legend(loc="best")
        axes.grid(color="#E4E7EA", lw=0.6)
        return _svg(figure, name, "Variance explained by the batch, before and after harmonisation")


def shares_by_batch(name: str, title: str, batches: Sequence[str], levels: Sequence[str], counts: np.ndarray) -> str:
    """Stacked bars to 100 %, one a batch, of the shares of levels; `counts` (batches, levels) are written into them."""
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = _axes(4.4, 0.85 + 0.3 * len(batches))
        total = counts.sum(axis=1)
        share = np.divide(counts, total[:, None], out=np.zeros_like(counts, dtype=float), where=total[:, None] > 0)
        left = np.zeros(len(batches))
        y = np.arange(len(batches))
        for k, level in enumerate(levels):
            # The first level is mostly "no event": grey, so that the events stand out.
            colour = FAINT if k == 0 else COLOURS[(k - 1) % len(COLOURS)]
            axes.barh(y, share[:, k], left=left, color=colour, height=0.72, label=str(level), alpha=0.85)
            for row in y[share[:, k] > 0.06]:
                middle = left[row] + share[row, k] / 2
                axes.text(middle, row, f"{int(counts[row, k])}", ha="center", va="center", fontsize=8)
            left = left + share[:, k]
        axes.set(xlim=(0, 1), ylim=(len(batches) - 0.5, -0.5), title=title)
        axes.set_yticks(y, list(batches))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
        return _svg(figure, name, f"{title} by batch")


def batch_guess(name: str, batches: Sequence[str], stages: Sequence[tuple[str, np.ndarray]]) -> str:
    """Areas under the curve with intervals, a row a batch and a dot a stage; `stages` holds (title, values), the
    values (batches, 3) being estimate, lower and upper end (NaN where there is none).
    """
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = _axes(5.6, 1.0 + 0.42 * len(batches))
        y = np.arange(len(batches), dtype=float)
        for k, (title, values) in enumerate(stages):
            at = y + 0.22 * (k - (len(stages) - 1) / 2)
            colour = (COLOURS[1], FAINT, COLOURS[0])[k % 3]
            axes.hlines(at, values[:, 1], values[:, 2], color=colour, lw=1.6)
            axes.plot(values[:, 0], at, MARKERS[k], color=colour, ms=5, label=title)
        axes.axvline(0.5, color="#777777", lw=0.9, ls=":")
        known = np.concatenate([values[np.isfinite(values)] for _, values in stages])
        low = min(0.45, float(known.min()) - 0.02)
        axes.set(xlim=(max(low, 0), 1.01), ylim=(len(batches) - 0.5, -0.5), xlabel="AUC of guessing the batch")
        axes.set_yticks(y, ["all, mean" if batch == "all" else batch for batch in batches])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#E4E7EA", lw=0.6)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(stages))
        return _svg(figure, name, "AUC of guessing the batch, before and after harmonisation")


def covariate_effects(name: str, panels: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]]) -> str:
    """Effects after harmonisation against those before, a panel a covariate of at most three in a row, a dot a feature.

    `panels` holds (title, effect before, effect after, q before); dots with q < 0.05 are filled.
    """
    with matplotlib.rc_context(STYLE):
        columns = min(3, len(panels))
        rows = -(-len(panels) // columns)
        figure, axes = plt.subplots(
            rows, columns, figsize=(2.7 * columns + 0.3, 2.6 * rows), squeeze=False, layout="constrained"
        )
        known = [np.abs(values[np.isfinite(values)]) for _, *pair, _ in panels for values in pair]
        reach = 1.05 * max(0.1, *(float(values.max(initial=0)) for values in known))
        for plot in axes.flat[len(panels) :]:
            plot.set_visible(False)
        for plot, (title, before, after, q) in zip(axes.flat, panels, strict=False):
            plot.plot([-reach, reach], [-reach, reach], color="#777777", lw=0.9, ls=":")
            plot.axhline(0, color="#E4E7EA", lw=0.6, zorder=0)
            plot.axvline(0, color="#E4E7EA", lw=0.6, zorder=0)
            marked = q < 0.05
            many = len(before) > MOST_POINTS
            plot.scatter(
                before[~marked], after[~marked], s=12, facecolors="none", edgecolors=FAINT, lw=0.8, rasterized=many
            )
            plot.scatter(before[marked], after[marked], s=14, color=COLOURS[0], alpha=0.8, lw=0, rasterized=many)
            plot.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=title)
            plot.set(xlabel="before, within batches", ylabel="after")
        return _svg(figure, name, "Effects of covariates before and after harmonisation")


def stability(name: str, title: str, estimate: np.ndarray, low: np.ndarray) -> str:
    """Histograms of intraclass correlations and of the lower ends of their intervals; what is below 0 counts as 0."""
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = _axes(4.4, 2.6)
        edges = np.linspace(0, 1, 21)
        for values, label, colour, filled in (
            (estimate, "ICC", COLOURS[0], True), (low, "lower end of the 95 % interval", COLOURS[1], False),
        ):  # fmt: skip
            counts, _ = np.histogram(np.clip(values[np.isfinite(values)], 0, 1), edges)
            axes.stairs(counts, edges, fill=filled, color=colour, alpha=0.45 if filled else 1, label=label, lw=1.4)
        for level in (0.75, 0.9):
            axes.axvline(level, color=INK, lw=0.7, ls=":")
        axes.set(xlim=(0, 1), xlabel=title, ylabel="features")
        axes.legend(loc="upper left")
        return _svg(figure, name, f"Histogram of {title}")


def components(name: str, stages: Sequence[tuple[str, np.ndarray]], groups: np.ndarray) -> str:
    """Cases on the first two principal components of the standardised features, coloured by batch, a panel a
    stage.
    """
    with matplotlib.rc_context(STYLE):
        figure, plots = _axes(3.5 * len(stages) + 0.9, 3.1, len(stages))
        for axes, (title, values) in zip(plots, stages, strict=True):
            scores, shares, used = principal_components(values)
            for k, group in enumerate(dict.fromkeys(groups.tolist())):
                mine = scores[groups == group] if len(scores) else scores
                axes.scatter(
                    mine[:, 0], mine[:, 1], s=16, alpha=0.8, label=str(group), lw=0.3, edgecolors="white",
                    color=COLOURS[k % len(COLOURS)], marker=MARKERS[(k // len(COLOURS) + k) % len(MARKERS)],
                    rasterized=len(scores) > MOST_POINTS,
                )  # fmt: skip
            axes.set_title(f"{title} ({used} features)")
            if len(shares):
                axes.set(xlabel=f"PC 1 ({shares[0]:.0%})", ylabel=f"PC 2 ({shares[1]:.0%})")
            axes.axhline(0, color="#E4E7EA", lw=0.6, zorder=0)
            axes.axvline(0, color="#E4E7EA", lw=0.6, zorder=0)
        handles, labels = plots[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", ncols=1 + len(labels) // 18)
        return _svg(figure, name, "Principal components by batch")


def survival_by_group(
    name: str,
    title: str,
    times: np.ndarray,
    events: np.ndarray,
    groups: np.ndarray,
    labels: Sequence[str],
    unit: str,
) -> str:
    """Kaplan-Meier curves with 95 % bands and censoring ticks, and the number at risk below; `groups` index
    `labels`.
    """
    with matplotlib.rc_context(STYLE):
        figure = plt.figure(figsize=(5.6, 3.2 + 0.2 * len(labels)), layout="constrained")
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 0.25 + 0.24 * len(labels)])
        end = float(times.max())
        for k, label in enumerate(labels):
            mine = groups == k
            curve = kaplan_meier(times[mine], events[mine])
            axes.step(
                np.r_[curve.times, times[mine].max()], np.r_[curve.survival, curve.survival[-1]], where="post",
                color=COLOURS[k], ls=("-", "--", "-.")[k % 3],
                label=f"{label} (n = {mine.sum()}, events = {int(events[mine].sum())})",
            )  # fmt: skip
            axes.fill_between(curve.times, curve.low, curve.high, step="post", color=COLOURS[k], alpha=0.13, lw=0)
            censored = np.sort(times[mine & (events == 0)])
            at = curve.survival[np.searchsorted(curve.times, censored, side="right") - 1]
            axes.plot(censored, at, "|", color=COLOURS[k], ms=5, mew=0.9)
        axes.set(ylim=(0, 1.03), xlim=(0, end * 1.02), ylabel="event-free", title=title)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 0))
        ticks = [t for t in axes.get_xticks() if 0 <= t <= end]
        below.set_ylim(len(labels) - 0.4, -1.0)
        below.text(0, -0.75, "number at risk", va="center", ha="left", fontsize=8, color="#555555")
        for k, label in enumerate(labels):
            for tick in ticks:
                below.text(
                    tick,
                    k,
                    str(int(np.sum(times[groups == k] >= tick))),
                    ha="center",
                    va="center",
                    fontsize=8,
                )
            below.text(
                -0.025, k, label, transform=below.get_yaxis_transform(), ha="right", va="center", color=COLOURS[k],
                fontsize=8,
            )  # fmt: skip
        below.set_yticks([])
        below.spines[["left", "bottom"]].set_visible(False)
        below.tick_params(axis="x", length=0)
        axes.tick_params(axis="x", labelbottom=False)
        below.set_xlabel(unit)
        return _svg(figure, name, title)


def roc(name: str, curves: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> str:
    """ROC curves of out-of-fold scores; `curves` holds (label, score, outcome 0/1)."""
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = _axes(4.0, 3.8)
        axes.plot([0, 1], [0, 1], color=FAINT, lw=1, ls=":")
        for k, (label, score, outcome) in enumerate(curves):
            x, y = roc_points(score, outcome)
            axes.plot(x, y, color=COLOURS[k % len(COLOURS)], ls=("-", "--", "-.", ":")[k % 4], label=label)
        axes.set(
            xlim=(-0.01, 1.01),
            ylim=(-0.01, 1.01),
            xlabel="1 - specificity",
            ylabel="sensitivity",
            aspect="equal",
        )
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.17))
        return _svg(figure, name, "ROC curves of the out-of-fold predictions")


def forest(name: str, title: str, terms: Sequence[str], ratios: np.ndarray, axis: str) -> str:
    """Hazard or odds ratios per standard deviation on a log axis, in the given order, from top to bottom."""
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = _axes(6.2, 0.75 + 0.24 * len(terms))
        y = np.arange(len(terms))
        colours = [COLOURS[1] if ratio >= 1 else COLOURS[0] for ratio in ratios]
        axes.hlines(y, 1, ratios, color=colours, lw=1.6)
        axes.scatter(ratios, y, color=colours, s=26, zorder=3)
        axes.axvline(1, color="#777777", lw=0.9)
        axes.set_xscale("log")
        reach = max(1.1, float(np.exp(np.max(np.abs(np.log(ratios))))) ** 1.15)
        axes.set(xlim=(1 / reach, reach), xlabel=axis, title=title)
        ticks = [
            t for t in (0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10) if 1 / reach <= t <= reach
        ]
        while len(ticks) > 9:
            ticks = [t for t in ticks if t in ticks[::2] or t == 1]
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.minorticks_off()
        axes.set_yticks(y, terms)
        axes.set_ylim(len(terms) - 0.4, -0.6)
        axes.grid(axis="x", color="#E4E7EA", lw=0.6)
        return _svg(figure, name, title)


@dataclass(frozen=True)
class ForestRow:
    """A row of a forest of estimates: NaN where there is none; `kind` is centre, worst, pooled or prediction."""

    label: str
    estimate: float
    low: float
    high: float
    kind: str = "centre"


def centre_forest(name: str, title: str, rows: Sequence[ForestRow], axis: str, chance: float = 0.5) -> str:
    """Estimates of centres with their intervals, from top to bottom, and as words on the right; `chance` is dotted.

    Centres are squares, the worst one is orange, the pooled estimate a diamond, and a prediction interval a thin line.
    """
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = _axes(5.4, 0.9 + 0.25 * len(rows))
        known = [value for row in rows for value in (row.estimate, row.low, row.high) if np.isfinite(value)]
        low, high = min([chance, *known]), max([chance, *known])
        margin = 0.04 * (high - low or 1)
        axes.axvline(chance, color="#777777", lw=0.9, ls=":")
        if len({row.kind for row in rows}) > 1:
            first = next(k for k, row in enumerate(rows) if row.kind != "centre")
            axes.axhline(first - 0.5, color="#D9DEE3", lw=0.8)
        for y, row in enumerate(rows):
            colour = {"worst": COLOURS[1], "pooled": INK, "prediction": "#777777"}.get(row.kind, COLOURS[0])
            axes.hlines(y, row.low, row.high, color=colour, lw=0.9 if row.kind == "prediction" else 1.6)
            marker = {"pooled": "D", "prediction": "none"}.get(row.kind, "s")
            axes.plot([row.estimate], [y], marker=marker, color=colour, ms=5, ls="none")
            axes.text(
                1.02, y, _with_interval(row), transform=axes.get_yaxis_transform(), va="center", ha="left", fontsize=8
            )
        axes.set(xlim=(low - margin, high + margin), ylim=(len(rows) - 0.4, -0.6), xlabel=axis, title=title)
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#E4E7EA", lw=0.6)
        return _svg(figure, name, f"{title}: {axis} by centre")


def _with_interval(row: ForestRow) -> str:
    ends = f"{row.low:.3f} to {row.high:.3f}" if np.isfinite(row.low) else "no interval"
    if np.isfinite(row.estimate):
        return f"{row.estimate:.3f} ({ends})"
    return ends if np.isfinite(row.low) else "not estimable"


@dataclass(frozen=True)
class CalibrationGroups:
    """Mean predicted and observed risk in groups of predicted risk, with the interval of the observed one."""

    label: str
    predicted: np.ndarray
    observed: np.ndarray
    low: np.ndarray
    high: np.ndarray


def calibration(name: str, title: str, panels: Sequence[tuple[str, Sequence[CalibrationGroups]]]) -> str:
    """Observed against predicted risk, a panel a way of validation; `panels` holds (title, series)."""
    with matplotlib.rc_context(STYLE):
        figure, plots = plt.subplots(
            1, len(panels), figsize=(2.9 * len(panels) + 0.3, 3.3), squeeze=False, sharey=True, layout="constrained"
        )
        for axes, (panel, series) in zip(plots[0], panels, strict=True):
            axes.plot([0, 1], [0, 1], color=FAINT, lw=1, ls=":")
            for k, groups in enumerate(series):
                ends = [
                    np.maximum(np.nan_to_num(end), 0)
                    for end in (groups.observed - groups.low, groups.high - groups.observed)
                ]
                axes.errorbar(
                    groups.predicted, groups.observed, yerr=ends, ms=4.5, lw=1.1, capsize=2, label=groups.label or None,
                    color=COLOURS[k % len(COLOURS)], fmt=f"{MARKERS[k % len(MARKERS)]}-",
                )  # fmt: skip
            axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), xlabel="predicted risk", aspect="equal")
            axes.set_title(panel, fontweight="normal", fontsize=8.5)
        plots[0][0].set_ylabel("observed risk")
        handles, labels = plots[0][0].get_legend_handles_labels()
        if labels:
            figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        figure.suptitle(title, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
        return _svg(figure, name, f"{title}: calibration")


def decision_curves(
    name: str, title: str, curves: Sequence[tuple[str, np.ndarray, np.ndarray]], treat_all: tuple[np.ndarray, ...]
) -> str:
    """Net benefit over thresholds of several models, and of treating everybody and nobody.

    `curves` holds (label, thresholds, net benefit), `treat_all` thresholds and net benefit. What is far below 0 is cut.
    """
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = _axes(5.2, 3.4)
        known = np.concatenate([*(values for _, _, values in curves), treat_all[1]])
        top = max(0.0, float(np.max(known[np.isfinite(known)], initial=0.0)))
        axes.plot(*treat_all, color="#777777", lw=1.2, ls="--", label="treat all")
        axes.axhline(0, color="#777777", lw=1.2, ls=":", label="treat none")
        for k, (label, thresholds, values) in enumerate(curves):
            axes.plot(
                thresholds, values, color=COLOURS[k % len(COLOURS)], ls=("-", "--", "-.", ":")[k % 4], label=label,
                marker=MARKERS[k % len(MARKERS)], ms=3.5,
            )  # fmt: skip
        axes.set(xlabel="threshold probability", ylabel="net benefit", title=title)
        axes.set_ylim(-0.25 * (top or 0.1), 1.08 * (top or 0.1))
        axes.grid(color="#E4E7EA", lw=0.6)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return _svg(figure, name, f"{title}: decision curves")
