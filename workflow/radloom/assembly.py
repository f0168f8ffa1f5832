"""Joins what the statistical steps read: features of cases x ROIs, columns of the cohort, columns of the patients."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from radloom.batches import batch_columns
from radloom.cohort import is_missing
from radloom.errors import CohortError

ID_COLUMNS = ("case_id", "patient_id", "centre", "roi")
"""Cells of a text table that mean "not known". "None" is a word."""

ANY_ROI = "ROI"

VOLUME = re.compile(r"(^|_|\.)(mesh|voxel)_?volume($|_|\.)", re.IGNORECASE)
"""A feature that is the volume of the ROI, whatever wrote the table."""

MOST_LEVELS = 10
"""A column of more different words is free text or names, not a covariate."""


def listed(items: Iterable[object], limit: int = 5) -> str:
    """The first few items and how many there are in all, for a message."""
    names = [str(item) for item in items]
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown}, ... ({len(names)} in all)"


def is_numeric(column: pd.Series) -> bool:
    """Whether the values of a column, by case, are numbers and not words (true and false count as words).

    Raises CohortError, with the column and the cases, where some values are numbers and some are not: one mistyped
    cell would otherwise turn a number into as many categories as it has values.
    """
    if pd.api.types.is_bool_dtype(column):
        return False
    present = column.dropna()
    read = pd.to_numeric(present, errors="coerce").notna().to_numpy()
    if read.all() or not read.any():
        return bool(len(present)) and bool(read.all())
    # The cells themselves are not shown: they may be private.
    words = 2 * int(read.sum()) >= len(read)
    cases = present.index[~read if words else read]
    raise CohortError(
        f"the column {column.name!r} has numbers and words: {len(cases)} of {len(present)} values are "
        f"{'no numbers' if words else 'numbers'}, in {listed(cases)}. Correct or empty these cells, or write words in "
        "all (such as T1, T4a)"
    )


def levels_of(column: pd.Series) -> list[str]:
    """The different words of a column, sorted. Raises CohortError for more than MOST_LEVELS."""
    levels = sorted(column.dropna().astype(str).unique())
    if len(levels) > MOST_LEVELS:
        raise CohortError(
            f"the column {column.name!r} has {len(levels)} different words, a covariate may have {MOST_LEVELS}. "
            "Put them into fewer categories, or leave the column out"
        )
    return levels


@dataclass(frozen=True)
class CohortTables:
    """The tables that harmonisation and models start from.

    `features`: one row a case and ROI, the columns of ID_COLUMNS, then float64 features. `cases`: text columns of
    the cohort, by case_id. `patients`: text columns of the clinical table, by patient_id. `stability`: the table of the
    step `stability`, where a model filters by it.
    """

    features: pd.DataFrame
    cases: pd.DataFrame
    patients: pd.DataFrame
    stability: pd.DataFrame | None = None

    @property
    def feature_names(self) -> list[str]:
        """Names of the feature columns, in order."""
        return [str(name) for name in self.features.columns if name not in ID_COLUMNS]

    def column(self, name: str, rows: pd.DataFrame) -> pd.Series:
        """A column of the clinical table or else of the cohort, by case_id, for rows of `features`.

        Values are text, NaN where nothing is known. Raises CohortError if no table has the column.
        """
        if name in rows.columns and name in ID_COLUMNS:
            values = rows[name].to_numpy(dtype=object)
        elif name in self.patients.columns:
            values = self.patients[name].reindex(rows["patient_id"]).to_numpy(dtype=object)
        elif name in self.cases.columns:
            values = self.cases[name].reindex(rows["case_id"]).to_numpy(dtype=object)
        else:
            known = sorted({*map(str, self.patients.columns), *map(str, self.cases.columns)})
            raise CohortError(
                f"there is no column {name!r} in the cohort or the clinical table; there are: {listed(known, 30)}"
            )
        text = pd.Series(values, index=pd.Index(rows["case_id"], name="case_id"), name=name, dtype=object)
        return text.mask(text.map(_unknown), np.nan)

    def of_roi(self, roi: str | None) -> pd.DataFrame:
        """Rows of one ROI; without a name, of the only one. Raises CohortError where that is not clear."""
        rois = list(dict.fromkeys(self.features["roi"]))
        if roi is None and len(rois) > 1:
            raise CohortError(f"model.roi must say which ROI the models use: there are {listed(rois)}")
        if roi is not None and roi not in rois:
            raise CohortError(f"there are no features of the ROI {roi!r} (model.roi); there are {listed(rois)}")
        return self.features[self.features["roi"] == (roi or rois[0])]

    def of_cases(self, roi: str | None, cases: pd.Index) -> pd.DataFrame:
        """Rows of one ROI (see `of_roi`) for these cases, in their order and with their names as index."""
        return self.of_roi(roi).set_index("case_id", drop=False).loc[cases]


def _unknown(cell: object) -> bool:
    return not isinstance(cell, str) or is_missing(cell)


def read_text_table(path: Path) -> pd.DataFrame:
    """A CSV or TSV file with all cells as text, NaN where a cell means "not known"."""
    separator = "\t" if ".tsv" in path.suffixes else ","
    table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    return table.mask(table.map(_unknown))


def read_features(path: Path) -> pd.DataFrame:
    """A feature table (CSV, TSV, Parquet; bit-exact), identifying columns as text."""
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
    else:
        separator = "\t" if ".tsv" in path.suffixes else ","
        text = dict.fromkeys(ID_COLUMNS, str)
        table = pd.read_csv(path, sep=separator, dtype=text, float_precision="round_trip")
    return table


def read_tables(inputs: Mapping[str, Path]) -> CohortTables:
    """The tables that the step before has written."""
    features = read_features(inputs["tables/features_raw.parquet"])
    cases = read_text_table(inputs["tables/cohort.csv"]).set_index("case_id")
    clinical = inputs.get("tables/clinical.csv")
    patients = (
        read_text_table(clinical).set_index("patient_id")
        if clinical is not None and clinical.exists()
        else pd.DataFrame(index=pd.Index([], name="patient_id"))
    )
    return CohortTables(features, cases, patients, read_stability(inputs.get("tables/stability.csv")))


def read_stability(path: Path | None) -> pd.DataFrame | None:
    """The table of the step `stability`, bit-exact, its texts as text; None without a path."""
    if path is None:
        return None
    text = dict.fromkeys(("feature", "roi", "source", "icc", "scope", "centre", "note"), str)
    numbers = ["estimate", "ci_low", "ci_high"]
    table = pd.read_csv(
        path, dtype=text, keep_default_na=False, na_values={n: [""] for n in numbers}, float_precision="round_trip"
    )
    missing = [name for name in (*text, *numbers) if name not in table.columns]
    if missing:
        raise CohortError(f"the table of the features' stability lacks the columns {listed(missing)}")
    return table


def read_by_hand(
    features_path: Path, clinical_path: Path | None, centre: str | None, described: Collection[str] = ()
) -> CohortTables:
    """Tables made elsewhere: a feature table with case_id or patient_id, and a table to join by one of them.

    `centre` names the column, of either table, that is taken as centre. `described` names what describes the case
    (endpoint, batch, covariates, clinical predictors): such columns of the feature table, and those that are no
    numbers, are no features but columns of the cohort; where both tables have one, the clinical table's counts.
    Raises CohortError where the tables can't be joined, and for a feature that is also a column of the clinical table.
    """
    features = read_features(features_path)
    if "case_id" not in features.columns:
        if "patient_id" not in features.columns:
            raise CohortError("the feature table needs a column case_id or patient_id")
        features = features.assign(case_id=features["patient_id"])
    if "patient_id" not in features.columns:
        features = features.assign(patient_id=features["case_id"])
    if "roi" not in features.columns:
        features = features.assign(roi=ANY_ROI)
    repeated = features.duplicated(["case_id", "roi"])
    if repeated.any():
        raise CohortError(f"cases occur twice in the feature table: {listed(features['case_id'][repeated])}")
    patients = pd.DataFrame(index=pd.Index([], name="patient_id"))
    cases = pd.DataFrame(index=pd.Index(features["case_id"].unique(), name="case_id"))
    no_features = {*described, *([centre] if centre else [])}
    if clinical_path is not None:
        table = read_text_table(clinical_path)
        keys = [key for key in ("patient_id", "case_id") if key in table.columns]
        if not keys:
            raise CohortError("the clinical or batch table needs a column patient_id or case_id")
        key = keys[0]
        if table[key].duplicated().any():
            twice = table[key][table[key].duplicated()]
            raise CohortError(f"{key} occurs twice in the clinical or batch table: {listed(twice)}")
        if key == "patient_id":
            patients = table.set_index(key)
        else:
            cases = table.set_index(key)
        absent = features[key][~features[key].isin(table[key])]
        if len(absent):
            raise CohortError(f"no row of the clinical or batch table is for {listed(absent.unique())}")
        refuse_shared_columns(
            [
                name
                for name in features.columns
                if name not in no_features and pd.api.types.is_numeric_dtype(features[name])
            ],
            table.columns,
        )
    further = [
        name
        for name in features.columns
        if name not in ID_COLUMNS and (name in no_features or not pd.api.types.is_numeric_dtype(features[name]))
    ]
    for name in no_features.intersection(further):
        varies = features.groupby("case_id")[name].nunique(dropna=False) > 1
        if varies.any():
            raise CohortError(
                f"the column {name!r} of the feature table differs between ROIs of {listed(varies.index[varies])}"
            )
    if further:
        extra = features.drop_duplicates("case_id").set_index("case_id")[further].astype(str)
        cases = cases.join(extra[[name for name in further if name not in cases.columns]])
    tables = CohortTables(features.drop(columns=further), cases, patients)
    if centre is None:
        placed = features["centre"] if "centre" in features.columns else pd.Series("all", index=features.index)
    else:
        placed = pd.Series(tables.column(centre, features).to_numpy(), index=features.index)
    numbers = tables.feature_names
    ordered = features[["case_id", "patient_id"]].assign(centre=placed, roi=features["roi"])
    return CohortTables(pd.concat([ordered, features[numbers].astype(np.float64)], axis=1), cases, patients)


def refuse_shared_columns(features: Iterable[str], clinical: Iterable[str]) -> None:
    """Raise CohortError if a feature has the name of a column of the clinical table: an outcome could be a predictor.

    Identifying columns don't count.
    """
    known = {*clinical} - {*ID_COLUMNS}
    shared = [name for name in features if name in known]
    if shared:
        raise CohortError(
            f"columns stand both in the feature table and in the clinical table: {listed(shared, 20)}. As features "
            "they would be predictors: delete them from the feature table"
        )


@dataclass(frozen=True)
class ModelData:
    """Cases of a model, one a patient, sorted by case_id, which is the index of every table.

    `features` and `clinical` are predictors, NaN where nothing is known; words among the clinical ones are
    categories, not yet coded; `metadata` has the batches and the covariates of the harmonisation, `batch` names the
    first of them. `volume` is the ROI's volume as a feature gives it. `notes` tell what was left out.
    """

    patients: pd.Series
    centres: pd.Series
    features: pd.DataFrame
    clinical: pd.DataFrame
    metadata: pd.DataFrame
    batch: str
    notes: tuple[str, ...] = ()
    volume: np.ndarray | None = None

    def take(self, chosen: np.ndarray) -> ModelData:
        """Some of the cases (a mask)."""
        tables = ("patients", "centres", "features", "clinical", "metadata")
        volume = None if self.volume is None else self.volume[chosen]
        return replace(self, **{name: getattr(self, name)[chosen] for name in tables}, volume=volume)

    @property
    def batches(self) -> np.ndarray:
        """The batch of each case."""
        return self.metadata[self.batch].astype(str).str.strip().to_numpy(dtype=object)


def type_predictors(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of text as predictors: numbers as float64, words as categories with their levels in sorted order.

    What is missing stays so. Raises CohortError for a column without any value, of numbers and words, or of too many
    words.
    """
    columns: dict[str, pd.Series] = {}
    for name in table.columns:
        column = table[name]
        if not column.notna().any():
            raise CohortError(f"the column {name!r} (analysis_plan.covariates) is empty for all cases of the model")
        if is_numeric(column):
            columns[str(name)] = pd.to_numeric(column, errors="coerce").astype(np.float64)
        else:
            text = column.astype(str).where(column.notna())
            columns[str(name)] = text.astype(pd.CategoricalDtype(levels_of(column)))
    return pd.DataFrame(columns, index=table.index)


