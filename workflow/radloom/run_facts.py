"""What is known of a run, looked up in one place: settings as they were used, and figures from the tables.

Whatever is not known is None, empty, or a default that is stated: the sentences that are made of it (`methods_text`,
`checklist_answers`) then leave it out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from radloom.codebook import describe
from radloom.model_tables import MODEL_TABLES, PLAN
from radloom.report_sections import Material
from radloom.report_view import count, listed, median_range, numbers

MOST_NAMES = 12
"""More centres, batches or columns than this are counted, not named."""

SCANNER_COLUMNS: dict[str, tuple[str, ...]] = {
    "scanner": ("manufacturer", "vendor", "scanner"),
    "scanner model": ("scanner_model", "model_name"),
    "tube voltage": ("kvp", "tube_voltage"),
    "tube current": ("tube_current", "tube_current_ma"),
    "exposure": ("exposure", "exposure_mas", "mas"),
    "kernel": ("kernel", "convolution_kernel"),
    "reconstruction": ("reconstruction", "reconstruction_algorithm"),
    "slice thickness": ("slice_thickness",),
    "contrast": ("contrast", "contrast_agent", "phase"),
}
"""Columns of the acquisition table or the cohort sheet that tell how a scan was acquired."""

ALL, POOLED, WORST = "all", "random effects", "worst"
"""What the column `centre` of the performance has beside the centres (an empty cell is all of them)."""

COMBINED = ("", ALL, POOLED, WORST)

# What the model's description and ComBat's parameters call what the configuration calls otherwise.
_RECORDED_AS = {"penalty": "penalty_rule", "covbat_variance": "variance"}


def by_count(values: Sequence[Any], most: int = MOST_NAMES) -> str:
    """Different values in the order in which they come, each with how often: `A (20), B (12)`."""
    sizes = pd.Series(list(values), dtype=object).value_counts(sort=False)
    return listed((f"{name} ({n})" for name, n in sizes.items()), most)


def many(value: Any) -> list[Any]:
    """A setting that may be one value, several or none, as a list; of a mapping its keys."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple | Mapping) else [value]


NOT_ESTIMABLE = "not estimable"


