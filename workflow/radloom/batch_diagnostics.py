"""What the features tell of their batch before and after harmonisation, and whether they still tell of the patients.

Four questions, ROI by ROI: does a feature's distribution differ between the batches (`diagnose`, `compare_batches`);
can the batch be guessed from all features together (`guess_batch`); is the effect of age, sex and other covariates
still there (`covariate_effects`); and the answers in a few rows that a reader starts with (`assess`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import linalg, stats
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from radloom.assembly import CohortTables, is_numeric, levels_of
from radloom.batches import batch_columns
from radloom.errors import CohortError
from radloom.harmonizer import HarmonizationError, HarmonizationWarning
from radloom.harmonizers import harmonizer_of
from radloom.rank_tests import adjust_fdr, rank_tests

DIAGNOSTIC_TESTS = ("anova", "kruskal", "ks", "ad")
STAGES = ("before", "after")
LEVEL = 0.05
"""A feature differs, or has an effect, where its p adjusted for the number of features is below this."""

FOLDS = 5
MOST_COMPONENTS = 20
CASES_A_COMPONENT = 10
OUTLIER = 5.0
"""Standardised values are cut off at so many standard deviations before the principal components."""

BATCH_COLUMNS = [
    "roi",
    "feature",
    "batch",
    "n",
    *(f"{name}_{stage}" for stage in STAGES for name in ("ks", "ks_p", "ks_q", "ad", "ad_p", "ad_q")),
]
"""Columns of tables/combat_batches.csv."""

_EFFECT = ("effect", "ci_low", "ci_high", "p", "q")
COVARIATE_COLUMNS = [
    "roi",
    "feature",
    "covariate",
    "term",
    "n",
    "effect_crude",
    *(f"{name}_{stage}" for stage in STAGES for name in _EFFECT),
    "kept",
]
"""Columns of tables/combat_covariates.csv."""

SUMMARY_COLUMNS = ["roi", "measure", "stage", "batch", "estimate", "ci_low", "ci_high", "note"]
"""Columns of tables/combat_summary.csv."""

ALL = "all"


@dataclass(frozen=True)
class Assessment:
    """The tables combat_batches, combat_covariates and combat_summary, with the columns named above."""

    batches: pd.DataFrame
    covariates: pd.DataFrame
    summary: pd.DataFrame


# ------------------------------------------------------------------ single features


def diagnose(before: pd.DataFrame, after: pd.DataFrame, batch: pd.Series) -> pd.DataFrame:
    """How much each feature (columns; rows are cases) tells of its batch, before and after harmonisation.

    Columns, each with the suffix _before and _after: batch_r2 (share of the variance between batches), anova_p
    and kruskal_p (equal means, equal locations), ks (largest two-sample Kolmogorov-Smirnov statistic of a batch
    against all others), ks_p (its p, Bonferroni over the batches), ad and ad_p (standardised k-sample
    Anderson-Darling statistic and its p, `rank_tests`), and *_q (Benjamini-Hochberg over the features). Empty where
    there is one batch or no variance. Batches of one case have no part in it.
    """
    _, groups = _groups(batch)
    columns: dict[str, np.ndarray] = {}
    for suffix, table in (("before", before), ("after", after)):
        values = table.to_numpy(dtype=np.float64)
        for name, numbers in _batch_tests(values, groups).items():
            columns[f"{name}_{suffix}"] = numbers
        for test in DIAGNOSTIC_TESTS:
            columns[f"{test}_q_{suffix}"] = adjust_fdr(columns[f"{test}_p_{suffix}"])
    return pd.DataFrame({"feature": [str(name) for name in before.columns], **columns})


def compare_batches(before: pd.DataFrame, after: pd.DataFrame, batch: pd.Series) -> pd.DataFrame:
    """Each feature in each batch against all other batches: BATCH_COLUMNS without the ROI, one row a feature and batch.

    `ks` is the distance of Kolmogorov and Smirnov, `ad` the standardised two-sample Anderson-Darling statistic, `_p`
    their p, `_q` that adjusted for the number of features (Benjamini-Hochberg, each batch by itself). Empty where the
    feature doesn't vary; no row where there is one batch. Batches of one case have no part in it.
    """
    names, groups = _groups(batch)
    if len(groups) < 2:
        return pd.DataFrame(columns=BATCH_COLUMNS[1:])
    found = {}
    for stage, table in (("before", before), ("after", after)):
        values = table.to_numpy(dtype=np.float64)
        tests = rank_tests(_without_noise(values, groups), groups)
        found[stage] = (tests.one_ks, tests.one_ks_p, tests.one_ad, tests.one_ad_p)
    parts = []
    for k, name in enumerate(names):
        part: dict[str, Any] = {"feature": [str(f) for f in before.columns], "batch": name, "n": len(groups[k])}
        for stage, (ks, ks_p, ad, ad_p) in found.items():
            part |= {f"ks_{stage}": ks[k], f"ks_p_{stage}": ks_p[k], f"ks_q_{stage}": adjust_fdr(ks_p[k])}
            part |= {f"ad_{stage}": ad[k], f"ad_p_{stage}": ad_p[k], f"ad_q_{stage}": adjust_fdr(ad_p[k])}
        parts.append(pd.DataFrame(part))
    table = pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)
    return table[BATCH_COLUMNS[1:]]


def _groups(batch: pd.Series) -> tuple[list[str], list[np.ndarray]]:
    """Names of the batches of two cases or more, sorted, and the rows of each."""
    sizes = batch.value_counts()
    names = sorted(str(name) for name in sizes.index[sizes > 1])
    return names, [np.flatnonzero((batch == name).to_numpy()) for name in names]


def _varies(values: np.ndarray) -> np.ndarray:
    return np.ptp(values, axis=0) > 1e-12 * np.abs(values).max(axis=0)


def _without_noise(values: np.ndarray, groups: list[np.ndarray]) -> np.ndarray:
    """The values, where a column that differs by rounding alone is one value: its ranks would be noise."""
    constant = ~_varies(values[np.concatenate(groups)])
    if not constant.any():
        return values
    values = values.copy()
    values[:, constant] = 0.0
    return values


def _batch_tests(values: np.ndarray, groups: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Statistics of `diagnose` for values, cases x features, and the rows of each batch."""
    p = values.shape[1]
    names = ("batch_r2", "anova_p", "kruskal_p", "ks", "ks_p", "ad", "ad_p")
    result = {name: np.full(p, np.nan) for name in names}
    if len(groups) < 2:
        return result
    used = np.concatenate(groups)
    varies = _varies(values[used])
    x = values[:, varies]
    if x.shape[1] == 0:
        return result
    total = ((x[used] - x[used].mean(axis=0)) ** 2).sum(axis=0)
    inside = sum(((x[rows] - x[rows].mean(axis=0)) ** 2).sum(axis=0) for rows in groups)
    result["batch_r2"][varies] = 1.0 - inside / total
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)  # constant in every batch: F infinite, p 0
        result["anova_p"][varies] = stats.f_oneway(*[x[rows] for rows in groups], axis=0).pvalue
    result["kruskal_p"][varies] = stats.kruskal(*[x[rows] for rows in groups], axis=0).pvalue
    tests = rank_tests(x, groups)
    pairs = 1 if len(groups) == 2 else len(groups)
    result["ks"][varies] = tests.one_ks.max(axis=0)
    result["ks_p"][varies] = np.minimum(tests.one_ks_p.min(axis=0) * pairs, 1.0)
    result["ad"][varies], result["ad_p"][varies] = tests.ad, tests.ad_p
    return result


