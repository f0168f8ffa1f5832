"""Competing risks: cumulative incidence with intervals, by group and at horizons, and cause-specific Cox models.

Causes are coded 0 for censoring, 1 for the event of interest, 2 and above for events that preclude it (death of another
cause). One minus the Kaplan-Meier estimate with the other causes censored overestimates the risk of an event: it asks
how many would have had it if nobody could die of anything else, as though the dead were still waiting for it. Those
"risks" of all causes add up to more than 1. The Aalen-Johansen estimate counts an event only for those who are still
there to have it, and its incidences add up to one minus the survival free of all events.

Gray's test (Ann Stat 1988, 10.1214/aos/1176350951) is not offered: there was no reference implementation to hold it to.
Groups are compared by the cause-specific models.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd

from radloom.cox import fit_cox
from radloom.errors import CohortError

CURVE_COLUMNS = ["group", "cause", "time", "n_risk", "n_event", "estimate", "se", "ci_low", "ci_high"]
HORIZON_COLUMNS = [
    "group", "cause", "horizon", "n", "n_risk", "events", "estimate", "se", "ci_low", "ci_high", "note",
]  # fmt: skip
COX_COLUMNS = [
    "cause", "term", "coefficient", "se", "hazard_ratio", "ci_low", "ci_high", "z", "p", "n", "events", "ties",
    "robust", "clusters", "strata", "se_model", "note",
]  # fmt: skip


def _checked(time: np.ndarray, cause: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    t = np.asarray(time, dtype=np.float64)
    code = np.asarray(cause, dtype=np.float64)
    if not np.isfinite(t).all() or (t < 0).any():
        raise CohortError(f"{int((~np.isfinite(t) | (t < 0)).sum())} case(s) lack a time, or it lies below 0")
    if not np.isfinite(code).all() or (code < 0).any() or (code != np.round(code)).any():
        raise CohortError("causes must be 0 (censored), 1 (event of interest), 2 and above (competing events)")
    if not len(t):
        raise CohortError("no cases for a cumulative incidence")
    return t, code.astype(int)


def _groups(groups: np.ndarray | None, n: int) -> list[tuple[object, np.ndarray]]:
    if groups is None:
        return [("all", np.ones(n, dtype=bool))]
    labels = np.asarray(groups)
    if pd.isna(labels).any():
        raise CohortError(f"{int(pd.isna(labels).sum())} case(s) belong to no group")
    return [(label, labels == label) for label in np.unique(labels)]


def _interval(estimate: np.ndarray, se: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Interval on the scale log(-log(estimate)): it stays within 0 and 1; NaN where the estimate is 0 or 1."""
    inside = (estimate > 0) & (estimate < 1)
    p = np.where(inside, estimate, 0.5)
    half = NormalDist().inv_cdf(0.5 + level / 2) * se / (p * -np.log(p))
    low, high = p ** np.exp(half), p ** np.exp(-half)
    return np.where(inside, low, np.nan), np.where(inside, high, np.nan)


