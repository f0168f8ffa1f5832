"""A net that can't be trained stops a run before its first job."""

from typing import Any

import pytest

from radloom.config import complete
from radloom.engine.net_to_train import check_net
from radloom.errors import ConfigError


def config(**training: Any) -> dict[str, Any]:
    return complete({"results": "results", "train_segmentation": training})


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"patch": [30, 48]}, r"patch: \[30, 48\] is no multiple of \[16, 16\]"),
        ({"architecture": {"kind": "nope"}}, "architecture: the architecture 'nope' is none of"),
        ({"architecture": {"dilation": [1]}}, "architecture: the dilation .* is not one rate for each level"),
        ({"architecture": {"options": {"heads": 3}}}, "architecture: a net of kind 'unet' has only strides, not heads"),
    ],
)
def test_a_net_that_cannot_be(training: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_net(config(name="net", **training))
    check_net(config(**training))  # nothing is trained without a name


def test_nets_that_can_be_and_those_of_monai() -> None:
    check_net(config(name="net", patch=[32, 48]))
    check_net(config(name="net", spacing=[1, 1, 1], architecture={"dimensions": 3}, patch=[16, 32, 48]))
    check_net(config(name="net", architecture={"kind": "monai:NoneOfThese"}, patch=[31, 31]))
