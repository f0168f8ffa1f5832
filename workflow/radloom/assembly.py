"""Joins what the statistical steps read: features of cases x ROIs, columns of the cohort, columns of the patients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from radloom.errors import CohortError

ID_COLUMNS = ("case_id", "patient_id", "centre", "roi")
MISSING = ["", "NA", "N/A", "NaN", "nan", "na", "null", "."]
"""Cells of a text table that mean "not known". "None" is a word."""

ANY_ROI = "ROI"


def listed(items: Iterable[object], limit: int = 5) -> str:
    """The first few items and how many there are in all, for a message."""
    names = [str(item) for item in items]
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown}, ... ({len(names)} in all)"


def is_numeric(column: pd.Series) -> bool:
    """Whether every value that is there can be read as a number (true and false count as words)."""
    if pd.api.types.is_bool_dtype(column):
        return False
    present = column.dropna()
    return bool(len(present)) and bool(pd.to_numeric(present, errors="coerce").notna().all())


@dataclass(frozen=True)
class CohortTables:
    """The tables that harmonisation and models start from.

    `features`: one row a case and ROI, the columns of ID_COLUMNS, then float64 features. `cases`: text columns of
    the cohort, by case_id. `patients`: text columns of the clinical table, by patient_id.
    """

    features: pd.DataFrame
    cases: pd.DataFrame
    patients: pd.DataFrame

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
        return text.where(~text.isin(MISSING), np.nan)

    def of_roi(self, roi: str | None) -> pd.DataFrame:
        """Rows of one ROI; without a name, of the only one. Raises CohortError where that is not clear."""
        rois = list(dict.fromkeys(self.features["roi"]))
        if roi is None and len(rois) > 1:
            raise CohortError(f"model.roi must say which ROI the models use: there are {listed(rois)}")
        if roi is not None and roi not in rois:
            raise CohortError(f"there are no features of the ROI {roi!r} (model.roi); there are {listed(rois)}")
        return self.features[self.features["roi"] == (roi or rois[0])]


def read_text_table(path: Path) -> pd.DataFrame:
    """A CSV or TSV file with all cells as text, NaN where a cell means "not known"."""
    separator = "\t" if ".tsv" in path.suffixes else ","
    return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, na_values=MISSING)


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
    return CohortTables(features, cases, patients)


def read_by_hand(features_path: Path, clinical_path: Path | None, centre: str | None) -> CohortTables:
    """Tables made elsewhere: a feature table with case_id or patient_id, and a table to join by one of them.

    `centre` names the column, of either table, that is taken as centre. Columns of the feature table that are
    no numbers count as columns of the cohort. Raises CohortError where the tables can't be joined.
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
    further = [
        name
        for name in features.columns
        if name not in ID_COLUMNS and (name == centre or not pd.api.types.is_numeric_dtype(features[name]))
    ]
    if further:
        extra = features.drop_duplicates("case_id").set_index("case_id")[further].astype(str)
        cases = cases.join(extra[[name for name in further if name not in cases.columns]])
    tables = CohortTables(features.drop(columns=further), cases, patients)
    if centre is None:
        placed = features["centre"] if "centre" in features.columns else pd.Series("all", index=features.index)
    else:
        placed = pd.Series(tables.column(centre, features).to_numpy(), index=features.index)
    numbers = [name for name in tables.feature_names if name != centre]
    ordered = features[["case_id", "patient_id"]].assign(centre=placed, roi=features["roi"])
    return CohortTables(pd.concat([ordered, features[numbers].astype(np.float64)], axis=1), cases, patients)


@dataclass(frozen=True)
class ModelData:
    """Cases of a model, one a patient, sorted by case_id, which is the index of every table.

    `features` and `clinical` are predictors, NaN where nothing is known; `metadata` has the batch and the
    covariates of ComBat.
    """

    patients: pd.Series
    centres: pd.Series
    features: pd.DataFrame
    clinical: pd.DataFrame
    metadata: pd.DataFrame
    batch: str

    @property
    def batches(self) -> np.ndarray:
        """The batch of each case."""
        return self.metadata[self.batch].astype(str).str.strip().to_numpy(dtype=object)


def encode_predictors(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of text as predictors: numbers as they are, words against their first level in sorted order.

    A level's column is named `column[level]`. What is missing stays NaN, in every column of a word. Raises
    CohortError for a column without any value.
    """
    columns: dict[str, pd.Series] = {}
    for name in table.columns:
        column = table[name]
        if not column.notna().any():
            raise CohortError(f"the column {name!r} (model.clinical) is empty for all cases of the model")
        if is_numeric(column):
            columns[str(name)] = pd.to_numeric(column, errors="coerce").astype(np.float64)
            continue
        levels = sorted(column.dropna().astype(str).unique())
        for level in levels[1:]:
            coded = (column.astype(str) == level).astype(np.float64)
            columns[f"{name}[{level}]"] = coded.where(column.notna())
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
        batch = tables.column(combat["batch"], rows).astype(str).str.strip()
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
    index = pd.Index(rows["case_id"], name="case_id")
    words = pd.DataFrame({name: tables.column(name, rows) for name in model["clinical"]}, index=index)
    wanted = dict.fromkeys([combat["batch"], *combat["covariates"]])
    return ModelData(
        patients=pd.Series(rows["patient_id"].to_numpy(), index=index),
        centres=pd.Series(rows["centre"].astype(str).to_numpy(), index=index),
        features=rows[names].set_axis(index, axis=0),
        clinical=encode_predictors(words),
        metadata=pd.DataFrame({name: tables.column(name, rows) for name in wanted}, index=index),
        batch=combat["batch"],
    )


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
