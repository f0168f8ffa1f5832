"""Whether the net that a run is to train can be built, told before the first job and not after the last case.

It lies in the engine, and not beside the other checks of a configuration: steps reach those, and the nets' code would
count as theirs.
"""

from __future__ import annotations

from typing import Any

from radloom.errors import ConfigError


def check_net(config: dict[str, Any]) -> None:
    """Raise ConfigError for a net that can't be, or can't take the patch; nets of MONAI are tried by the training."""
    training = config["train_segmentation"]
    if training["name"] is None or config["features"]:
        return
    import torch

    from radloom.nets.architecture import net_to_train, read_architecture
    from radloom.nets.monai_nets import PREFIX

    try:
        architecture = read_architecture(training["architecture"])
        if architecture.kind.startswith(PREFIX):
            return
        with torch.device("meta"):
            steps = net_to_train(architecture, 2).multiple
    except ValueError as error:
        raise ConfigError([f"config: train_segmentation.architecture: {error}"]) from None
    patch = training["patch"]
    if patch is not None and any(length % step for length, step in zip(patch, steps, strict=True)):
        raise ConfigError(
            [f"config: train_segmentation.patch: {patch} is no multiple of {list(steps)}, which this net needs"]
        )
