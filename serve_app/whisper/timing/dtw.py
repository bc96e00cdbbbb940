"""The time of each token, by Whisper's dynamic time warping over the cross-attention of its alignment heads.

A decoder's row predicts the token after it, so its alignment heads look at the next token's sound.
The path enters a row where that sound begins: this is where the row's own token ends.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

SECONDS_PER_POSITION = 0.02
"""Encoder positions are two frames of 10 ms (Whisper paper, section 2.2)."""


def token_ends(attention: Sequence[Tensor], prefixes: Sequence[int], filter_width: int) -> list[NDArray[np.float64]]:
    """The end of every generated token, in seconds from the start of its window; windows of any token counts.

    `attention`, one `(heads, rows, positions)` a window: softmaxed weights of the alignment heads only.
    Its rows are the tokens fed to the decoder, in order: prompt and prefix, of which there are `prefixes`,
    then what was generated, timestamps included, the end token not. Its positions are cut to the sound: half
    of its frames. `filter_width`: `median_filter_width` of the checkpoint's config, odd. Weights may stay on
    their device: only a matrix the size of one head goes to the CPU.

    As transformers' `_extract_token_timestamps`: the prefix takes no part, times never run back, and the first
    generated token ends at 0, whatever comes before the second.
    """
    emphasis = [
        _emphasis(weights[:, prefix:], filter_width) for weights, prefix in zip(attention, prefixes, strict=True)
    ]
    costs = [-matrix.cpu().double() for matrix in emphasis]
    return [np.float64(SECONDS_PER_POSITION) * starts for starts in row_starts(costs)]


def _emphasis(weights: Tensor, filter_width: int) -> Tensor:
    """Normalize attention weights over rows, average heads: `(heads, rows, positions)` to `(rows, positions)`."""
    weights = weights.float()
    if not weights.numel():  # no rows, or sound shorter than a position
        return weights.new_zeros(weights.shape[1], max(1, weights.shape[2]))
    centred = weights - weights.mean(dim=-2, keepdim=True)
    deviation = centred.square().mean(dim=-2, keepdim=True).sqrt()
    # Where all rows agree, as a single one does with itself, transformers divides nought by nought.
    return median_filter(centred / deviation.where(deviation > 0, 1), filter_width).mean(dim=0)


def median_filter(values: Tensor, width: int) -> Tensor:
    """The median of every `width` neighbours in the last dimension, reflected at both edges.

    Rows too short to be reflected stay as they are, as in transformers. ValueError when `width` is not odd.
    """
    if width < 1 or width % 2 == 0:
        raise ValueError(f"median_filter_width is {width}: it has to be odd and positive")
    half, length = width // 2, values.shape[-1]
    if length <= half:
        return values
    padded = pad(values, (half, half), mode="reflect")
    neighbours = [padded[..., shift : shift + length] for shift in range(width)]
    # Bubble sort of whole tensors, as far as the median: sorting a short last dimension is far slower.
    for unsorted in range(width - 1, half - 1, -1):
        for place in range(unsorted):
            low, high = neighbours[place], neighbours[place + 1]
            neighbours[place], neighbours[place + 1] = torch.minimum(low, high), torch.maximum(low, high)
    return neighbours[half]


def row_starts(costs: Sequence[Tensor]) -> list[NDArray[np.intp]]:
    """The column at which the cheapest path enters each row of `(rows, columns)` matrices; 0 for the first.

    Paths lead from the first cell to the last by steps right, down or both, and cost the sum of their cells.
    Of equal ways into a cell the one from the left is taken, as in transformers, else the diagonal, where transformers
    goes left for more: its paths are not the cheapest among ties, and its sums are float32.

    The cost of reaching cell j of a row, `D[j] = x[j] + min(D[j - 1], above[j - 1], above[j])`, comes without a
    loop over the cells: the path enters the row at some k <= j and goes right from there, so with S the running
    sum of x, `D[j] = S[j] + min over k of min(above[k - 1], above[k]) - S[k - 1]`. In float64.
    """
    if not costs:
        return []
    counts, widths = torch.tensor([matrix.shape for matrix in costs]).unbind(1)
    rows, windows, columns = int(counts.max()), len(costs), int(widths.max())
    # Paths lead right and down: the zeros after a smaller matrix change nothing in it.
    padded = torch.zeros(rows, windows, columns, dtype=torch.float64)
    for window, matrix in enumerate(costs):
        padded[: len(matrix), window, : matrix.shape[1]] = matrix
    sums = padded.cumsum(-1).numpy()

    entered = np.empty(sums.shape, bool)  # rather from above than from the left
    straight = np.empty(sums.shape, bool)  # and from right above
    reached = np.full((windows, columns + 1), np.inf)  # from a column before the first
    reached[:, 0] = 0
    for row in range(rows):
        diagonal, above = reached[:, :-1], reached[:, 1:]
        np.less(above, diagonal, out=straight[row])
        entry = np.minimum(diagonal, above)
        cheapest = entry.copy()
        cheapest[:, 1:] -= sums[row, :, :-1]
        # numpy's minimum.accumulate takes six times as long.
        np.add(sums[row], torch.from_numpy(cheapest).cummin(1).values.numpy(), out=reached[:, 1:])
        reached[:, 0] = np.inf
        np.less(entry, reached[:, :-1], out=entered[row])
    return _walked_back(entered, straight, counts.numpy(), widths.numpy())


def _walked_back(
    entered: NDArray[np.bool_], straight: NDArray[np.bool_], counts: NDArray[np.int64], widths: NDArray[np.int64]
) -> list[NDArray[np.intp]]:
    """Return the positions at which paths enter their rows, by backtracking from the last row to the first."""
    rows, windows, columns = entered.shape
    starts = np.zeros((rows, windows), np.intp)
    column, every = widths - 1, np.arange(windows)
    for row in range(rows - 1, 0, -1):
        before = entered[row] & (np.arange(columns) <= column[:, None])
        starts[row] = columns - 1 - before[:, ::-1].argmax(axis=1)
        # A window of fewer rows has not begun its way back.
        column = np.where(row < counts, starts[row] - ~straight[row, every, starts[row]], column)
    return [starts[:count, window] for window, count in enumerate(counts)]
