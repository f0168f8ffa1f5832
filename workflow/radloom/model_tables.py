"""The tables of the models: what each model writes, and what the report joins."""

from radloom.sample_size import COLUMNS as SAMPLE_SIZE

_KEYS = ["model", "arm", "split"]
_INTERVAL = ["estimate", "ci_low", "ci_high"]
_COUNTS = ["n", "events"]
PLAN = "analysis_plan"

MODEL_TABLES = {
    "coefficients": [
        "model",
        "arm",
        "term",
        "coefficient",
        "hazard_or_odds_ratio",
        "mean",
        "sd",
        "selected_in_folds",
        "selection_frequency",
        "volume_correlation",
        "override",
        PLAN,
    ],
    "performance": [
        *_KEYS,
        "centre",
        "subgroup",
        "metric",
        "horizon",
        *_INTERVAL,
        "prediction_low",
        "prediction_high",
        *_COUNTS,
        "leads",
        "status",
        "note",
        PLAN,
    ],
    "predictions": [
        *_KEYS,
        "case_id",
        "patient_id",
        "centre",
        "fold",
        "risk",
        "horizon",
        "probability",
        "time",
        "event",
        "outcome",
        PLAN,
    ],
    "inference": [
        "model",
        "term",
        "coefficient",
        "se",
        "hazard_or_odds_ratio",
        "ci_low",
        "ci_high",
        "z",
        "p",
        "method",
        *_COUNTS,
        "note",
        PLAN,
    ],
    "ph_test": ["model", "arm", "term", "transform", "chi2", "df", "p", PLAN],
    "decision_curve": [*_KEYS, "horizon", "threshold", "strategy", *_INTERVAL, *_COUNTS, PLAN],
    "calibration_curve": [*_KEYS, "horizon", "group", "predicted", "observed", "ci_low", "ci_high", *_COUNTS, PLAN],
    "cumulative_incidence": ["cause", "group", "time", "at_risk", *_INTERVAL, PLAN],
    "sample_size": [*SAMPLE_SIZE, PLAN],
}
"""Columns of each table, in order; a model has those that concern it."""
