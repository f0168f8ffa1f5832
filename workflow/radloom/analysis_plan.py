"""What is to be analysed: endpoints, covariates, arms, horizons and metrics, and the hash that names such a plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SHOWN_DIGITS = 12

Params = Mapping[str, Mapping[str, Any]]


def outcome_columns(params: Params) -> list[str]:
    """The columns that the plan declares as outcomes, each once."""
    plan = params.get("analysis_plan", {})
    named = [plan.get(key) for key in ("time", "event", "competing_event", "outcome")]
    return list(dict.fromkeys(name for name in named if name))


def columns_by_key(params: Params) -> dict[str, list[str]]:
    """The columns of the cohort sheet and the clinical table that a configuration names, by the key that names them."""
    plan, combat, tables = (params.get(section, {}) for section in ("analysis_plan", "harmonize", "tables"))
    locked = plan.get("test_set") or {}
    found: dict[str, Any] = {
        "harmonize.batch": combat.get("batch"),
        "harmonize.covariates": combat.get("covariates"),
        **{
            f"analysis_plan.{key}": plan.get(key)
            for key in ("covariates", "time", "event", "competing_event", "outcome", "strata", "subgroups")
        },
        "analysis_plan.cluster": plan.get("cluster"),
        "analysis_plan.test_set": locked.get("column"),
        "tables.clinical_columns": tables.get("clinical_columns"),
    }
    return {key: [value] if isinstance(value, str) else list(value or []) for key, value in found.items()}


def plan_hash(params: Params) -> str:
    """The first digits of the SHA-256 of the plan: equal for equal plans, whether or not the test set was opened."""
    plan = {key: value for key, value in params.get("analysis_plan", {}).items() if key != "open_test_set"}
    text = json.dumps(plan, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:SHOWN_DIGITS]
