"""Weights of centres: group DRO and the worst centre."""

import numpy as np
import pytest
import torch

from radloom.nets.distributed import Team
from radloom.nets.robust import GroupDRO, WorstCentre, make_weighting


def test_constant_losses_give_weights_in_closed_form() -> None:
    weighting = GroupDRO(["a", "b"], Team(), step=0.1)
    for _ in range(7):
        loss = weighting(torch.tensor([1.0, 1.0, 3.0]), torch.tensor([0, 0, 1]))
    # q is proportional to exp(step x steps x loss).
    expected = torch.softmax(torch.tensor([0.7, 2.1], dtype=torch.float64), 0)
    torch.testing.assert_close(weighting.weights, expected)
    assert loss.item() == pytest.approx(float(expected @ torch.tensor([1.0, 3.0], dtype=torch.float64)))


def test_a_centre_that_is_not_in_the_batch_keeps_its_weight_against_the_others() -> None:
    weighting = GroupDRO(["a", "b", "c"], Team(), step=0.5)
    weighting(torch.tensor([2.0]), torch.tensor([0]))
    assert weighting.weights[1] == weighting.weights[2]
    assert weighting.weights.sum().item() == pytest.approx(1)
    assert weighting.weights[0] / weighting.weights[1] == pytest.approx(np.exp(1.0))


def test_with_no_step_each_centre_counts_alike_whatever_its_size() -> None:
    weighting = GroupDRO(["a", "b"], Team(), step=0.0)
    losses = torch.tensor([1.0, 1.0, 1.0, 5.0], requires_grad=True)
    loss = weighting(losses, torch.tensor([0, 0, 0, 1]))
    assert loss.item() == pytest.approx(3)
    loss.backward()
    torch.testing.assert_close(losses.grad, torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2]))


def test_it_lifts_the_worst_centre() -> None:
    """A large and a small centre want different constants: the mean serves the large one, group DRO the worse off."""
    truth, centre = torch.cat([torch.zeros(90), torch.ones(10)]), torch.cat([torch.zeros(90), torch.ones(10)]).long()

    def worst(name: str) -> float:
        guess = torch.zeros(1, requires_grad=True)
        weighting = make_weighting(name, ["large", "small"], Team(), 0.05, 2.0)
        optimiser = torch.optim.SGD([guess], 0.05)
        for _ in range(300):
            optimiser.zero_grad()
            weighting((guess - truth) ** 2, centre).backward()
            optimiser.step()
        return max(guess.item() ** 2, (1 - guess.item()) ** 2)

    assert worst("none") == pytest.approx(0.81, abs=0.01)
    assert worst("group_dro") == pytest.approx(0.25, abs=0.03)  # the minimax guess is 1/2


def test_the_worst_centre_counts_more() -> None:
    weighting = WorstCentre(["a", "b", "c"], Team(), factor=3.0)
    losses, centre = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 1, 2])
    assert weighting(losses, centre).item() == pytest.approx(7 / 3)
    weighting.validated({"a": 0.9, "b": 0.5, "c": float("nan"), "unknown": 0.1})
    assert weighting(losses, centre).item() == pytest.approx((1 + 3 * 2 + 4) / 5)
    weighting.validated({"a": 0.2, "b": 0.5})
    assert weighting(losses, centre).item() == pytest.approx((3 + 2 + 4) / 5)


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="group_dro"):
        make_weighting("robustness", ["a"], Team(), 0.1, 2.0)
