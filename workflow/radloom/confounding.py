"""What is bound up with the batch, before anything is fitted: outcomes and covariates by centre, and when to stop.

Where every centre has one class of the outcome, a difference between centres and one between outcomes are the same
thing: ComBat removes both or neither, and a model of the features predicts the scanner. No method can part them
afterwards, so `check_confounding` refuses such data before any fit, and says where confounding is strong.

A patient counts once in each batch. Cases without a batch, and cells that are not known, have no part in a statistic
but are counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import chdtrc

from radloom.assembly import CohortTables, is_numeric, listed
from radloom.batches import batch_columns
from radloom.errors import CohortError
from radloom.rank_tests import ks_statistic

COLUMNS = [
    "variable",
    "kind",
    "scale",
    "batch",
    "level",
    "n",
    "n_of_batch",
    "missing",
    "share",
    "events",
    "median_follow_up",
    "median",
    "q1",
    "q3",
    "overlap",
    "in_range",
    "levels",
    "cramers_v",
    "cramers_v_corrected",
    "eta_squared",
    "test",
    "statistic",
    "p",
    "note",
]
TABLE_COLUMNS = ["roi", *COLUMNS]
"""Columns of tables/confounding.csv."""

STRONG = 0.5
"""Cramer's V (corrected) from which confounding is called strong: Cohen's large effect (Statistical Power Analysis,
1988, w = 0.5) where the variable or the batch has two levels. A number is strong from eta squared of V squared."""

FEW_VALUES = 5
"""A number of at most so many different values (a stage, a 0/1 code) is counted as levels."""

MOST_LEVELS = 10
"""Words of more levels are names, not a variable whose levels can be compared."""

LEAST_EXPECTED = 5.0
"""Cochran's rule: below it in more than a fifth of the cells, or below 1 in any, chi-square is no good p."""

PERMUTATIONS = 9999

LEAST_CASES = 8
"""Of fewer cases each batch has one class often enough by chance: a warning, no stop."""


def cramers_v(counts: np.ndarray) -> tuple[float, float]:
    """Cramer's V of a table of counts (batches x levels), and V with Bergsma's correction of its bias.

    V is sqrt(chi2 / n / (min(rows, columns) - 1)), 0 for independence, 1 where one determines the other (Cramer 1946).
    The corrected one (Bergsma, J Korean Stat Soc 2013, 10.1016/j.jkss.2012.10.002) is 0 on average under independence,
    where V of small tables isn't. Rows and columns without a count don't count; NaN where fewer than two of either are
    left.
    """
    table = np.asarray(counts, dtype=np.float64)
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    if min(table.shape, default=0) < 2:
        return float("nan"), float("nan")
    n = table.sum()
    r, c = table.shape
    phi2 = _chi_square(table) / n
    v = np.sqrt(phi2 / (min(r, c) - 1))
    least = max(0.0, phi2 - (r - 1) * (c - 1) / (n - 1))
    rows, columns = r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1)
    room = min(rows, columns) - 1
    corrected = float(np.sqrt(least / room)) if room > 0 else float("nan")
    return float(min(v, 1.0)), float(min(corrected, 1.0)) if np.isfinite(corrected) else corrected


def independence_test(counts: np.ndarray) -> tuple[str, float, float]:
    """Name, statistic and p of a test that batch and level are independent.

    Chi-square (Pearson, without a correction for continuity) where the expected counts carry it (Cochran 1954); else
    Fisher's exact test of a 2 x 2 table (statistic: its odds ratio), or a test by 9,999 random tables with the same
    margins (Patefield's algorithm, fixed seed; p = (1 + as extreme) / 10,000), whose statistic is chi-square.
    """
    table = np.asarray(counts, dtype=np.float64)
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    if min(table.shape, default=0) < 2:
        return "", float("nan"), float("nan")
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    statistic = _chi_square(table)
    if expected.min() >= 1 and np.mean(expected < LEAST_EXPECTED) <= 0.2:
        freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
        return "chi-square", statistic, float(chdtrc(freedom, statistic))
    from scipy import stats

    if table.shape == (2, 2):
        odds, p = stats.fisher_exact(table.astype(int))
        return "Fisher", float(odds), float(p)
    margins = stats.random_table(table.sum(axis=1).astype(int), table.sum(axis=0).astype(int))
    drawn = margins.rvs(PERMUTATIONS, method="patefield", random_state=np.random.default_rng(1))
    others = ((drawn - expected) ** 2 / expected).sum(axis=(1, 2))
    extreme = int((others >= statistic * (1 - 1e-10)).sum())
    return "permutation", statistic, (1 + extreme) / (1 + PERMUTATIONS)


