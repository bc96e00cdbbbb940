"""Token times by dynamic time warping (DTW) over the cross-attention of Whisper's alignment heads.

A decoder row predicts the next token, so its alignment heads attend to the audio of the next token. The path enters a
row where that audio begins: there the row's own token ends.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

SECONDS_PER_POSITION = 0.02
"""An encoder position is two frames of 10 ms (Whisper paper, section 2.2)."""


def token_ends(attention: Sequence[Tensor], prefixes: Sequence[int], filter_width: int) -> list[NDArray[np.float64]]:
    """Return the end of each generated token of each window, in seconds from the start of the window.

    `attention`: per window, the softmax weights `(heads, rows, positions)` of the alignment heads only. Rows are the
    decoder's input tokens in order: prompt and prefix, whose number is in `prefixes`, then the generated tokens with
    timestamps, without the end token. Positions are cut to the audio: half of its frames. `filter_width`: odd,
    `median_filter_width` of the checkpoint's config. Weights may be on any device: only a matrix of the size of one
    head is copied to the CPU.

    As transformers' `_extract_token_timestamps`: the prefix is left out, times never decrease, and the first generated
    token ends at 0.
    """
    matrices = [
        _normalize_weights(weights[:, prefix:], filter_width)
        for weights, prefix in zip(attention, prefixes, strict=True)
    ]
    costs = [-matrix.cpu().double() for matrix in matrices]
    return [np.float64(SECONDS_PER_POSITION) * starts for starts in row_starts(costs)]


def _normalize_weights(weights: Tensor, filter_width: int) -> Tensor:
    """Normalize attention weights over rows and average heads: `(heads, rows, positions)` to `(rows, positions)`."""
    weights = weights.float()
    if not weights.numel():  # no rows, or audio shorter than a position
        return weights.new_zeros(weights.shape[1], max(1, weights.shape[2]))
    centred = weights - weights.mean(dim=-2, keepdim=True)
    deviation = centred.square().mean(dim=-2, keepdim=True).sqrt()
    # Where all rows are equal, as with a single row, transformers divides zero by zero.
    return median_filter(centred / deviation.where(deviation > 0, 1), filter_width).mean(dim=0)


def median_filter(values: Tensor, width: int) -> Tensor:
    """Return the median of each `width` neighbours in the last dimension, with reflection at both edges.

    If that dimension is too short for reflection, values are returned unchanged, as in transformers. Raises ValueError
    if `width` is not odd.
    """
    if width < 1 or width % 2 == 0:
        raise ValueError(f"median_filter_width must be odd and positive, not {width}")
    half, length = width // 2, values.shape[-1]
    if length <= half:
        return values
    padded = pad(values, (half, half), mode="reflect")
    neighbours = [padded[..., shift : shift + length] for shift in range(width)]
    # Bubble sort of whole tensors, up to the median: sorting a short last dimension is much slower.
    for unsorted in range(width - 1, half - 1, -1):
        for index in range(unsorted):
            low, high = neighbours[index], neighbours[index + 1]
            neighbours[index], neighbours[index + 1] = torch.minimum(low, high), torch.maximum(low, high)
    return neighbours[half]


def row_starts(costs: Sequence[Tensor]) -> list[NDArray[np.intp]]:
    """Return the column at which the cheapest path enters each row of `(rows, columns)` cost matrices (DTW).

    It is 0 for the first row. Paths lead from the first cell to the last by steps right, down or diagonal, and cost the
    sum of their cells. Of equally cheap steps into a cell the one from the left is taken, as in transformers, then the
    diagonal. transformers prefers the left in more cases: its paths are not always the cheapest, and its sums are
    float32.

    The cost of reaching cell j of a row, `D[j] = x[j] + min(D[j - 1], above[j - 1], above[j])`, is computed without a
    loop over the cells: the path enters the row at some k <= j and goes right from there, so with S the running sum of
    x, `D[j] = S[j] + min over k of min(above[k - 1], above[k]) - S[k - 1]`. In float64.
    """
    if not costs:
        return []
    counts, widths = torch.tensor([matrix.shape for matrix in costs]).unbind(1)
    rows, windows, columns = int(counts.max()), len(costs), int(widths.max())
    # Paths lead right and down, so the zeros after a smaller matrix do not affect it.
    padded = torch.zeros(rows, windows, columns, dtype=torch.float64)
    for window, matrix in enumerate(costs):
        padded[: len(matrix), window, : matrix.shape[1]] = matrix
    sums = padded.cumsum(-1).numpy()

    entered = np.empty(sums.shape, bool)  # the path comes from above, not from the left
    straight = np.empty(sums.shape, bool)  # from directly above, not diagonally
    reached = np.full((windows, columns + 1), np.inf)  # with a column before the first
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
    return _backtrace(entered, straight, counts.numpy(), widths.numpy())


def _backtrace(
    entered: NDArray[np.bool_], straight: NDArray[np.bool_], counts: NDArray[np.int64], widths: NDArray[np.int64]
) -> list[NDArray[np.intp]]:
    """Return the columns at which paths enter their rows, from the last row back to the first."""
    rows, windows, columns = entered.shape
    starts = np.zeros((rows, windows), np.intp)
    column, all_windows = widths - 1, np.arange(windows)
    for row in range(rows - 1, 0, -1):
        before = entered[row] & (np.arange(columns) <= column[:, None])
        starts[row] = columns - 1 - before[:, ::-1].argmax(axis=1)
        # In windows with fewer rows the path begins later.
        column = np.where(row < counts, starts[row] - ~straight[row, all_windows, starts[row]], column)
    return [starts[:count, window] for window, count in enumerate(counts)]