# ------------------------------------------------------------- guessing the batch


@dataclass(frozen=True)
class Guess:
    """Area under the curve of guessing each batch, with a 95 % interval; NaN and a reason where it can't be had.

    `batches` has (auc, low, high) by name, the mean over the batches under `all`.
    """

    batches: dict[str, tuple[float, float, float]]
    reason: str = ""


def guess_batch(
    values: np.ndarray,
    batch: np.ndarray,
    patients: np.ndarray,
    refit: Callable[[np.ndarray], np.ndarray] | None = None,
    *,
    seed: int = 1,
    bootstraps: int = 500,
) -> Guess:
    """How well the batch of a case that was not seen can be guessed from all features (cases x features) together.

    Five folds, all cases of a patient in one, each batch spread over them. Within each, the training cases alone
    determine: the scale of the features (standardised, cut off at 5 SD), their first principal components (at most 20,
    and one for 10 cases), and a ridge-penalised multinomial logistic regression of the batch on the components and
    their squares, by which a difference in spread is seen as well as one in location. The area is over pairs of a case
    of the batch and one of another, both held out in the same fold, ties 1/2; 0.5 is no better than chance. The
    interval is of the percentiles of a bootstrap of patients within batches, without fitting anew.

    `refit` (positions of cases -> values of all cases) harmonises as those cases alone determine. Then the patients of
    each batch are halved, and each half is harmonised by what the other half says; within it, the folds are as above.
    So the guess is learned from cases that the harmonisation has not seen, and tried on such cases. Otherwise the area
    is too low, and below 0.5 where nothing is left: a harmonisation makes the batches' means equal in the cases that it
    has seen, so those that were held out lie on the other side of them. It is so, by less, where ComBat and the guess
    have learned from the same training cases.

    Batches of fewer than five patients (with `refit` ten) have no part.
    """
    labels = np.asarray(batch).astype(str)
    people = np.asarray(patients).astype(str)
    least = FOLDS if refit is None else 2 * FOLDS
    sizes = {str(name): len(set(people[labels == name])) for name in sorted(set(labels))}
    names = [name for name, size in sizes.items() if size >= least]
    if len(names) < 2:
        return Guess({}, f"fewer than two batches with {least} patients")
    there = np.isin(labels, names)
    half = np.where(there, 0, -1) if refit is None else _deal(labels, people, names, there, 2, [seed, 6])
    fold = np.full(len(labels), -1)
    scores = np.full((len(labels), len(names)), np.nan)
    with threadpool_limits(limits=1):
        for part in sorted(set(half[there])):
            own = half == part
            fold[own] = FOLDS * part + _deal(labels, people, names, own, FOLDS, [seed, 7])[own]
            try:
                table = values if refit is None else refit(np.flatnonzero(there & ~own))
            except HarmonizationError as error:
                return Guess({}, f"ComBat of half of the cases: {error}")
            for number in sorted(set(fold[own])):
                train, test = np.flatnonzero(own & (fold != number)), np.flatnonzero(fold == number)
                codes = np.searchsorted(names, labels[train])
                if len(set(codes)) < len(names):
                    return Guess({}, "the patients of a batch are those of others: a fold has none to learn from")
                design = _components(table, train, test)
                if design is None:
                    return Guess({}, "no feature varies")
                model = LogisticRegression(C=1.0, max_iter=500, tol=1e-6).fit(design[0], codes)
                scores[test] = model.predict_log_proba(design[1])
    return Guess(_areas(scores, labels, people, names, fold, seed, bootstraps))


