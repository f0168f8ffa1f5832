"""What every column of the models' tables means (`radloom.model_tables`), for the codebook: unit and meaning."""

from __future__ import annotations

from radloom.model_tables import PLAN

ONE = "1"

METRIC_DEFINITIONS = {
    "c_index": "Harrell's C: of the pairs of which it is known who had the event first, the share in which that one "
    "had the higher predicted risk; equal risks count 1/2; 0.5 is chance",
    "uno_c": "Uno's C: the same, pairs weighted by the inverse squared probability of being uncensored, up to the time "
    "at which fewer than a tenth would be uncensored; it doesn't depend on the censoring",
    "auc": "area under the ROC curve: of the pairs of a case with and one without the outcome, the share in which the "
    "first has the higher predicted risk; for survival cumulative/dynamic at the horizon (event by then against "
    "event-free beyond), weighted for censoring",
    "brier": "Brier score: mean squared difference of predicted risk and outcome (for survival at the horizon, "
    "weighted for censoring); 0 is best",
    "scaled_brier": "1 minus the Brier score over that of predicting everybody the risk of all these cases; 0 is no "
    "better than that, and it can be negative",
    "integrated_brier": "mean of the Brier score over 20 evenly spaced times up to the last horizon (trapezoidal rule)",
    "observed_expected": "observed risk (share; Kaplan-Meier at the horizon) over the mean predicted one; 1 is best",
    "calibration_in_the_large": "shift on the scale of the link (log odds; log cumulative hazard) that makes the mean "
    "predicted risk the observed one, the slope held at 1; 0 is best",
    "calibration_intercept": "the same shift with the slope held at its estimate",
    "calibration_slope": "slope of the outcome on the predictions' link, with an intercept (baseline hazard) for each "
    "fold; 1 is best, below 1 predictions are too extreme",
    "ici": "integrated calibration index: mean distance of the predicted risks from a smooth calibration curve "
    "(restricted cubic spline of three knots; Austin and Steyerberg 2019); 0 is best",
}
"""Every metric of performance.csv; discrimination may end in _within_centre."""

_METRIC = (
    "Measure of performance. "
    + ". ".join(f"{name}: {meaning}" for name, meaning in METRIC_DEFINITIONS.items())
    + ". With _within_centre: only pairs of one centre. Risks are compared within folds only."
)
_SPLIT = (
    "How cases were divided into those that a model was fitted to and those that it was tried on: cross-validation "
    "(grouped by patient, stratified by batch and outcome); leave-one-centre-out (each centre predicted by models of "
    "all others); locked-test (models of all other cases); optimism-corrected (performance in the cases of the fit, "
    "less its optimism in bootstrap samples, Harrell 1996)."
)
_INTERVAL = (
    "percentiles of a bootstrap of the predictions of held-out cases, patients drawn within each centre; models are "
    "not fitted again, so it leaves out the variance of folds and fits. Optimism-corrected: percentiles over bootstrap "
    "samples in which everything was fitted again, moved to the corrected estimate. Random effects: Hartung-Knapp"
)
_SHARED = {
    "model": ("", "Model: cox or logistic."),
    "arm": (
        "",
        "Predictors of the model: clinical (covariates of the plan), features (as extracted), features_combat "
        "(harmonised in each training set), features_centre (as extracted; the batch as stratum of a Cox model, as "
        "unpenalised covariate of a logistic one), features_combat+clinical.",
    ),
    "split": ("", _SPLIT),
    "n": (ONE, "Number of cases."),
    "events": (ONE, "Number of events (Cox) or of cases with the outcome (logistic)."),
    PLAN: ("", "First 12 digits of the SHA-256 of the section analysis_plan (but for open_test_set)."),
}
_HORIZON = ("", "Time up to which risks are meant, in the unit of the follow-up; empty where there is none.")
_TERM = ("", "Predictor: a feature, a column of the clinical table, or column[level] of one of words.")

