"""Losses and error rates on outputs that are right or wrong by construction."""

import pytest
import torch
from pyannote.audio.utils.powerset import Powerset

from serve_app.diarization.nets import SPEAKERS
from training.diarization_nano import objectives


def truth() -> torch.Tensor:
    """Return two rows: one speaker, two at once, none; and three who take turns."""
    speaking = torch.zeros(2, SPEAKERS, 60, dtype=torch.bool)
    speaking[0, 0, :40] = speaking[0, 1, 20:50] = True
    speaking[1, 0, :20] = speaking[1, 1, 20:40] = speaking[1, 3, 40:] = True
    return speaking


def scores_of(speaking: torch.Tensor) -> torch.Tensor:
    """Return pyannote's powerset encoding as log-probabilities."""
    powerset = Powerset(SPEAKERS, 2)
    return torch.log(powerset.to_powerset(speaking.transpose(1, 2).float()).float() + 1e-4)


def test_classes_equal_pyannote() -> None:
    assert objectives.segmentation_error(scores_of(truth()), truth()) == 0
    assert objectives.segmentation_loss(scores_of(truth()), truth()) < 1e-3


def test_speaker_order_does_not_matter() -> None:
    renamed = truth()[:, [2, 0, 3, 1]]
    assert objectives.segmentation_error(scores_of(renamed), truth()) == 0
    assert objectives.segmentation_loss(scores_of(renamed), truth()) < 1e-3


def test_confused_speaker_has_a_loss() -> None:
    mistaken = truth()
    mistaken[1, 0] |= mistaken[1, 1]
    mistaken[1, 1] = False
    assert objectives.segmentation_error(scores_of(mistaken), truth()) == pytest.approx(20 / 130)
    assert objectives.segmentation_loss(scores_of(mistaken), truth()) > 0.5


def test_embedding_masks_exclude_overlap() -> None:
    masks = objectives.masks(truth(), vary=False)
    assert masks[0, 0].nonzero().flatten().tolist() == list(range(20))
    alone_for_too_short = truth()
    alone_for_too_short[0, 0, :15] = False
    masks = objectives.masks(alone_for_too_short, vary=False)
    assert masks[0, 0].nonzero().flatten().tolist() == list(range(15, 40))


def test_contrastive_loss_and_equal_error_rate() -> None:
    identities = torch.tensor([3, 3, 5, 5, 9])
    apart = torch.eye(3)[[0, 0, 1, 1, 2]]
    mixed = torch.eye(3)[[0, 1, 0, 1, 2]]
    assert objectives.contrastive_loss(apart, identities) < 0.01 < objectives.contrastive_loss(mixed, identities)
    assert objectives.equal_error_rate(apart, identities) == 0
    assert objectives.equal_error_rate(mixed, identities) > 0.3
