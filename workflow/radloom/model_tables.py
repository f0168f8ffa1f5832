"""The tables of the models: what each model writes, and what the report joins."""

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
        "override",
    ],
    "performance": [
        "model",
        "arm",
        "split",
        "centre",
        "metric",
        "estimate",
        "ci_low",
        "ci_high",
        "n",
        "events",
        "status",
        "note",
    ],
    "predictions": [
        "model",
        "arm",
        "case_id",
        "patient_id",
        "centre",
        "fold",
        "risk",
        "probability",
        "time",
        "event",
        "outcome",
    ],
    "ph_test": ["model", "arm", "term", "chi2", "df", "p"],
}
"""Columns of each table, in order; a model has those that concern it."""
