"""The batch columns that a configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def batch_columns(settings: Mapping[str, Any]) -> list[str]:
    """The batch columns that a `harmonize` section names, in its order.

    The first is the batch by which others stratify.
    """
    batch = settings["batch"]
    return [batch] if isinstance(batch, str) else list(batch)