def _aalen_johansen(time: np.ndarray, cause: np.ndarray, causes: np.ndarray, level: float) -> pd.DataFrame:
    """Curve of one group: a row for each cause and each time at which an event of any cause happens."""
    times = np.unique(time[cause > 0])
    at_risk = (len(time) - np.searchsorted(np.sort(time), times, side="left")).astype(np.float64)
    deaths = np.array([(np.bincount(np.searchsorted(times, time[cause == k]), minlength=len(times))) for k in causes])
    total = deaths.sum(axis=0) / at_risk
    after = np.cumprod(1 - total)
    before = np.concatenate([[1.0], after[:-1]])
    parts = []
    for k, count in zip(causes, deaths, strict=True):
        own = count / at_risk
        estimate = np.cumsum(before * own)
        # The variance is the sum over event times u of what their multinomial counts bring to the estimate at t:
        # directly, and by thinning out those who could have had an event later, F(t) - F(u) of them.
        direct = before / at_risk
        left = at_risk - deaths.sum(axis=0)
        thinned = np.divide(1.0, left, out=np.zeros_like(left), where=left > 0)
        first = np.cumsum(direct**2 * at_risk * own * (1 - own))
        mixed = direct * thinned * at_risk * own * (1 - total)
        squared = thinned**2 * at_risk * total * (1 - total)
        variance = (
            first
            - 2 * (estimate * np.cumsum(mixed) - np.cumsum(mixed * estimate))
            + estimate**2 * np.cumsum(squared)
            - 2 * estimate * np.cumsum(squared * estimate)
            + np.cumsum(squared * estimate**2)
        )
        se = np.sqrt(np.maximum(variance, 0.0))
        low, high = _interval(estimate, se, level)
        parts.append(
            pd.DataFrame(
                {
                    "cause": int(k),
                    "time": times,
                    "n_risk": at_risk.astype(int),
                    "n_event": count,
                    "estimate": estimate,
                    "se": se,
                    "ci_low": low,
                    "ci_high": high,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def cumulative_incidence(
    time: np.ndarray, cause: np.ndarray, groups: np.ndarray | None = None, level: float = 0.95
) -> pd.DataFrame:
    """Aalen-Johansen estimate of the cumulative incidence of each cause, by group.

    `time` in any unit, `cause` as coded above, `groups` one label a case. Returns one row for each group, cause and
    time at which an event of any cause happens in the group: group, cause, time, n_risk (just before), n_event (of the
    cause), estimate, se, ci_low, ci_high. Pointwise intervals on the log(-log) scale, from the variance by the delta
    method (Greenwood's, with more than one cause; as R's `survfit` of a multi-state outcome); NaN where the estimate
    is 0 or 1. Raises CohortError for times or causes that can't be used.
    """
    t, code = _checked(time, cause)
    causes = np.unique(code[code > 0])
    if not len(causes):
        raise CohortError(f"no event of any cause among {len(t)} cases")
    parts = []
    for label, rows in _groups(groups, len(t)):
        if (code[rows] > 0).any():
            curve = _aalen_johansen(t[rows], code[rows], causes, level)
            curve.insert(0, "group", label)
            parts.append(curve)
    return pd.concat(parts, ignore_index=True)[CURVE_COLUMNS]


def incidence_at(
    time: np.ndarray,
    cause: np.ndarray,
    horizons: Sequence[float] | np.ndarray,
    groups: np.ndarray | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Cumulative incidence of each cause at horizons, by group, with the numbers at risk.

    Returns one row for each group, cause and horizon: group, cause, horizon, n, n_risk (still followed at the horizon,
    free of all events), events (of the cause, up to the horizon), estimate, se, ci_low, ci_high, note. Beyond the last
    follow-up of a group the estimate is NaN; before its first event of the cause it is 0 without an interval. The note
    says so.
    """
    t, code = _checked(time, cause)
    causes = np.unique(code[code > 0])
    if not len(causes):
        raise CohortError(f"no event of any cause among {len(t)} cases")
    rows_out = []
    for label, rows in _groups(groups, len(t)):
        own_time, own_code = t[rows], code[rows]
        curve = _aalen_johansen(own_time, own_code, causes, level) if (own_code > 0).any() else None
        for k in causes:
            for horizon in np.asarray(horizons, dtype=np.float64):
                row = {
                    "group": label,
                    "cause": int(k),
                    "horizon": float(horizon),
                    "n": int(rows.sum()),
                    "n_risk": int((own_time >= horizon).sum()),
                    "events": int(((own_code == k) & (own_time <= horizon)).sum()),
                    "estimate": 0.0,
                    "se": np.nan,
                    "ci_low": np.nan,
                    "ci_high": np.nan,
                    "note": "",
                }
                if horizon > own_time.max():
                    row["estimate"], row["note"] = np.nan, f"follow-up ends at {own_time.max():g}"
                elif not row["events"]:
                    row["note"] = "no event of this cause so far: no interval"
                else:
                    assert curve is not None
                    of_cause = curve[(curve["cause"] == k) & (curve["time"] <= horizon)]
                    row.update(of_cause[["estimate", "se", "ci_low", "ci_high"]].iloc[-1].to_dict())
                rows_out.append(row)
    return pd.DataFrame(rows_out, columns=HORIZON_COLUMNS)


def cause_specific_cox(
    design: pd.DataFrame,
    time: np.ndarray,
    cause: np.ndarray,
    strata: np.ndarray | None = None,
    ties: str = "efron",
    level: float = 0.95,
    cluster: np.ndarray | None = None,
) -> pd.DataFrame:
    """Cox model of each cause's hazard, the other causes censored (Prentice et al., Biometrics 1978, 10.2307/2530374).

    The hazard ratio says how a term changes the rate of a cause among those free of all events. It doesn't say how it
    changes the cumulative incidence, which depends on all causes' hazards: read the models of all causes together.
    Returns the table of `fit_cox` with cause and note; where a cause's model can't be estimated, its rows hold NaN and
    the note the reason.
    """
    t, code = _checked(time, cause)
    parts = []
    for k in np.unique(code[code > 0]):
        event = (code == k).astype(int)
        try:
            table = fit_cox(design, t, event, strata, ties, level, cluster).assign(note="")
        except CohortError as error:
            table = pd.DataFrame({"term": [str(name) for name in design.columns]}).reindex(columns=COX_COLUMNS)
            table = table.assign(n=len(t), events=int(event.sum()), ties=ties, robust=cluster is not None)
            table = table.assign(note=str(error))
        parts.append(table.assign(cause=int(k))[COX_COLUMNS])
    if not parts:
        raise CohortError(f"no event of any cause among {len(t)} cases")
    return parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)