def _deal(
    labels: np.ndarray, people: np.ndarray, names: Sequence[str], rows: np.ndarray, parts: int, seed: list[int]
) -> np.ndarray:
    """The part of each case of `rows` (a mask; else -1): the patients of each batch are shuffled and dealt in turn."""
    rng = np.random.default_rng(seed)
    part_of: dict[str, int] = {}
    turn = 0
    for name in names:
        mine = [person for person in sorted(set(people[rows & (labels == name)])) if person not in part_of]
        for position in rng.permutation(len(mine)):
            part_of[mine[position]] = turn % parts
            turn += 1
    return np.array([part_of[person] if row else -1 for person, row in zip(people, rows, strict=True)], dtype=int)


def _components(table: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Principal components of the training cases and their squares, standardised, for training and test cases."""
    x = table[np.concatenate([train, test])]
    x = x[:, np.isfinite(x).all(axis=0)]
    known = x[: len(train)]
    sd = known.std(axis=0)
    varies = sd > 1e-12 * np.maximum(np.abs(known).max(axis=0, initial=0.0), 1e-300)
    if not varies.any():
        return None
    x = np.clip((x[:, varies] - known[:, varies].mean(axis=0)) / sd[varies], -OUTLIER, OUTLIER)
    x = x - x[: len(train)].mean(axis=0)
    known, held = x[: len(train)], x[len(train) :]
    most = int(np.clip(len(train) // CASES_A_COMPONENT, 1, MOST_COMPONENTS))
    wide = known.shape[1] > known.shape[0]
    gram = known @ known.T if wide else known.T @ known
    count = min(most, len(gram))
    variances, vectors = linalg.eigh(gram, subset_by_index=[len(gram) - count, len(gram) - 1])
    there = variances > 1e-10 * variances.max()
    variances, vectors = variances[there], vectors[:, there]
    axes = (known.T @ vectors) / np.sqrt(variances) if wide else vectors
    scores = np.vstack([known @ axes, held @ axes])
    scores = scores / scores[: len(train)].std(axis=0)
    both = np.hstack([scores, scores**2])
    mean, spread = both[: len(train)].mean(axis=0), both[: len(train)].std(axis=0)
    both = (both - mean) / np.where(spread > 0, spread, 1.0)
    return both[: len(train)], both[len(train) :]


def _areas(
    scores: np.ndarray,
    labels: np.ndarray,
    people: np.ndarray,
    names: Sequence[str],
    fold: np.ndarray,
    seed: int,
    bootstraps: int,
) -> dict[str, tuple[float, float, float]]:
    """Area of each batch over pairs within folds, and of the mean of the batches, with bootstrap intervals."""
    weights = _patient_weights(labels, people, names, seed, bootstraps)
    every = np.full((len(names), 1 + bootstraps), np.nan)
    for k, name in enumerate(names):
        hits, pairs = np.zeros(1 + bootstraps), np.zeros(1 + bootstraps)
        for number in sorted(set(fold[fold >= 0])):
            own = np.flatnonzero((fold == number) & (labels == name))
            others = np.flatnonzero((fold == number) & (labels != name))
            a, b = scores[own, k][:, None], scores[others, k][None, :]
            above = (a > b) + 0.5 * (a == b)
            hits += ((weights[:, own] @ above) * weights[:, others]).sum(axis=1)
            pairs += weights[:, own].sum(axis=1) * weights[:, others].sum(axis=1)
        with np.errstate(invalid="ignore"):
            every[k] = hits / pairs
    result = {}
    for name, row in [(ALL, every.mean(axis=0)), *zip(names, every, strict=True)]:
        drawn = row[1:][np.isfinite(row[1:])]
        enough = len(drawn) >= 0.9 * bootstraps and bootstraps > 0
        low, high = np.percentile(drawn, [2.5, 97.5]) if enough else (np.nan, np.nan)
        result[name] = (float(row[0]), float(low), float(high))
    return result


def _patient_weights(
    labels: np.ndarray, people: np.ndarray, names: Sequence[str], seed: int, bootstraps: int
) -> np.ndarray:
    """How often each case is drawn, (1 + bootstraps) x cases: first as they are, then patients within each batch."""
    rng = np.random.default_rng([seed, 8])
    weights = np.ones((1 + bootstraps, len(labels)))
    for name in names:
        rows = np.flatnonzero(labels == name)
        which, code = np.unique(people[rows], return_inverse=True)
        drawn = rng.multinomial(len(which), np.full(len(which), 1 / len(which)), size=bootstraps)
        weights[1:, rows] = drawn[:, code]
    return weights


def refit_combat(
    values: pd.DataFrame, metadata: pd.DataFrame, settings: Mapping[str, Any], parameters: Mapping[str, Any]
) -> Callable[[np.ndarray], np.ndarray]:
    """A `refit` for `guess_batch`: ComBat learned from some cases, applied to all.

    `parameters` are those of the fit to all cases: which batches were merged, and which had no part and stay as they
    are. Cases of a batch of which it could learn nothing stay as they are as well.
    """
    name = batch_columns(settings)[0]
    labels = metadata[name].astype(str).str.strip()
    if parameters.get("merged_name"):
        labels = labels.where(~labels.isin(parameters["merged_batches"]), parameters["merged_name"])
    metadata = metadata.assign(**{name: labels})
    within = labels.isin(parameters["batches"]).to_numpy()

    def refit(train: np.ndarray) -> np.ndarray:
        learned = np.zeros(len(labels), dtype=bool)
        learned[train] = True
        sizes = labels[learned & within].value_counts()
        enough = sizes.index[sizes > 1]
        learned &= within & labels.isin(enough).to_numpy()
        if not learned.any():
            raise HarmonizationError("no batch has two training cases")
        lenient = {"min_batch_size": 2, "small_batch": "passthrough", "new_batch": "passthrough"}
        harmonizer = harmonizer_of({**settings, **lenient})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HarmonizationWarning)
            harmonizer.fit(values[learned], metadata=metadata[learned])
            moved = within & labels.isin(enough).to_numpy()
            result = values.to_numpy(dtype=np.float64).copy()
            result[moved] = harmonizer.transform(values[moved], metadata[moved]).to_numpy()
        return result

    return refit


# --------------------------------------------------------------- covariate effects


def covariate_effects(
    before: np.ndarray, after: np.ndarray, batch: np.ndarray, covariates: pd.DataFrame
) -> list[dict[str, Any]]:
    """The effect of each covariate on each feature before and after harmonisation: a record a term, arrays of features.

    before, after: cases x features; covariates: text, a column each, of the same cases; numbers enter as they are,
    words as one term a level other than the first in sorted order. Cases that lack a covariate have no part.

    The effect is a partial correlation, from -1 to 1, given the other covariates: before harmonisation given the batch
    as well (so within batches), after harmonisation without it, as a model sees it that reads the harmonised features
    and nothing of the batch. `effect_crude` is that before harmonisation without the batch. p is of the t test of the
    slope in the linear model, the interval Fisher's (atanh, standard error 1 / sqrt(df - 1)), q Benjamini-Hochberg over
    the features. `kept`: significant before (q < 0.05), and of the same sign and significant after; NaN where it wasn't
    significant before. All NaN for a feature that doesn't vary.

    Raises CohortError for a covariate of numbers and words, or of more words than a covariate may have.
    """
    known = covariates.notna().all(axis=1).to_numpy()
    terms: list[tuple[str, str, np.ndarray]] = []
    for name in covariates.columns:
        column = covariates[name][known]
        if is_numeric(column):
            terms.append((str(name), str(name), pd.to_numeric(column).to_numpy(dtype=np.float64)))
        else:
            text = column.astype(str)
            terms += [
                (str(name), f"{name}[{level}]", (text == level).to_numpy(dtype=np.float64))
                for level in levels_of(column)[1:]
            ]
    labels = np.asarray(batch).astype(str)[known]
    indicators = (labels[:, None] == np.unique(labels)[None, :]).astype(np.float64)
    ones = np.ones((int(known.sum()), 1))
    records = []
    for k, (name, term, own) in enumerate(terms):
        others = [values for j, (_, _, values) in enumerate(terms) if j != k]
        crude = _partial(before[known], own, np.column_stack([ones, *others]))
        stages = {
            "before": _partial(before[known], own, np.column_stack([indicators, *others])),
            "after": _partial(after[known], own, np.column_stack([ones, *others])),
        }
        record: dict[str, Any] = {"covariate": name, "term": term, "n": int(known.sum()), "effect_crude": crude[0]}
        for stage, found in stages.items():
            record |= dict(zip((f"{what}_{stage}" for what in _EFFECT[:4]), found, strict=True))
            record[f"q_{stage}"] = adjust_fdr(record[f"p_{stage}"])
        same = np.sign(record["effect_before"]) == np.sign(record["effect_after"])
        with np.errstate(invalid="ignore"):
            kept = same & (record["q_after"] < LEVEL)
            record["kept"] = np.where(record["q_before"] < LEVEL, kept.astype(float), np.nan)
        records.append(record)
    return records


def _partial(
    features: np.ndarray, own: np.ndarray, others: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Partial correlation of each feature with `own` given the columns of `others`, its interval, and p."""
    p = features.shape[1]
    nothing = np.full(p, np.nan)
    if len(own) < 4:
        return nothing, nothing, nothing, nothing
    u, s, _ = np.linalg.svd(others, full_matrices=False)
    basis = u[:, s > 1e-10 * s.max()]
    freedom = len(own) - basis.shape[1] - 1
    rest = own - basis @ (basis.T @ own)
    own_scale = float(((own - own.mean()) ** 2).sum())
    if freedom < 2 or float(rest @ rest) <= 1e-10 * own_scale:
        return nothing, nothing, nothing, nothing  # too few cases, or told by batch and other covariates without rest
    residual = features - basis @ (basis.T @ features)
    squares = (residual**2).sum(axis=0)
    scale = ((features - features.mean(axis=0)) ** 2).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.where(
            _varies(features) & (squares > 1e-20 * scale), rest @ residual / np.sqrt(squares * (rest @ rest)), np.nan
        )
        r = np.clip(r, -1.0, 1.0)
        t = r * np.sqrt(freedom / (1 - r**2))
        reach = stats.norm.ppf(0.975) / np.sqrt(freedom - 1)
        low, high = np.tanh(np.arctanh(r) - reach), np.tanh(np.arctanh(r) + reach)
    return r, low, high, 2 * stats.t.sf(np.abs(t), freedom)


# -------------------------------------------------------------------------- summary


def assess(
    tables: CohortTables,
    harmonized: pd.DataFrame,
    parameters: Mapping[str, Mapping[str, Any]],
    diagnostics: pd.DataFrame,
    settings: Mapping[str, Any],
    covariates: Sequence[str],
    *,
    seed: int = 1,
    bootstraps: int = 500,
) -> Assessment:
    """Tables of what a harmonisation did, for each ROI that was harmonised.

    harmonized: the harmonised feature table; parameters: ComBat's, by ROI; diagnostics: the result of `diagnose` by
    ROI; settings: the section `harmonize`; covariates: columns whose effects are compared (ComBat's own, and others
    that describe the patient). A covariate that can't be used is a row of the summary that says why.
    """
    batches, effects, summary = [], [], []
    names = tables.feature_names
    for roi, saved in parameters.items():
        rows = tables.features[tables.features["roi"] == roi].sort_values("case_id", kind="stable")
        done = harmonized[harmonized["roi"] == roi].set_index("case_id")
        rows = rows[rows["case_id"].isin(done.index)]
        index = pd.Index(rows["case_id"], name="case_id")
        before = rows[names].set_axis(index, axis=0)
        after = done.loc[index, names]
        wanted = dict.fromkeys([*batch_columns(settings), *settings["covariates"]])
        metadata = pd.DataFrame({name: tables.column(name, rows) for name in wanted}, index=index)
        batch = metadata[batch_columns(settings)[0]].astype(str).str.strip()
        patients = rows["patient_id"].to_numpy(dtype=object)
        table = compare_batches(before, after, batch)
        table.insert(0, "roi", roi)
        batches.append(table)
        mine = diagnostics[diagnostics["roi"] == roi]
        summary += [{"roi": roi, **row} for row in _feature_rows(mine, table)]
        # Of several batch columns the first is the one that is guessed.
        first, saved = batch_columns(settings)[0], saved["steps"][0] if "steps" in saved else saved
        shuffled = shuffle_batches(metadata[first], patients, saved, seed)
        labels = dict.fromkeys(GUESS_NOTES, batch) | {SHUFFLED: shuffled.astype(str).str.strip()}
        refits = {
            "after, new cases": refit_combat(before, metadata, settings, saved),
            SHUFFLED: refit_combat(before, metadata.assign(**{first: shuffled}), settings, saved),
        }
        for stage in GUESS_NOTES:
            values = (after if stage == "after" else before).to_numpy(dtype=np.float64)
            own = labels[stage].to_numpy()
            guess = guess_batch(values, own, patients, refits.get(stage), seed=seed, bootstraps=bootstraps)
            summary += [{"roi": roi, **row} for row in _guess_rows(stage, guess)]
        found, told = _covariate_rows(tables, rows, before, after, batch, covariates)
        summary += [{"roi": roi, **row} for row in told]
        if len(found):
            found.insert(0, "roi", roi)
            effects.append(found)
    return Assessment(
        _joined(batches, BATCH_COLUMNS),
        _joined(effects, COVARIATE_COLUMNS),
        pd.DataFrame(summary, columns=SUMMARY_COLUMNS),
    )


def _joined(parts: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _row(measure: str, stage: str, batch: str, estimate: float, note: str, **ends: float) -> dict[str, Any]:
    return {"measure": measure, "stage": stage, "batch": batch, "estimate": estimate, "note": note, **ends}


def _share(q: np.ndarray) -> tuple[float, str]:
    """Share of features below LEVEL of those that have a q, and both counts in words."""
    known = q[np.isfinite(q)]
    if not len(known):
        return float("nan"), "no feature could be tested"
    hits = int((known < LEVEL).sum())
    return hits / len(known), f"{hits} of {len(known)} features with q < {LEVEL:g}"


def _feature_rows(diagnostics: pd.DataFrame, batches: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of the summary on single features: R2 of the batch, and how many features differ between batches."""
    rows = []
    for stage in STAGES:
        r2 = diagnostics[f"batch_r2_{stage}"].to_numpy(dtype=np.float64)
        known = r2[np.isfinite(r2)]
        middle = float(np.median(known)) if len(known) else float("nan")
        rows.append(
            _row("batch_r2", stage, ALL, middle, f"median of {len(known)} features" if len(known) else "one batch")
        )
    for stage in STAGES:
        share, note = _share(diagnostics[f"ad_q_{stage}"].to_numpy(dtype=np.float64))
        rows.append(_row("features_anderson_darling", stage, ALL, share, note))
    for test, measure in (("ad", "features_anderson_darling"), ("ks", "features_kolmogorov_smirnov")):
        for name, part in batches.groupby("batch", sort=True):
            for stage in STAGES:
                share, note = _share(part[f"{test}_q_{stage}"].to_numpy(dtype=np.float64))
                rows.append(_row(measure, stage, str(name), share, f"{note}, against all other batches"))
    return rows


SHUFFLED = "after, shuffled"
GUESS_NOTES = {
    "before": "",
    "after": "ComBat has seen the cases that are guessed, so this is too low, and may fall below 0.5",
    "after, new cases": "each half of the cases harmonised by a ComBat that learned from the other half; from all "
    "cases it learns better. Small remains add up over many features",
    SHUFFLED: "as new cases, with the batches shuffled among the patients: there is nothing to remove, and what is "
    "above 0.5 ComBat has brought in itself, by what it learned from few or heavy-tailed values",
}
"""The stages of guessing the batch, and what to keep in mind of each."""


def shuffle_batches(batch: pd.Series, patients: np.ndarray, parameters: Mapping[str, Any], seed: int) -> pd.Series:
    """The batches of the cases, shuffled among the patients; those that were not harmonised keep theirs.

    All cases of a patient get one batch. The order of the cases has no meaning.
    """
    text = batch.astype(str).str.strip()
    own = [*parameters["batches"], *parameters.get("merged_batches", [])]
    moved = text.isin(own).to_numpy()
    people = np.asarray(patients).astype(str)
    first = pd.Series(text.to_numpy()[moved], index=people[moved]).sort_index(kind="stable")
    first = first[~first.index.duplicated()]
    drawn = np.random.default_rng([seed, 9]).permutation(first.to_numpy(dtype=object))
    new_of = dict(zip(first.index, drawn, strict=True))
    shuffled = [new_of[person] if move else old for person, move, old in zip(people, moved, text, strict=True)]
    return pd.Series(shuffled, index=batch.index, name=batch.name, dtype=object)


def _guess_rows(stage: str, guess: Guess) -> list[dict[str, Any]]:
    """Rows of the summary on guessing the batch; of shuffled batches the mean alone, as their names mean nothing."""
    if not guess.batches:
        return [_row("batch_auc", stage, ALL, float("nan"), f"not estimable: {guess.reason}")]
    return [
        _row("batch_auc", stage, name, auc, GUESS_NOTES[stage], ci_low=low, ci_high=high)
        for name, (auc, low, high) in guess.batches.items()
        if name == ALL or stage != SHUFFLED
    ]


def _covariate_rows(
    tables: CohortTables,
    rows: pd.DataFrame,
    before: pd.DataFrame,
    after: pd.DataFrame,
    batch: pd.Series,
    covariates: Sequence[str],
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Effects of the covariates, one case a patient, as a long table, and the rows of the summary."""
    told: list[dict[str, Any]] = []
    first = ~rows["patient_id"].duplicated().to_numpy()
    columns: dict[str, pd.Series] = {}
    for name in dict.fromkeys(covariates):
        column = tables.column(name, rows)[first]
        try:
            constant = column.nunique() < 2
            if not is_numeric(column):
                levels_of(column)
        except CohortError as error:
            told.append(_row(f"covariate_kept: {name}", "", ALL, float("nan"), f"not estimable: {error}"))
            continue
        if constant:
            told.append(_row(f"covariate_kept: {name}", "", ALL, float("nan"), "not estimable: it has one value"))
            continue
        columns[name] = column
    if not columns:
        return pd.DataFrame(columns=COVARIATE_COLUMNS[1:]), told
    table = pd.DataFrame(columns)
    values = [part.to_numpy(dtype=np.float64)[first] for part in (before, after)]
    records = covariate_effects(values[0], values[1], batch.to_numpy()[first], table)
    parts = []
    for record in records:
        parts.append(pd.DataFrame({"feature": [str(name) for name in before.columns], **record}))
        told += _kept_rows(record)
    return pd.concat(parts, ignore_index=True)[COVARIATE_COLUMNS[1:]], told


def _kept_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    term = record["term"]
    rows = []
    for stage in STAGES:
        sizes = np.abs(record[f"effect_{stage}"])
        known = sizes[np.isfinite(sizes)]
        if len(known):
            share, note = _share(record[f"q_{stage}"])
            rows.append(_row(f"covariate_significant: {term}", stage, ALL, share, f"{note}, {record['n']} patients"))
            middle = float(np.median(known))
            rows.append(_row(f"covariate_effect: {term}", stage, ALL, middle, "median absolute partial correlation"))
    kept = record["kept"][np.isfinite(record["kept"])]
    if not len(kept):
        reason = (
            "no feature has a significant effect before"
            if np.isfinite(record["effect_before"]).any()
            else f"too few cases ({record['n']}), or the batches tell it without rest"
        )
        rows.append(_row(f"covariate_kept: {term}", "after", ALL, float("nan"), f"not estimable: {reason}"))
        return rows
    hits, n = int(kept.sum()), len(kept)
    note = f"{hits} of {n} features with an effect within batches before keep its sign and significance"
    rows.append(_row(f"covariate_kept: {term}", "after", ALL, hits / n, note))
    return rows
