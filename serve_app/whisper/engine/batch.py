"""Transcribe a batch of windows of one job by an engine."""

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serve_app.audio.windows import Window
from serve_app.schemas.request import TranscriptionOptions
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
    """Return the text of each window, in order. `windows` are in samples of `pcm`.

    `previous`: tokens of the text before this batch, null for the first. With `condition_on_previous_text` they are
    the prompt, and windows are decoded one after another. Cancelling aborts the windows. Raises what `Engine.submit`
    raises.
    """

    async def texts_of(some: Sequence[Window], before: Sequence[Sequence[int]]) -> list[WindowText]:
        futures = [
            engine.submit(
                pcm[window.start : window.end],
                options,
                job,
                previous=tokens,
                interactive=interactive,
                speech=window.moved(-window.start).speech,
            )
            for window, tokens in zip(some, before, strict=True)
        ]
        try:
            return await asyncio.gather(*map(asyncio.wrap_future, futures))
        finally:
            for future in futures:
                future.cancel()

    context = engine.tokenize(options.initial_prompt or "") if previous is None else tuple(previous)
    if not options.condition_on_previous_text:
        # Only the first window of the recording has a prompt.
        before = [context if previous is None and place == 0 else () for place in range(len(windows))]
        return await texts_of(windows, before)
    texts: list[WindowText] = []
    for window in windows:
        texts += await texts_of([window], [context])
        context = next_prompt_tokens(context, texts[-1])
    return texts