def code_words(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers as they are, categories against their first level: a column `column[level]` for each other one.

    No category may be missing.
    """
    columns: dict[str, pd.Series] = {}
    for name in table.columns:
        column = table[name]
        if not isinstance(column.dtype, pd.CategoricalDtype):
            columns[str(name)] = column
            continue
        for level in column.cat.categories[1:]:
            columns[f"{name}[{level}]"] = (column == level).astype(np.float64)
    return pd.DataFrame(columns, index=table.index)


def select_model_rows(tables: CohortTables, roi: str | None, problems: dict[str, list[str]]) -> pd.DataFrame:
    """Rows of the feature table that a model uses: one ROI, no case with a problem, one case a patient.

    `problems` lists the cases that have one, by problem; patients with several cases are added to it.
    """
    bad = {case for cases in problems.values() for case in cases}
    rows = tables.of_roi(roi)
    rows = rows[~rows["case_id"].isin(bad)]
    later = rows["patient_id"].duplicated()
    if later.any():
        key = "further cases of a patient, of whom the first in the cohort sheet is used"
        problems[key] = list(rows["case_id"][later])
    return rows[~later].sort_values("case_id", kind="stable")


def assemble(
    tables: CohortTables, params: Mapping[str, Mapping[str, Any]], problems: dict[str, list[str]]
) -> ModelData:
    """The cases and predictors of a model, by the sections `model` and `harmonize` of the configuration.

    `problems` lists cases that the endpoint rules out, by problem, and is added to. Raises CohortError if no case or
    no feature is left.
    """
    model, combat = params["model"], params["harmonize"]
    rows = select_model_rows(tables, model["roi"], problems)
    if combat["small_batch"] == "exclude":
        batch = tables.column(batch_columns(combat)[0], rows).astype(str).str.strip()
        small = (batch.map(batch.value_counts()) < combat["min_batch_size"]).to_numpy()
        if small.any():
            problems["cases of small batches (harmonize.small_batch: exclude)"] = list(rows["case_id"][small])
            rows = rows[~small]
    names = [name for name in tables.feature_names if any(fnmatchcase(name, pattern) for pattern in model["features"])]
    if not names:
        raise CohortError(f"no feature matches model.features ({listed(model['features'])})")
    if rows.empty:
        reasons = "; ".join(f"{problem}: {len(cases)}" for problem, cases in problems.items() if cases)
        raise CohortError(f"no case is left for the model ({reasons or 'the feature table is empty'})")
    notes: tuple[str, ...] = ()
    if model.get("min_icc") is not None:
        roi = str(rows["roi"].iloc[0])
        names, note = stable_features(tables.stability, roi, names, model["min_icc"], model["icc_bound"])
        notes = (note,)
    index = pd.Index(rows["case_id"], name="case_id")
    covariates = params["analysis_plan"]["covariates"]
    words = pd.DataFrame({name: tables.column(name, rows) for name in covariates}, index=index)
    wanted = dict.fromkeys([*batch_columns(combat), *combat["covariates"]])
    metadata = pd.DataFrame({name: tables.column(name, rows) for name in wanted}, index=index)
    for name in combat["covariates"]:
        if not is_numeric(metadata[name]):
            levels_of(metadata[name])
    return ModelData(
        patients=pd.Series(rows["patient_id"].to_numpy(), index=index),
        centres=pd.Series(rows["centre"].astype(str).to_numpy(), index=index),
        features=rows[names].set_axis(index, axis=0),
        clinical=type_predictors(words),
        metadata=metadata,
        batch=batch_columns(combat)[0],
        notes=notes,
        volume=roi_volume(rows),
    )


def roi_volume(rows: pd.DataFrame) -> np.ndarray | None:
    """The ROI's volume of each row of a feature table, as a feature gives it; None where there is no such feature."""
    named = sorted(str(name) for name in rows.columns if VOLUME.search(str(name)))
    first = next((name for name in named if "mesh" in name.lower()), named[0] if named else None)
    return None if first is None else rows[first].to_numpy(dtype=np.float64)


# The coefficient that the filter looks at in each source: real repeats must agree in value, not only in order.
FILTERED_BY = {"perturbation": "ICC(1,1)", "repeats": "ICC(2,1)"}


def stable_features(
    table: pd.DataFrame | None, roi: str, names: list[str], least: float, bound: str
) -> tuple[list[str], str]:
    """Those of `names` whose stability over all cases is at least `least`, and a sentence that tells how many are not.

    table: that of the step `stability`. bound: "lower" for the lower end of the 95 % interval, else the estimate. Where
    there are perturbations and real repeats a feature must pass both. One without a coefficient is left out: what is
    not known to be stable isn't. Neither table nor filter knows the outcome. Raises CohortError where the table has
    nothing of the ROI, or no feature passes.
    """
    if table is None:
        raise CohortError("model.min_icc needs the table of the features' stability (perturb.count, or repeats)")
    own = table[(table["roi"] == roi) & (table["scope"] == "all")]
    column = "ci_low" if bound == "lower" else "estimate"
    known = {
        source: own[(own["source"] == source) & (own["icc"] == form)].set_index("feature")[column].reindex(names)
        for source, form in FILTERED_BY.items()
        if (own["source"] == source).any()
    }
    if not known:
        raise CohortError(f"model.min_icc: the table of the features' stability has nothing of the ROI {roi!r}")
    found = pd.DataFrame(known)
    unknown = found.isna().any(axis=1)
    below = ~unknown & (found < least).any(axis=1)
    kept = [name for name in names if not unknown[name] and not below[name]]
    what = f"{'the lower end of the 95 % interval of ' if bound == 'lower' else ''}"
    what += " and ".join(f"{FILTERED_BY[source]} ({source})" for source in known)
    told = (
        f"{len(names) - len(kept)} of {len(names)} features left out by model.min_icc {least:g} ({what}): "
        f"{int(below.sum())} below, {int(unknown.sum())} without a coefficient"
    )
    if not kept:
        raise CohortError(f"no feature is stable enough for the model: {told}. Lower model.min_icc, or add cases")
    return kept, told


def binary(column: pd.Series) -> np.ndarray:
    """A column of 0 and 1 as float64; NaN for anything else."""
    number = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    return np.where(np.isin(number, (0.0, 1.0)), number, np.nan)


def problem_messages(problems: Mapping[str, list[str]]) -> list[str]:
    """One message a problem, with the cases that a model left out for it."""
    return [
        f"{len(cases)} cases left out of the model, {problem}: {listed(cases, 20)}"
        for problem, cases in problems.items()
        if cases
    ]
