"""The training losses."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.whisper_nano.batches import Batch
from training.whisper_nano.model import GUIDED_HEADS, Outputs
from training.whisper_nano.targets import IGNORED, NO_WORD, SPANS

_SMOOTHING = torch.tensor([0.05, 0.2, 0.5, 0.2, 0.05])
"""A timestamp's target probability is shared with those 20 and 40 ms away."""
_WORD_WEIGHTS = torch.ones(NO_WORD + 1).index_fill(0, torch.tensor([NO_WORD]), 0.3)


@dataclass(frozen=True)
class Losses:
    """The parts of the loss, and the accuracy of words, and of timestamps within 0.1 s."""

    text: Tensor
    timestamps: Tensor
    attention: Tensor
    words: Tensor
    word_accuracy: Tensor
    timestamp_accuracy: Tensor

    def total(self, attention_weight: float) -> Tensor:
        return self.text + 0.5 * self.timestamps + attention_weight * self.attention + 0.6 * self.words


def losses(outputs: Outputs, batch: Batch, first_timestamp: int) -> Losses:
    """Return all parts for one batch."""
    log_probs = outputs.tokens.float().log_softmax(-1)
    timed = batch.labels >= first_timestamp
    written = (batch.labels >= 0) & ~timed
    times, guesses = batch.labels[timed], log_probs[timed]
    near = (times[:, None] + torch.arange(-2, 3)).clamp(first_timestamp, log_probs.shape[-1] - 1)
    error = guesses[:, first_timestamp:].argmax(-1) + first_timestamp - times
    return Losses(
        text=F.nll_loss(log_probs[written], batch.labels[written]),
        timestamps=-(guesses.gather(1, near) * _SMOOTHING).sum() / max(1, len(times)),
        attention=guided_attention(outputs, batch),
        words=word_loss(outputs, batch.position_labels),
        word_accuracy=(log_probs[written].argmax(-1) == batch.labels[written]).float().mean(),
        timestamp_accuracy=(error.abs() <= 5).float().sum() / max(1, len(times)),
    )


def guided_attention(outputs: Outputs, batch: Batch) -> Tensor:
    """Return how far each of GUIDED_HEADS is from attending evenly to its span, over the rows that have one.

    The alignment head's span extends to the next word's start: dynamic time warping compares the rows at every
    position, and would otherwise place words at random in pauses.
    """
    total = outputs.tokens.new_zeros(())
    for head, span in GUIDED_HEADS.items():
        first, last = batch.spans[:, SPANS.index(span)].unsqueeze(-1).unbind(2)
        log_attention = outputs.attention[head]
        position = torch.arange(log_attention.shape[-1])
        inside = (position >= first) & (position < last)
        count = inside.sum(-1)
        guided = count > 0
        if guided.any():
            mean = (log_attention * inside).sum(-1)[guided] / count[guided]
            total = total - (mean + count[guided].log()).mean()
    return total / len(GUIDED_HEADS)


def word_loss(outputs: Outputs, labels: Tensor) -> Tensor:
    """Return the loss of naming the word at each position, and its neighbours if there is a word."""
    spoken = F.cross_entropy(outputs.words.float().flatten(0, 1), labels[..., 0].flatten(), weight=_WORD_WEIGHTS)
    if not (labels[..., 1:] != IGNORED).any():
        return spoken
    around = F.cross_entropy(outputs.neighbours.float().flatten(0, 2), labels[..., 1:].flatten(), ignore_index=IGNORED)
    return spoken + around