def _settings_of(combat: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a file of ComBat's parameters; what is CovBat's says so by its format alone."""
    told = dict(combat.get("settings", {}))
    kind = str(combat.get("format", ""))
    method = "covbat" if "covbat" in kind else "combat" if "combat" in kind else None
    return told if "method" in told or method is None else told | {"method": method}


@dataclass(frozen=True)
class RunFacts:
    """The material of a report with the look-ups that sentences about the run need."""

    material: Material

    # ----------------------------------------------------------------- settings

    def setting(self, section: str, key: str, default: Any = None) -> Any:
        """A setting as the steps used it, else as it is configured, else the default; null counts as not set."""
        for step in self.material.provenance:
            params: Mapping[str, Any] = step.get("params", {})
            of_section = params.get(section)
            # A step of cases has its own section's keys, one of the cohort has sections, and both may follow others'.
            if step["step"] == section and key in params:
                value = params[key]
            elif isinstance(of_section, Mapping) and key in of_section:
                value = of_section[key]
            else:
                value = params.get(f"{section}.{key}")
            if value is not None:
                return value
        configured = self.material.setting(section, key)
        known = self._recorded(section, key) if configured is None else configured
        return default if known is None else known

    def _recorded(self, section: str, key: str) -> Any:
        """What ComBat's parameters and the models' descriptions say of a setting, for a report made by hand."""
        told: list[Mapping[str, Any]]
        if section == "harmonize":
            told = [_settings_of(one) for one in self.material.combat.values()]
        elif section.startswith("model_"):
            told = [self.material.models.get(section.removeprefix("model_"), {})]
        elif section == "model":
            told = list(self.material.models.values())
        else:
            told = []
        name = _RECORDED_AS.get(key, key)
        return next((one[name] for one in told if one.get(name) is not None), None)

    def planned(self, key: str) -> Any:
        """What the plan of the analysis says of the endpoint, arms, metrics and so on; None where it isn't known."""
        return self.setting("analysis_plan", key)

    def warned(self, step: str) -> list[str]:
        """What a step of the whole cohort warned of, each once."""
        own = (one.get("warnings", []) for one in self.material.provenance if one["step"] == step)
        return list(dict.fromkeys(str(message) for messages in own for message in messages))

    def ran(self, step: str) -> bool:
        """Whether a step is known to have run."""
        return any(one["step"] == step for one in self.material.provenance)

    def resource(self, step: str, name: str) -> Mapping[str, Any]:
        """What a step's parameter file or net says (`radloom.resource_facts`); empty where it isn't known.

        With several extractions it is the one that the statistics use.
        """
        for one in self.material.provenance:
            if one["step"] == step:
                found: Mapping[str, Any] = one.get("resources", {})
                keys = [f"{name}.{self.material.extraction}", name, *(k for k in found if k.startswith(f"{name}."))]
                return next((found[key] for key in keys if key in found), {})
        return {}

    def resources(self, step: str, name: str) -> list[Mapping[str, Any]]:
        """What all of a step's resources of a kind say, such as the nets of an ensemble, ordered by name."""
        found: Mapping[str, Any] = next(
            (one.get("resources", {}) for one in self.material.provenance if one["step"] == step), {}
        )
        return [found[key] for key in sorted(found) if key.partition(".")[0] == name]

    def versions(self) -> dict[str, dict[str, list[str]]]:
        """By package, by version: the steps that used it."""
        found: dict[str, dict[str, list[str]]] = {}
        for step in self.material.provenance:
            for package, version in step.get("versions", {}).items():
                found.setdefault(package, {}).setdefault(str(version), []).append(step["step"])
        return found

    def version(self, package: str) -> str:
        """A package with its version (`numpy 2.4.6`), or its name alone where the version isn't known."""
        return " ".join([package, *self.versions().get(package, {})][:2])

    # ------------------------------------------------------------------- cohort

    @cached_property
    def imaging(self) -> bool:
        """Whether this run read images itself, instead of a table of features."""
        return not self.material.acquisition.empty

    @cached_property
    def included(self) -> pd.DataFrame:
        """The included cases with the patients' clinical columns."""
        return self.material.included

    @cached_property
    def main_rows(self) -> pd.DataFrame:
        """Rows of the feature table of the ROI that the statistics use."""
        features = self.material.features
        return features[features["roi"] == self.material.main_roi] if len(features) else features

    @cached_property
    def exclusions(self) -> pd.DataFrame:
        """What was excluded, of further extractions nothing."""
        rows = self.material.exclusions
        if "extraction" in rows:
            rows = rows[~rows["extraction"].isin(self.material.further_extractions)]
        return rows

    def reason(self, text: str) -> str:
        """A reason for an exclusion without what is of one case alone: its figures and names."""
        return re.sub(r"(?<![\w.])-?\d+(\.\d+)?(?![\w])", "...", self.without_names(text))

    def without_names(self, text: str) -> str:
        """A text without names of cases and patients; a bracket that lists some of them goes as a whole."""
        names = {*self.material.cohort["case_id"], *self.material.cohort["patient_id"]} - {""}

        def is_name(word: str) -> bool:
            return word.strip(".,;:()'\"") in names

        text = re.sub(r" \(([^()]*)\)", lambda m: "" if any(map(is_name, m[1].split())) else m[0], text)
        return " ".join("..." if is_name(word) else word for word in text.split())

    @cached_property
    def batch_sizes(self) -> dict[str, int]:
        """Cases of each batch among those of the main ROI, in the cohort's order; empty where it isn't known."""
        if self.material.setting("harmonize", "batch") is None:
            told: Mapping[str, int] = self.material.combat.get(self.material.main_roi, {}).get("batch_sizes", {})
            return dict(told)
        known = self.material.batches(self.main_rows)
        order = dict.fromkeys([*self.material.batches(self.material.cohort), *known])
        return {str(name) or "not known": int((known == name).sum()) for name in order if (known == name).any()}

    @cached_property
    def batch_columns(self) -> list[str]:
        """The columns by which features are harmonised, in their order; empty where they aren't known."""
        return [str(name) for name in many(self.setting("harmonize", "batch"))]

    def values_of(self, column: str) -> list[str]:
        """The cells of a column of the cohort sheet or the clinical table, of the cases of the main ROI."""
        rows = self.included[self.included["case_id"].isin(set(self.main_rows["case_id"]))]
        return [str(cell) or "not known" for cell in rows[column]] if column in rows else []

    def acquired(self, what: str) -> str:
        """How often each value of a scanner's or protocol's column occurs, or its range; empty where there is none."""
        for table in (self.material.acquisition, self.included):
            for column in SCANNER_COLUMNS[what]:
                if column not in table or (table[column] == "").all():
                    continue
                known = table[column][table[column] != ""]
                missing = f", not known {len(table) - len(known)}" if len(known) < len(table) else ""
                values = numbers(known)
                if known.nunique() > MOST_NAMES and np.isfinite(values).all():
                    return f"{median_range(values)}{missing}"
                return f"{by_count(known)}{missing}"
        return ""

    # ----------------------------------------------------------------- features

    @cached_property
    def feature_counts(self) -> dict[str, dict[str, int]]:
        """By image type, by class: how many feature columns; an unknown name has the class and image type ""."""
        found: dict[str, dict[str, int]] = {}
        for name in self.material.feature_names:
            info = describe(name)
            classes = found.setdefault(info.image_type, {})
            classes[info.feature_class] = classes.get(info.feature_class, 0) + 1
        return found

    def has_class(self, name: str) -> bool:
        """Whether the table has features of a class of PyRadiomics."""
        return any(name in classes for classes in self.feature_counts.values())

    # ------------------------------------------------------------------- models

    def table(self, name: str, model: str = "") -> pd.DataFrame:
        """A table of the models or of the harmonisation as text, of one model where it is named; may have no rows."""
        rows: pd.DataFrame | None = getattr(self.material, name, None)
        if rows is None:
            rows = pd.DataFrame({column: pd.Series(dtype=str) for column in MODEL_TABLES.get(name, [])})
        return rows[rows["model"] == model] if model else rows

    def performance(self, model: str = "") -> pd.DataFrame:
        """The rows of the performance table, of one model where it is named, with all its columns."""
        rows = self.table("performance", model)
        missing = {name: "" for name in MODEL_TABLES["performance"] if name not in rows}
        return rows.assign(**missing) if missing else rows

    def estimates(self, model: str = "") -> pd.DataFrame:
        """The rows of the performance table that have an estimate."""
        rows = self.performance(model)
        return rows[rows["status"] != NOT_ESTIMABLE]

    @cached_property
    def plan_hashes(self) -> list[str]:
        """The hashes of the analysis plan in the tables and descriptions of the models."""
        tables = [self.table(name) for name in MODEL_TABLES]
        found = {str(cell) for table in tables if PLAN in table for cell in table[PLAN]}
        found |= {str(told.get(PLAN, "")) for told in self.material.models.values()}
        return sorted(found - {""})

    @cached_property
    def fitted(self) -> list[str]:
        """The models of which something could be estimated."""
        return list(dict.fromkeys([*self.estimates()["model"], *self.material.coefficients["model"]]))

    @cached_property
    def refused(self) -> dict[str, str]:
        """The models that were configured but not fitted, with the reason."""
        rows = self.material.performance
        others = rows[~rows["model"].isin(self.fitted)]
        return {str(model): str(part["note"].iloc[0]) for model, part in others.groupby("model", sort=False)}

    def size(self, model: str) -> tuple[int, int] | None:
        """Patients and events (or cases with the outcome) of a model; None where they aren't known."""
        told = self.material.models.get(model, {})
        if isinstance(told.get("n"), int) and isinstance(told.get("events"), int):
            return told["n"], told["events"]
        rows = self.performance(model)
        rows = rows[rows["centre"].isin(["", ALL]) & (rows["subgroup"] == "") & (rows["n"] != "")]
        rows = rows[rows["split"] != "locked-test"]
        # At a horizon the events are those up to it.
        rows = rows[rows["horizon"] == ""] if (rows["horizon"] == "").any() else rows
        if rows.empty:
            return None
        largest = rows.loc[numbers(rows["n"]).argmax() == np.arange(len(rows))].iloc[0]
        return int(float(largest["n"])), int(float(largest["events"] or 0))

    def arms(self, model: str = "") -> list[str]:
        """The arms of a model (or of all) that could be estimated."""
        return list(dict.fromkeys(self.estimates(model)["arm"]))

    @cached_property
    def harmonised_arms(self) -> list[str]:
        """The arms whose features were harmonised."""
        return [arm for arm in self.arms() if "combat" in arm]

    def notes(self, model: str = "", split: str = "", arm: str = "") -> list[str]:
        """Remarks of the performance table, each once; of a way of validation and of arms whose name has a part."""
        rows = self.performance(model)
        rows = rows[rows["split"] == split] if split else rows
        rows = rows[rows["arm"].str.contains(arm, regex=False)] if arm else rows
        return [note for note in dict.fromkeys(rows["note"]) if note]

    @cached_property
    def splits(self) -> list[str]:
        """The kinds of validation that have an estimate."""
        return [split for split in dict.fromkeys(self.estimates()["split"]) if split]

    @cached_property
    def metrics(self) -> list[str]:
        """The metrics that have an estimate."""
        return list(dict.fromkeys(self.estimates()["metric"]))

    def folds(self, model: str) -> int:
        """The folds of the cross-validation that there were; 0 where they aren't known."""
        rows = self.material.predictions
        rows = rows[rows["model"] == model]
        if "split" in rows:
            rows = rows[rows["split"] == "cross-validation"]
        return int(rows["fold"].nunique())

    def inner_folds(self, model: str) -> list[int]:
        """The different numbers of inner folds that chose a penalty, as the model's description has them."""
        found: set[int] = set()
        for arm in self.material.models.get(model, {}).get("arms", {}).values():
            if not isinstance(arm, Mapping):
                continue
            told = [arm.get("inner_folds"), *(fold.get("inner_folds") for fold in arm.get("folds", []))]
            found |= {n for n in told if isinstance(n, int)}
        return sorted(found)

    def candidates(self, model: str) -> int:
        """The most terms that an arm's model could choose from; 0 where it isn't known."""
        arms = self.material.models.get(model, {}).get("arms", {}).values()
        known = [arm.get("candidates") for arm in arms if isinstance(arm, Mapping)]
        return max((n for n in known if isinstance(n, int)), default=0)

    @cached_property
    def empty_cells(self) -> int:
        """Cells of the main ROI's features that could not be computed."""
        return int(np.isnan(self.main_rows[self.material.feature_names].to_numpy(dtype=np.float64)).sum())

    @cached_property
    def missing_covariates(self) -> dict[str, int]:
        """How many included patients lack each clinical predictor or covariate of the harmonisation, where any do."""
        people = self.included.drop_duplicates("patient_id")
        wanted = [*many(self.planned("covariates")), *many(self.setting("harmonize", "covariates"))]
        found = {name: int((people[name] == "").sum()) for name in dict.fromkeys(wanted) if name in people}
        return {name: n for name, n in found.items() if n}

    @cached_property
    def centres(self) -> list[str]:
        """The centres of the included cases."""
        return list(dict.fromkeys(self.included["centre"]))

    def told_centres(self) -> str:
        """The included cases by centre: `3 centres: A (20), B (20), C (20)`."""
        return f"{count(len(self.centres), 'centre')}: {by_count(self.included['centre'])}"