def _chi_square(table: np.ndarray) -> float:
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return float(((table - expected) ** 2 / expected).sum())


def eta_squared(values: np.ndarray, groups: np.ndarray) -> float:
    """Share of the variance of `values` that lies between `groups`; NaN without variance or a second group."""
    total = float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0
    names = np.unique(groups)
    if len(names) < 2 or total <= 1e-24 * max(1.0, float(np.abs(values).max()) ** 2) * len(values):
        return float("nan")
    inside = sum(float(((values[groups == name] - values[groups == name].mean()) ** 2).sum()) for name in names)
    return 1.0 - inside / total


def overlap_of_numbers(own: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """How far a number's distribution in one batch overlaps with that in the other batches; NaN where one is empty.

    The first value is 1 minus the Kolmogorov-Smirnov distance of the two empirical distributions. Where their
    densities cross once it is the overlapping coefficient, the common area of the densities (Inman and Bradley, Comm
    Stat 1989, 10.1080/03610928908830127), but it needs no bandwidth, and no monotone transformation changes it. It is
    0 exactly where all values of the batch lie on one side of all others. The second is the share of the batch's
    values within the range of the others'.
    """
    if not len(own) or not len(others):
        return float("nan"), float("nan")
    inside = (own >= others.min()) & (own <= others.max())
    apart = own.max() < others.min() or own.min() > others.max()
    # Told apart by comparison: the distance is a sum of shares, and may miss 1 in the last digit.
    overlap = 0.0 if apart else 1.0 - float(ks_statistic(own[:, None], others[:, None])[0])
    return overlap, float(inside.mean())


def overlap_of_levels(own: np.ndarray, others: np.ndarray) -> float:
    """The overlapping coefficient of two rows of counts: the sum over levels of the smaller share; NaN for an empty."""
    if own.sum() == 0 or others.sum() == 0:
        return float("nan")
    return float(np.minimum(own / own.sum(), others / others.sum()).sum())


def median_follow_up(time: np.ndarray, event: np.ndarray) -> float:
    """Median of the censoring times by reverse Kaplan-Meier (Schemper and Smith, Control Clin Trials 1996).

    `event` is 0 for censoring. Cells that are NaN, and times that are not above 0, don't count; NaN where the median
    is not reached.
    """
    from radloom.cox import kaplan_meier_of_censoring

    known = np.isfinite(time) & np.isfinite(event) & (time > 0)
    if not known.any():
        return float("nan")
    times, uncensored = kaplan_meier_of_censoring(time[known], event[known] != 0)
    reached = times[uncensored <= 0.5]
    return float(reached[0]) if len(reached) else float("nan")


# -------------------------------------------------------------------------- table


def confounding_table(
    batch: pd.Series,
    columns: Mapping[str, pd.Series],
    kinds: Mapping[str, str],
    times: Mapping[str, pd.Series] | None = None,
) -> pd.DataFrame:
    """Each variable by batch: one row a batch and level (words, outcomes, numbers of few values), or a batch (numbers).

    `batch` and the columns hold a value a case, by the same index, NaN where it isn't known; `kinds` says of each
    variable whether it is an "outcome" or a "covariate"; `times` gives the follow-up time of an outcome that is an
    event (0 is censoring). Rows are sorted by batch and level, whatever the order of the cases. COLUMNS: `n` cases of
    the batch with the level (or with a number), `n_of_batch` with those whose value is `missing`, `share` of the known
    ones, `events` of the batch (outcome other than 0), then, repeated on each row, what holds for the variable as a
    whole: `levels`, `cramers_v` and `cramers_v_corrected` (`cramers_v`), `eta_squared`, and the `test` (see
    `independence_test`; Kruskal-Wallis for numbers) with its p. What can't be had is NaN, and `note` says why.

    Raises CohortError for a covariate of numbers and words, and for indexes that differ.
    """
    label = _labels(batch)
    rows: list[dict[str, Any]] = []
    for name, column in columns.items():
        if not column.index.equals(batch.index):
            raise CohortError(f"the column {name!r} and the batch are not of the same cases in the same order")
        follow_up = None if times is None or name not in times else times[name]
        rows += _variable_rows(str(name), kinds[name], label, column, follow_up)
    return pd.DataFrame(rows, columns=COLUMNS)


def _labels(batch: pd.Series) -> pd.Series:
    """Names of the batches as text without blanks around them; NaN where none is given."""
    text = batch.astype(str).str.strip()
    return text.mask(batch.isna() | (text == ""), np.nan)


def _classes(column: pd.Series, kind: str) -> pd.Series | None:
    """The levels of a column as text, or None if it is a number of many values.

    1 and 1.0 are one level. Words of more than MOST_LEVELS levels come back as they are; the caller counts them.
    """
    try:
        numeric = is_numeric(column)
    except CohortError:
        if kind != "outcome":
            raise
        numeric = False  # the model names the cells of an outcome that it can't use; here they are further classes
    if not numeric:
        return column.map(lambda cell: str(cell).strip(), na_action="ignore")
    number = pd.to_numeric(column, errors="coerce")
    if number.nunique() > (MOST_LEVELS if kind == "outcome" else FEW_VALUES):
        return None
    return number.map(lambda value: f"{value:.15g}", na_action="ignore").astype(object)


def _sorted_levels(levels: pd.Series) -> list[str]:
    """Levels in order of size if they are numbers, else of the alphabet."""
    names = [str(name) for name in levels.dropna().unique()]
    size = pd.to_numeric(pd.Series(names, dtype=object), errors="coerce")
    return sorted(names, key=float) if len(names) and size.notna().all() else sorted(names)


def _variable_rows(
    name: str, kind: str, label: pd.Series, column: pd.Series, follow_up: pd.Series | None
) -> list[dict[str, Any]]:
    batches = sorted(label.dropna().unique())
    there = label.notna()
    levels = _classes(column[there], kind)
    if levels is None:
        return _number_rows(name, kind, batches, label[there], pd.to_numeric(column[there], errors="coerce"))
    names = _sorted_levels(levels)
    label = label[there]
    mine = {batch: (label == batch).to_numpy() for batch in batches}
    cells = levels.to_numpy(dtype=object)
    counts = np.array([[int((cells[mine[batch]] == level).sum()) for level in names] for batch in batches], dtype=int)
    counts = counts.reshape(len(batches), len(names))
    many = len(names) > MOST_LEVELS
    known = [batch for batch, own in zip(batches, counts, strict=True) if own.sum()]
    note = ""
    if many:
        note = f"{len(names)} different words: names, whose levels are not compared"
    elif len(known) < 2:
        note = "fewer than two batches with a known value"
    elif int((counts.sum(axis=0) > 0).sum()) < 2:
        note = "the same value in all batches"
    nothing = ("", float("nan"), float("nan"))
    test, statistic, p = nothing if many else independence_test(counts)
    v, corrected = (float("nan"), float("nan")) if many else cramers_v(counts)
    number = pd.to_numeric(levels, errors="coerce").to_numpy(dtype=np.float64)
    coded = kind == "outcome" and bool(np.isfinite(number[levels.notna().to_numpy()]).all())
    rows = []
    for k, batch in enumerate(batches):
        own = int(counts[k].sum())
        shared = {
            "variable": name,
            "kind": kind,
            "scale": "levels",
            "batch": batch,
            "n_of_batch": int(mine[batch].sum()),
            "missing": int(mine[batch].sum()) - own,
            "events": int((number[mine[batch]] > 0).sum()) if coded else None,
            "median_follow_up": float("nan"),
            "overlap": float("nan") if many else overlap_of_levels(counts[k], counts.sum(axis=0) - counts[k]),
            "levels": len(names),
            "cramers_v": v,
            "cramers_v_corrected": corrected,
            "test": test,
            "statistic": statistic,
            "p": p,
            "note": note,
        }
        if follow_up is not None and coded:
            time = pd.to_numeric(follow_up[there], errors="coerce").to_numpy(dtype=np.float64)
            shared["median_follow_up"] = median_follow_up(time[mine[batch]], number[mine[batch]])
        for j, level in enumerate([""] if many or not names else names):
            n = own if many or not names else int(counts[k, j])
            rows.append({**shared, "level": level, "n": n, "share": n / own if own else float("nan")})
    return rows


def _number_rows(
    name: str, kind: str, batches: Sequence[str], label: pd.Series, number: pd.Series
) -> list[dict[str, Any]]:
    values = number.to_numpy(dtype=np.float64)
    finite = np.isfinite(values)
    groups = label.to_numpy(dtype=object).astype(str)
    parts = {batch: np.sort(values[finite & (groups == batch)]) for batch in batches}
    filled = [part for part in parts.values() if len(part)]
    sorted_values = np.concatenate(filled) if filled else np.empty(0)
    sorted_groups = np.repeat(np.arange(len(filled)), [len(part) for part in filled])
    eta = eta_squared(sorted_values, sorted_groups)
    test, statistic, p, note = "", float("nan"), float("nan"), ""
    if len(filled) < 2:
        note = "fewer than two batches with a known value"
    elif np.isnan(eta):
        note = "the same value in all batches"
    else:
        from scipy import stats

        found = stats.kruskal(*filled)
        test, statistic, p = "Kruskal-Wallis", float(found.statistic), float(found.pvalue)
    rows = []
    for batch in batches:
        own = parts[batch]
        n_of_batch = int((groups == batch).sum())
        others = np.concatenate([parts[other] for other in batches if other != batch] or [np.empty(0)])
        overlap, in_range = overlap_of_numbers(own, others)
        q1, median, q3 = np.percentile(own, [25, 50, 75]) if len(own) else (float("nan"),) * 3
        rows.append(
            {
                "variable": name,
                "kind": kind,
                "scale": "number",
                "batch": batch,
                "level": "",
                "n": len(own),
                "n_of_batch": n_of_batch,
                "missing": n_of_batch - len(own),
                "share": float("nan"),
                "events": None,
                "median_follow_up": float("nan"),
                "median": float(median),
                "q1": float(q1),
                "q3": float(q3),
                "overlap": overlap,
                "in_range": in_range,
                "levels": len(np.unique(sorted_values)),
                "eta_squared": eta,
                "test": test,
                "statistic": statistic,
                "p": p,
                "note": note,
            }
        )
    return rows


# --------------------------------------------------------------------------- check


def check_confounding(
    batch: pd.Series,
    columns: Mapping[str, pd.Series],
    kinds: Mapping[str, str],
    times: Mapping[str, pd.Series] | None = None,
    table: pd.DataFrame | None = None,
) -> list[str]:
    """Warnings about what is strongly confounded with the batch; arguments as `confounding_table`, whose result `table`
    may be given.

    Raises CohortError if an outcome and the batch are the same thing: there are two classes or more, and every batch
    has one of them (also where several batches have the same one), or every class is of one batch. Batches of one
    case are left aside, for these always have one class; fewer than LEAST_CASES cases get a warning only.
    """
    name = str(batch.name or "the batch")
    label = _labels(batch)
    for outcome, column in columns.items():
        if kinds[outcome] == "outcome":
            _refuse_same(name, label, str(outcome), column)
    if table is None:
        table = confounding_table(batch, columns, kinds, times)
    found: list[str] = []
    without = int(label.isna().sum())
    if without:
        found.append(f"{name} is not known for {without} cases, which count in no table of confounding")
    for variable, rows in table.groupby("variable", sort=False):
        kind = str(rows["kind"].iloc[0])
        own = rows.drop_duplicates("batch")
        if len(own) < 2:
            continue
        found += _strong(name, str(variable), kind, rows)
        empty = own[own["missing"] == own["n_of_batch"]]
        if len(empty):
            found.append(f"the {kind} {variable} is not known for any case of {name} {listed(empty['batch'])}")
        if kind == "outcome":
            found += _without_events(name, str(variable), own)
        else:
            apart = own[own["overlap"] == 0]
            if len(apart):
                found.append(
                    f"the covariate {variable} does not overlap between {name} {listed(apart['batch'])} and the "
                    "others: its effect can't be told from that of the batch"
                )
    return found


def _refuse_same(name: str, label: pd.Series, outcome: str, column: pd.Series) -> None:
    classes = _classes(column, "outcome")
    if classes is None:
        return
    pairs = pd.DataFrame({"batch": label, "outcome": classes}).dropna()
    if pairs["outcome"].nunique() > MOST_LEVELS or len(pairs) < LEAST_CASES:
        return
    counts = pd.crosstab(pairs["batch"], pairs["outcome"])
    for table in (counts[counts.sum(axis=1) > 1], counts.loc[:, counts.sum(axis=0) > 1].T):
        table = table.loc[:, table.sum(axis=0) > 0]
        if min(table.shape) >= 2 and bool(((table > 0).sum(axis=1) == 1).all()):
            break
    else:
        return
    order = _sorted_levels(classes)
    told = [
        f"{batch}: " + ", ".join(f"{int(own[level])} x {level}" for level in order if own.get(level))
        for batch, own in counts.iterrows()
    ]
    raise CohortError(
        f"{name} and the outcome {outcome!r} are the same thing: one tells the other in every case "
        f"({listed(told, 12)}). Removing the difference between the batches removes that between the outcomes, and a "
        "model would predict the scanner, so nothing was fitted. Add cases of the missing classes to at least one "
        f"{name}, take a batch column whose batches have both, or leave this outcome out of the configuration"
    )


def _strong(name: str, variable: str, kind: str, rows: pd.DataFrame) -> list[str]:
    v, eta = float(rows["cramers_v_corrected"].iloc[0]), float(rows["eta_squared"].iloc[0])
    if v >= STRONG:
        measure = f"Cramer's V {v:.2f}"
    elif eta >= STRONG**2:
        measure = f"eta squared {eta:.2f}"
    else:
        return []
    own = rows.drop_duplicates("batch")
    if rows["scale"].iloc[0] == "number":
        told = [f"{row.batch}: median {row.median:.3g}" for row in own[own["n"] > 0].itertuples()]
    elif own["events"].notna().all():
        told = [f"{row.batch}: {int(row.events)} of {row.n_of_batch - row.missing}" for row in own.itertuples()]
    else:
        parts = rows[rows["n"] > 0]
        told = [
            f"{batch}: " + ", ".join(f"{level} {n}" for level, n in zip(part["level"], part["n"], strict=True))
            for batch, part in parts.groupby("batch", sort=False)
        ]
    consequence = (
        "a model can gain by telling the batches apart, so read the measures within centres first"
        if kind == "outcome"
        else "its effect can hardly be told from that of the batch"
    )
    return [f"the {kind} {variable} is strongly confounded with {name} ({measure}; {listed(told, 12)}): {consequence}"]


def _without_events(name: str, variable: str, own: pd.DataFrame) -> list[str]:
    known = own[own["events"].notna() & (own["missing"] < own["n_of_batch"])]
    if known.empty:
        return []
    sizes = known["n_of_batch"] - known["missing"]
    none, every = known["events"] == 0, known["events"] == sizes
    if none.all() or every.all():
        what = "no" if none.all() else "only"
        return [f"the outcome {variable} is the same in all {int(sizes.sum())} cases: {what} events"]
    found = []
    for mask, what in ((none, "has no events"), (every, "has nothing but events")):
        if mask.any():
            told = listed(f"{batch} ({n})" for batch, n in zip(known["batch"][mask], sizes[mask], strict=True))
            found.append(
                f"{name} {told} {what} of {variable}: nothing can be estimated there, and the batch tells the outcome"
            )
    return found


# ---------------------------------------------------------------------------- gate


def survival_times(params: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The column of the follow-up time of each event that the configuration declares."""
    found = {}
    for section in ("analysis_plan", "model_cox"):
        named = params.get(section, {})
        if named.get("time") and named.get("event"):
            found[str(named["event"])] = str(named["time"])
    return found


def gate(
    tables: CohortTables,
    rows: pd.DataFrame,
    params: Mapping[str, Mapping[str, Any]],
    outcomes: Sequence[str],
) -> tuple[pd.DataFrame, list[str]]:
    """What must be known before a fit to `rows` of the feature table: what is confounded (TABLE_COLUMNS), and warnings.

    `outcomes` are the columns that the configuration declares as outcomes; times of follow-up among them describe
    their event. Covariates are those of ComBat (section `harmonize`) and of the plan (`analysis_plan.covariates`).
    Raises CohortError where an outcome and the batch are the same thing, in all batches or in those that are large
    enough for ComBat.
    """
    combat = params["harmonize"]
    batch_name = batch_columns(combat)[0]
    times = survival_times(params)
    covariates = [*combat["covariates"], *params.get("analysis_plan", {}).get("covariates", [])]
    kinds = {name: "covariate" for name in covariates if name != batch_name}
    kinds = {name: "outcome" for name in outcomes if name not in times.values()} | {
        name: kind for name, kind in kinds.items() if name not in outcomes
    }
    ordered = rows.sort_values("case_id", kind="stable")
    batch = _labels(tables.column(batch_name, ordered)).rename(batch_name)
    once = ~pd.DataFrame({"p": ordered["patient_id"].to_numpy(), "b": batch.to_numpy()}).duplicated().to_numpy()
    ordered, batch = ordered[once], batch[once]
    columns = {name: tables.column(name, ordered) for name in kinds}
    follow_up = {event: tables.column(time, ordered) for event, time in times.items() if event in kinds}
    table = confounding_table(batch, columns, kinds, follow_up)
    warnings = check_confounding(batch, columns, kinds, follow_up, table)
    sizes = batch.map(batch.value_counts())
    large = (sizes >= combat["min_batch_size"]).to_numpy()
    if large.any() and not large.all():
        for outcome in (name for name, kind in kinds.items() if kind == "outcome"):
            _refuse_same(batch_name, batch[large], outcome, columns[outcome][large])
    table.insert(0, "roi", str(rows["roi"].iloc[0]) if len(rows) else "")
    return table, warnings


def gate_rois(
    tables: CohortTables,
    params: Mapping[str, Mapping[str, Any]],
    outcomes: Sequence[str],
    derived: Sequence[str] = (),
) -> tuple[pd.DataFrame, list[str]]:
    """`gate` for each ROI of the feature table, one after the other.

    A warning that holds for all ROIs is given once. An ROI that is named as `derived` (or a component of one), which
    few cases may have, doesn't stop the cohort as long as another one passes: its error is a warning.
    """
    parts: list[pd.DataFrame] = []
    told: dict[str, list[str]] = {}
    refused: CohortError | None = None
    rois = [str(roi) for roi in dict.fromkeys(tables.features["roi"])]
    for roi in rois:
        try:
            table, warnings = gate(tables, tables.features[tables.features["roi"] == roi], params, outcomes)
        except CohortError as error:
            refused = CohortError(f"ROI {roi}: {error}")
            if roi not in derived and re.sub(r"_[1-9][0-9]*$", "", roi) not in derived:
                raise refused from None
            warnings = [str(error)]
        else:
            parts.append(table)
        for warning in warnings:
            told.setdefault(warning, []).append(roi)
    if refused is not None and not parts:
        raise refused
    found = [
        warning if len(those) == len(rois) else f"ROI {listed(those)}: {warning}" for warning, those in told.items()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=TABLE_COLUMNS), found