MODEL_COLUMNS: dict[str, dict[str, tuple[str, str]]] = {
    "coefficients": {
        **_SHARED,
        "term": _TERM,
        "coefficient": (
            ONE,
            "Log hazard ratio (Cox) or log odds ratio (logistic) of one standard deviation more, in the penalised "
            "model of all cases: shrunk, without interval. 0: not in that model, but in one of a fold.",
        ),
        "hazard_or_odds_ratio": (ONE, "Exponential of the coefficient."),
        "mean": ("", "Mean of the predictor, by which it was centred; in the predictor's unit."),
        "sd": ("", "Standard deviation of the predictor, by which it was scaled; in the predictor's unit."),
        "selected_in_folds": (ONE, "In how many folds of the cross-validation the predictor had a coefficient."),
        "selection_frequency": (
            ONE,
            "Share of the bootstrap samples in whose model, everything fitted again, the predictor had a coefficient.",
        ),
        "volume_correlation": (
            ONE,
            "Spearman's correlation of the feature, as extracted, with the ROI's volume over all cases; empty for "
            "other predictors, and where no volume is known.",
        ),
        "override": ("", "Whether the model was fitted although there are too few events."),
    },
    "performance": {
        **_SHARED,
        "centre": (
            "",
            "Centre whose cases were judged; all: all cases together; random effects: the centres' estimates pooled "
            "(REML); worst: the worst centre, named in the note.",
        ),
        "subgroup": ("", "Group of cases that were judged, column: value; empty for all."),
        "metric": ("", _METRIC),
        "horizon": _HORIZON,
        "estimate": (ONE, "Its value, on cases that the model was not fitted to (but see optimism-corrected)."),
        "ci_low": (ONE, f"Lower end of its 95 % interval: {_INTERVAL}."),
        "ci_high": (ONE, f"Upper end of its 95 % interval: {_INTERVAL}."),
        "prediction_low": (
            ONE,
            "Lower end of the 95 % prediction interval of a further centre's value (random effects of 3 or more).",
        ),
        "prediction_high": (ONE, "Upper end of that interval."),
        "n": (ONE, "Number of cases that were judged; of worst and random effects those of all centres behind it."),
        "events": (ONE, "Events (up to the horizon, where there is one) or cases with the outcome among them."),
        "leads": (
            "",
            "yes: of discrimination the row to read first: pairs within centres where the centres' prevalence differs "
            "or the batch is a stratum, else all pairs.",
        ),
        "status": ("", "estimable or not estimable."),
        "note": ("", "Why it is not estimable, or what to keep in mind."),
    },
    "predictions": {
        **_SHARED,
        "fold": (
            "",
            "What judged the case: the fold, or the centre, that was left out; empty for the locked test set.",
        ),
        "risk": (ONE, "Linear predictor of the model that was fitted without the case; comparable within a fold only."),
        "horizon": _HORIZON,
        "probability": (
            ONE,
            "Predicted probability of the outcome (logistic) or of an event by the horizon, the first one of the plan "
            "(Cox); empty with competing events.",
        ),
        "time": ("", "Time to event or censoring, in the unit of the clinical table (Cox)."),
        "event": ("", "1 for an event, 0 for censoring (Cox)."),
        "outcome": ("", "Observed outcome, 0 or 1 (logistic)."),
    },
    "calibration_curve": {
        **_SHARED,
        "horizon": _HORIZON,
        "group": (ONE, "Fifth of the predicted risk, from 1 (lowest); cases of equal risk stay together."),
        "predicted": (ONE, "Mean predicted risk of the group."),
        "observed": (ONE, "Observed risk of the group: share with the outcome, or 1 - Kaplan-Meier at the horizon."),
        "ci_low": (ONE, "Lower end of its 95 % interval (Wilson; of survival log-log)."),
        "ci_high": (ONE, "Upper end of its 95 % interval."),
        "n": (ONE, "Cases of the group."),
        "events": (ONE, "Events in the group up to the horizon, or cases with the outcome."),
    },
    "decision_curve": {
        **_SHARED,
        "horizon": _HORIZON,
        "threshold": (ONE, "Risk from which on a case counts as treated."),
        "strategy": ("", "model: those at or above the threshold are treated; treat all. Treating nobody gives 0."),
        "estimate": (
            ONE,
            "Net benefit: (true positives - false positives x threshold / (1 - threshold)) / n; with censoring by the "
            "Kaplan-Meier risk of those treated.",
        ),
        "ci_low": (ONE, "Lower end of its 95 % interval (bootstrap of the predictions, patients within centres)."),
        "ci_high": (ONE, "Upper end of its 95 % interval."),
        "events": (ONE, "Events up to the horizon, or cases with the outcome."),
    },
    "inference": {
        **_SHARED,
        "term": _TERM,
        "coefficient": (ONE, "Log hazard ratio or log odds ratio of one unit (or of the level), without a penalty."),
        "se": (ONE, "Its standard error."),
        "hazard_or_odds_ratio": (ONE, "Exponential of the coefficient, all other covariates held equal."),
        "ci_low": (ONE, "Lower end of its 95 % interval (Wald; Firth: profile likelihood)."),
        "ci_high": (ONE, "Upper end of its 95 % interval."),
        "z": (ONE, "Test statistic: coefficient over standard error; Firth: signed root of the likelihood ratio."),
        "p": (ONE, "Its two-sided p value, not adjusted for the number of terms."),
        "method": ("", "How the model was fitted: ties, strata, robust errors; maximum likelihood or Firth."),
        "note": ("", "Why it is not estimable, or what to keep in mind (such as cells that were filled)."),
    },
    "ph_test": {
        **_SHARED,
        "term": ("", "Predictor; GLOBAL for all of them together; risk (out of fold): the arm's own prediction."),
        "transform": ("", "Scale of time: km (the Kaplan-Meier estimate) or rank, as in R's cox.zph."),
        "chi2": (ONE, "Statistic of the score test of proportional hazards."),
        "df": (ONE, "Its degrees of freedom."),
        "p": (ONE, "Its p value; small where the effect changes with time."),
    },
    "cumulative_incidence": {
        **_SHARED,
        "cause": ("", "event: that of the plan; competing event: what rules it out."),
        "group": ("", "Centre; all for all cases."),
        "time": ("", "Time up to which the risk is meant, in the unit of the follow-up."),
        "at_risk": (ONE, "Cases that were still followed then, free of all events."),
        "estimate": (ONE, "Cumulative incidence of the cause by then (Aalen-Johansen); empty beyond the follow-up."),
        "ci_low": (ONE, "Lower end of its 95 % interval (log-log)."),
        "ci_high": (ONE, "Upper end of its 95 % interval."),
    },
    "sample_size": {
        **_SHARED,
        "outcome": ("", "Kind of outcome: binary or time to event."),
        "criterion": (
            "",
            "Riley et al., BMJ 2020: shrinkage (expected factor at least 0.9), optimism (of Nagelkerke's R2 at most "
            "0.05), overall_risk (known to 0.05), all (the largest of them).",
        ),
        "needed_n": (ONE, "Cases that the criterion needs for that many parameters without a penalty."),
        "needed_events": (ONE, "Events among that many cases, at the cohort's rate."),
        "available_n": (ONE, "Cases that there are."),
        "available_events": (ONE, "Events that there are."),
        "parameters": (ONE, "Candidate parameters of the arm: all columns that could enter, chosen or not."),
        "events_per_parameter": (ONE, "Events over candidate parameters."),
        "r2": (ONE, "Cox-Snell R2 that was assumed: 15 % of its largest possible value."),
        "largest_parameters": (ONE, "Most candidate parameters that the cohort could carry by the criterion."),
        "met": ("", "Whether there are as many cases as the criterion needs."),
        "note": ("", "What was assumed, or why there is no number."),
    },
}
