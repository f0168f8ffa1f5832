"""The material of a report on a small made-up run, every part of which a test can change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from radloom.model_tables import MODEL_TABLES
from radloom.report_sections import Material
from radloom.run_facts import RunFacts

PATIENTS = 24
FEATURES = [
    "original_shape_MeshVolume",
    "original_firstorder_Mean",
    "original_glcm_Contrast",
    "wavelet-LLH_glcm_Contrast",
]
PARAMS: dict[str, Any] = {
    "report": {"title": "A cohort"},
    "harmonize": {
        "method": "combat", "covbat_variance": 0.95, "batch": "kernel", "covariates": ["age"],
        "missing_covariates": "impute", "parametric": True, "mean_only": False, "eb": True, "reference_batch": None,
        "min_batch_size": 5, "small_batch": "merge", "new_batch": "error", "exempt": [],
    },
    "analysis_plan": {
        "time": "days", "event": "died", "competing_event": None, "outcome": "remission", "horizons": [200],
        "covariates": ["age"], "strata": [], "cluster": None, "arms": ["clinical", "features", "features_combat"],
        "metrics": ["c_index", "auc"], "thresholds": [0.1, 0.2], "subgroups": [], "test_set": None,
        "open_test_set": False,
    },
    "model": {
        "roi": "tumour", "folds": 5, "seed": 7, "bootstraps": 200, "refits": 150, "max_correlation": 0.85,
        "max_terms": None, "transformation": "none", "min_events": 6, "min_icc": 0.75, "icc_bound": "lower",
        "extraction": None,
    },
    "model_cox": {"l1_ratio": 0.5, "penalty": "min", "recalibration": "none"},
    "model_logistic": {"l1_ratio": 1, "penalty": "min", "recalibration": "none"},
}  # fmt: skip
HASH = "e366f95dca44"
PARAMETER_FILE: dict[str, Any] = {
    "sha256": "12" * 32,
    "setting": {"binWidth": 20, "resegmentRange": [-150, 250], "distances": [1]},
    "image_types": {"Original": {}, "Wavelet": {"binWidth": 10, "wavelet": "haar"}},
    "features": {"shape": ["MeshVolume"], "firstorder": ["Mean"], "glcm": ["Contrast"]},
}
SPLITS = ("cross-validation", "leave-one-centre-out")


def provenance() -> list[dict[str, Any]]:
    """The steps of a run with everything on."""
    shared = {key: PARAMS[key] for key in ("harmonize", "analysis_plan", "model", "model_cox", "model_logistic")}
    params: dict[str, dict[str, Any]] = {
        "ingest": {"max_spacing": 10},
        "resample": {"spacing": [1, 1, 3], "interpolator": "bspline"},
        "calibrate": {"centres": {"B": {"drift": 0.01}}, "round_hu": True},
        "segment": {"source": "model", "device": "cpu"},
        "postprocess": {
            "closing_mm": 0, "opening_mm": 0, "fill_holes": True, "components": "largest", "min_volume_mm3": 0,
            "labels": {"tumour": {"closing_mm": 4}},
        },
        "extract": {"engine": "radloom", "min_voxels": 64, "ibsi": False, "outlier_sigma": None, "rois": []},
        "perturb": {"count": 10, "rotation": 13, "shift": 0.5, "volume": 0.2, "noise": 1, "contour": True},
        "sensitivity": {"bin_widths": [10, 50], "spacings": []},
        "tables": shared,
        "harmonize": shared,
        "model_cox": shared,
        "model_logistic": shared,
    }  # fmt: skip
    net = {
        "sha256": "34" * 32, "name": "liver_net", "classes": {"1": "tumour"}, "spacing": [1.5, 1.5],
        "hu_window": [-100, 200], "dice": {"tumour": {"mean": 0.87}}, "trained_on": "phantoms",
        "weights_sha256": "56" * 32,
    }  # fmt: skip
    resources = {"extract": {"params": PARAMETER_FILE}, "segment": {"model": net}}
    return [
        {
            "step": step, "params": own, "versions": {"python": "3.11", "numpy": "2.4.6", "torch": "2.13.0"},
            "code": f"{number:02d}" * 32, "resources": resources.get(step, {}),
        }
        for number, (step, own) in enumerate(params.items())
    ]  # fmt: skip


def with_settings(section: str, **changes: Any) -> dict[str, Any]:
    """Fields of the material with other settings of a section that the steps of the whole cohort share."""
    own = PARAMS[section] | changes
    steps = [
        one | {"params": one["params"] | {section: own}} if section in one["params"] else one for one in provenance()
    ]
    return {"params": PARAMS | {section: own}, "provenance": steps}


def planned(**changes: Any) -> dict[str, Any]:
    """Fields of the material with another plan of the analysis."""
    return with_settings("analysis_plan", **changes)


def _text(rows: list[dict[str, Any]], columns: list[str] | None = None) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=columns).fillna("")
    return table.map(lambda cell: cell if isinstance(cell, str) else repr(cell)).astype(str)


def model_table(name: str, *rows: dict[str, Any]) -> pd.DataFrame:
    """Rows of a table of the models, with all its columns, as text."""
    return _text([{"analysis_plan": HASH} | row for row in rows], MODEL_TABLES[name])


def estimate(metric: str, **changes: Any) -> dict[str, Any]:
    """A row of the performance table: an estimate of the features of the Cox model in cross-validation."""
    return {
        "model": "cox", "arm": "features", "split": SPLITS[0], "centre": "all", "subgroup": "", "metric": metric,
        "estimate": 0.7, "ci_low": 0.6, "ci_high": 0.8, "n": 22, "events": 12, "status": "estimable", "note": "",
    } | changes  # fmt: skip


def no_estimate(metric: str, note: str, **changes: Any) -> dict[str, Any]:
    """A row that says why there is none."""
    nothing = {"estimate": "", "ci_low": "", "ci_high": "", "status": "not estimable", "note": note}
    return estimate(metric) | nothing | changes


def performance_with(*rows: dict[str, Any]) -> pd.DataFrame:
    """The performance of `material`, and further rows."""
    return pd.concat([_performance(), model_table("performance", *rows)], ignore_index=True)


def _performance() -> pd.DataFrame:
    rows = []
    for split in SPLITS:
        for arm in ("clinical", "features", "features_combat"):
            where = {"split": split, "arm": arm}
            rows += [
                estimate("c_index", **where),
                estimate("uno_c", **where),
                estimate("c_index", **where, centre="A", n=11, events=6),
                no_estimate("c_index", "0 events", **where, centre="B"),
            ]
    few = "3 events among 22 cases, 6 needed"
    rows.append(no_estimate("auc", few, model="logistic", events=3))
    return model_table("performance", *rows)


def material(**changes: Any) -> Material:
    """A run of two centres with all parts: `changes` replaces fields of the material."""
    rng = np.random.default_rng(3)
    cases = [f"scan-{i:02d}" for i in range(PATIENTS)]
    centre = ["A", "B"] * (PATIENTS // 2)
    cohort = pd.DataFrame(
        {
            "case_id": cases, "patient_id": [f"patient-{i:02d}" for i in range(PATIENTS)], "centre": centre,
            "kernel": ["soft"] * 16 + ["sharp"] * 8,
            "status": ["excluded"] * 2 + ["included"] * (PATIENTS - 2), "n_rois": ["0"] * 2 + ["1"] * (PATIENTS - 2),
        }
    )  # fmt: skip
    clinical = pd.DataFrame(
        {
            "patient_id": cohort["patient_id"], "age": ["", *(str(50 + i) for i in range(1, PATIENTS))],
            "days": [str(100 + 10 * i) for i in range(PATIENTS)], "died": [str(i % 2) for i in range(PATIENTS)],
            "remission": ["1"] * 3 + ["0"] * (PATIENTS - 3),
        }
    )  # fmt: skip
    clinical.loc[5, "age"] = ""
    ids = pd.DataFrame({"case_id": cases, "patient_id": cohort["patient_id"], "centre": centre, "roi": "tumour"})[2:]
    features = pd.concat(
        [ids, pd.DataFrame(rng.normal(size=(len(ids), len(FEATURES))), columns=FEATURES, index=ids.index)], axis=1
    )
    features.loc[4, FEATURES[2]] = np.nan
    acquisition = _text(
        [
            {
                "case_id": case, "centre": c, "format": "dicom" if c == "A" else "nifti", "dtype": "int16",
                "spacing_x": 0.8, "spacing_y": 0.8, "spacing_z": 3.0 + (c == "B"), "size_x": 64, "size_y": 64,
                "size_z": 20, "hu_min": -1024, "hu_max": 900, "resampled_spacing_x": 1.0, "resampled_spacing_y": 1.0,
                "resampled_spacing_z": 3.0, "calibration_method": "phantom" if c == "A" else "drift",
                "calibration_slope": 1.0, "calibration_intercept": 0.0, "air_hu": -998.0, "air_voxels": 5000,
            }
            for case, c in zip(cases[1:], centre[1:], strict=True)
        ]
    )  # fmt: skip
    qc = _text(
        [
            {"case_id": case, "centre": c, "roi": "tumour", "step": "postprocess", "item": "volume_after_over_before",
             "value": 0.97, "warning": ""}
            for case, c in zip(cases[2:], centre[2:], strict=True)
        ]
    )  # fmt: skip
    stability = pd.DataFrame(
        [
            {"feature": name, "roi": "tumour", "source": source, "icc": form, "scope": "all", "centre": "",
             "estimate": 0.9, "ci_low": 0.8, "ci_high": 0.95, "n_cases": 22, "n_repeats": 10.0, "note": ""}
            for source, form in (("perturbation", "ICC(1,1)"), ("repeats", "ICC(2,1)"))
            for name in FEATURES
        ]
    )  # fmt: skip
    sensitivity = pd.DataFrame(
        {"roi": "tumour", "feature": FEATURES[1:3], "parameter": "bin_width", "setting": ["10", "50"], "baseline": "20"}
    )
    diagnostics = _text(
        [{"roi": "tumour", "feature": f, "batch_r2_before": 0.4, "batch_r2_after": 0.05} for f in FEATURES]
    )
    coefficients = model_table(
        "coefficients",
        *(
            {"model": "cox", "arm": "features_combat", "term": name, "coefficient": 0.2, "hazard_or_odds_ratio": 1.22,
             "mean": 1.0, "sd": 2.0, "selected_in_folds": 4, "override": "false"}
            for name in FEATURES[:2]
        ),
    )  # fmt: skip
    predictions = model_table(
        "predictions",
        *(
            {"model": "cox", "arm": "features", "split": SPLITS[0], "case_id": case, "fold": 1 + i % 5, "risk": 0.1,
             "time": 10, "event": 1}
            for i, case in enumerate(cases[2:])
        ),
    )  # fmt: skip
    exclusions = _text(
        [
            {"case_id": cases[0], "centre": "A", "roi": "", "step": "ingest", "reason": "the mask is empty",
             "way_out": "draw it"},
            {"case_id": cases[1], "centre": "B", "roi": "", "step": "extract",
             "reason": "the ROI of scan-01 has 34 voxels, at least 64 are needed", "way_out": "a larger ROI"},
        ]
    )  # fmt: skip
    fields: dict[str, Any] = {
        "params": PARAMS, "cohort": cohort, "clinical": clinical, "features": features, "exclusions": exclusions,
        "acquisition": acquisition, "qc": qc, "harmonized": features.copy(), "diagnostics": diagnostics,
        "coefficients": coefficients, "performance": _performance(), "predictions": predictions,
        "ph_test": model_table(
            "ph_test",
            {"model": "cox", "arm": "clinical", "term": "age", "transform": "km", "chi2": 1.0, "df": 1, "p": 0.3},
        ),
        "sensitivity": sensitivity, "provenance": provenance(), "stability": stability,
        "filters": {"cox": ["1 of 4 features left out by model.min_icc 0.75"], "logistic": []},
        "models": {
            "cox": {"n": 22, "events": 12, "analysis_plan": HASH, "arms": {
                    "features": {"inner_folds": 10, "candidates": 3, "folds": [{"inner_folds": 9}]}}},
            "logistic": {},
        },
        "combat": {"tumour": {"warnings": ["small batches: soft (14), sharp (8)"]}},
    }  # fmt: skip
    return Material(**(fields | changes))


def features_elsewhere() -> Material:
    """The same cohort when the features came as a table: no images, one centre, no models, no settings of steps."""
    full = material()
    rows = full.performance.iloc[:0]
    return replace(
        full,
        params={},
        acquisition=full.acquisition.iloc[:0],
        qc=full.qc.iloc[:0],
        exclusions=full.exclusions.iloc[:0],
        cohort=full.cohort.assign(centre="A", status="included"),
        features=full.features.assign(centre="A").rename(columns={name: f"x{i}" for i, name in enumerate(FEATURES)}),
        harmonized=None,
        diagnostics=None,
        coefficients=full.coefficients.iloc[:0],
        performance=rows,
        predictions=full.predictions.iloc[:0],
        ph_test=full.ph_test.iloc[:0],
        sensitivity=pd.DataFrame(columns=["roi"]),
        provenance=[],
        stability=None,
        filters={},
        models={},
        combat={},
    )


def facts(**changes: Any) -> RunFacts:
    """The facts of `material`."""
    return RunFacts(material(**changes))
