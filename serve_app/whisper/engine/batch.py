"""A block of windows of one job through an engine."""

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serve_app.audio.windows import Window
from serve_app.options import TranscriptionOptions
from serve_app.whisper.engine.engine import Engine
from serve_app.whisper.window_text import WindowText, next_prompt_tokens


async def transcribe_windows(
    engine: Engine,
    pcm: NDArray[np.int16],
    windows: Sequence[Window],
    options: TranscriptionOptions,
    job: str,
    *,
    interactive: bool,
    previous: Sequence[int] | None,
) -> list[WindowText]:
    """The text of each window of `pcm`, in order; `windows` are in samples of it.

    `previous`: tokens of the blocks before, null for the first. They count, and windows run in turn, when the
    options ask for it. Cancelling gives the windows up. Raises what `Engine.submit` raises.
    """

    async def texts_of(some: Sequence[Window], before: Sequence[Sequence[int]]) -> list[WindowText]:
        futures = [
            engine.submit(
                pcm[window.start : window.end],
                options,
                job,
                previous=told,
                interactive=interactive,
                speech=window.moved(-window.start).speech,
            )
            for window, told in zip(some, before, strict=True)
        ]
        try:
            return await asyncio.gather(*map(asyncio.wrap_future, futures))
        finally:
            for future in futures:
                future.cancel()

    said = engine.tokenize(options.initial_prompt or "") if previous is None else tuple(previous)
    if not options.condition_on_previous_text:
        # The first window of all is the only one that has something before it.
        before = [said if previous is None and place == 0 else () for place in range(len(windows))]
        return await texts_of(windows, before)
    texts: list[WindowText] = []
    for window in windows:
        texts += await texts_of([window], [said])
        said = next_prompt_tokens(said, texts[-1])
    return texts
