"""A block of windows of one job through an engine."""

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serve_app.options import TranscriptionOptions
from serve_app.whisper.engine import Engine
from serve_app.whisper.text import WindowText, handed_on


async def recognise(
    engine: Engine,
    pcm: NDArray[np.int16],
    spans: Sequence[tuple[int, int]],
    options: TranscriptionOptions,
    job: str,
    *,
    interactive: bool,
    previous: Sequence[int] | None,
) -> list[WindowText]:
    """The text of each span (first sample, last sample + 1) of `pcm`, in order.

    `previous`: tokens of the blocks before, null for the first. They count, and windows run in turn, when the
    options ask for it. Cancelling gives the windows up. Raises what `Engine.submit` raises.
    """

    async def texts_of(some: Sequence[tuple[int, int]], before: Sequence[Sequence[int]]) -> list[WindowText]:
        futures = [
            engine.submit(pcm[start:end], options, job, previous=told, interactive=interactive)
            for (start, end), told in zip(some, before, strict=True)
        ]
        try:
            return await asyncio.gather(*map(asyncio.wrap_future, futures))
        finally:
            for future in futures:
                future.cancel()

    said = engine.tokenize(options.initial_prompt or "") if previous is None else tuple(previous)
    if not options.condition_on_previous_text:
        # The first window of all is the only one that has something before it.
        before = [said if previous is None and place == 0 else () for place in range(len(spans))]
        return await texts_of(spans, before)
    texts: list[WindowText] = []
    for span in spans:
        texts += await texts_of([span], [said])
        said = handed_on(said, texts[-1])
    return texts
