"""The losses of the two networks, and their error rates."""

from itertools import combinations, permutations

import numpy as np
import torch
from torch import nn

from serve_app.diarization.nets import CLASSES, SPEAKERS

_TEMPERATURE = 0.08
_MIN_FRAMES = 12
"""Minimum frames of speech for an embedding: half a second."""
_CLASSES = [set(group) for size in range(3) for group in combinations(range(SPEAKERS), size)]
_ORDERS = list(permutations(range(SPEAKERS)))


def _class_of(code: int, order: tuple[int, ...]) -> int:
    """Return the class of the speakers whose bits are set (the first two) if slot i is called order[i]."""
    slots = [slot for slot in range(SPEAKERS) if code >> slot & 1][:2]
    return _CLASSES.index({order[slot] for slot in slots})


_TABLE = torch.tensor([[_class_of(code, order) for code in range(2**SPEAKERS)] for order in _ORDERS])
_ACTIVE = torch.tensor([[slot in group for slot in range(SPEAKERS)] for group in _CLASSES], dtype=torch.float32)
assert len(_CLASSES) == CLASSES


def classes(speaking: torch.Tensor) -> torch.Tensor:
    """Map (rows, SPEAKERS, frames) to (orders, rows, frames): the right classes for each order of the speakers."""
    bits = torch.tensor([1 << slot for slot in range(SPEAKERS)], device=speaking.device).view(1, -1, 1)
    return _TABLE.to(speaking.device)[:, (speaking * bits).sum(1)]


def segmentation_loss(scores: torch.Tensor, speaking: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy under the best order of the speakers of each row. `scores` (rows, frames, CLASSES)."""
    right = classes(speaking).permute(1, 2, 0)
    each: torch.Tensor = -scores.gather(2, right).mean(1)
    return each.min(1).values.mean()


def segmentation_error(scores: torch.Tensor, speaking: torch.Tensor) -> float:
    """Return the diarization error rate within chunks, without a collar."""
    found = _ACTIVE.to(scores.device)[scores.argmax(2)].transpose(1, 2)
    truth = speaking.to(torch.float32)
    most = torch.maximum(found.sum(1), truth.sum(1)).sum(1)
    right = torch.stack([(found[:, list(order)] * truth).sum((1, 2)) for order in _ORDERS])
    return float((most - right.max(0).values).sum() / truth.sum().clamp(min=1))


def masks(speaking: torch.Tensor, *, vary: bool) -> torch.Tensor:
    """Return each speaker's mask: where only that speaker speaks, or all speech of the speaker if that is short.

    `vary`: some masks are shortened, and some frames are wrong, as in the segmentation's output.
    """
    alone = speaking & (speaking.sum(1, keepdim=True) == 1)
    chosen = torch.where(alone.sum(2, keepdim=True) >= _MIN_FRAMES, alone, speaking)
    if vary:
        rows, _, frames = chosen.shape
        place = torch.arange(frames, device=chosen.device)
        size = torch.rand(rows, SPEAKERS, 1, device=chosen.device) * 0.9 + 0.1
        start = torch.rand(rows, SPEAKERS, 1, device=chosen.device) * (1 - size)
        part = chosen & (place >= start * frames) & (place < (start + size) * frames)
        partly = (torch.rand(rows, SPEAKERS, 1, device=chosen.device) < 0.4) & (
            part.sum(2, keepdim=True) >= _MIN_FRAMES
        )
        wrong = torch.rand(rows, SPEAKERS, frames // 5, device=chosen.device) < 0.04
        wrong = wrong.repeat_interleave(5, 2)
        chosen = torch.where(partly, part, chosen) ^ wrong
    return chosen.to(torch.float32)


def has_enough_speech(speaking: torch.Tensor, identities: torch.Tensor) -> torch.Tensor:
    """Return (rows, SPEAKERS) bool: the speakers with enough speech for an embedding."""
    return (identities >= 0) & (speaking.sum(2) >= _MIN_FRAMES)


def contrastive_loss(embeddings: torch.Tensor, identities: torch.Tensor) -> torch.Tensor:
    """Return the supervised contrastive loss of all embeddings in the batch (SupCon, arXiv 2004.11362)."""
    unit = nn.functional.normalize(embeddings, dim=1)
    similarity = unit @ unit.T / _TEMPERATURE
    diagonal = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    chances = torch.log_softmax(similarity.masked_fill(diagonal, -1e4), dim=1)
    own = (identities.unsqueeze(0) == identities.unsqueeze(1)) & ~diagonal
    count = own.sum(1)
    each = -(chances * own).sum(1) / count.clamp(min=1)
    return each[count > 0].mean()


def equal_error_rate(embeddings: torch.Tensor, identities: torch.Tensor) -> float:
    """Return the rate at which same and different speakers are confused equally often, over all pairs."""
    unit = nn.functional.normalize(embeddings.float(), dim=1)
    left, right = torch.triu_indices(len(unit), len(unit), 1, device=unit.device)
    similarity = (unit[left] * unit[right]).sum(1).cpu().numpy()
    same = (identities[left] == identities[right]).cpu().numpy()
    order = np.argsort(-similarity)
    missed = 1 - np.cumsum(same[order]) / max(1, same.sum())
    mistaken = np.cumsum(~same[order]) / max(1, (~same).sum())
    at = int(np.argmin(np.abs(missed - mistaken)))
    return float((missed[at] + mistaken[at]) / 2)
