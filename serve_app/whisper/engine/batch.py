"""Transcribe a batch of windows of one job by an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from serve_app.audio.windows import Window
from serve_app.whisper.protocol import WindowBatch
from serve_app.whisper.window_text import WindowText, next_prompt_tokens

if TYPE_CHECKING:
    from serve_app.whisper.engine.engine import Engine


async def transcribe_windows(engine: Engine, batch: WindowBatch) -> list[WindowText]:
    """Return the text of each window of a batch, in order.

    Cancelling aborts the windows. Raises what `Engine.submit` raises.
    """
    options, previous = batch.options, batch.previous_tokens
    context = engine.tokenize(options.initial_prompt or "") if previous is None else previous
    if options.condition_on_previous_text:
        texts: list[WindowText] = []
        for window in batch.windows:
            texts += await _decode(engine, batch, [window], [context])
            context = next_prompt_tokens(context, texts[-1])
        return texts
    # Only the first window of the recording has a prompt.
    contexts = [context if previous is None and number == 0 else () for number in range(len(batch.windows))]
    return await _decode(engine, batch, batch.windows, contexts)


async def _decode(
    engine: Engine, batch: WindowBatch, windows: Sequence[Window], contexts: Sequence[Sequence[int]]
) -> list[WindowText]:
    """Return the texts of windows that are decoded together, each with the tokens of the text before it."""
    futures = [
        engine.submit(
            batch.pcm[window.start : window.end],
            batch.options,
            batch.job_id,
            previous=context,
            interactive=batch.interactive,
            speech=window.moved(-window.start).speech,
        )
        for window, context in zip(windows, contexts, strict=True)
    ]
    try:
        return await asyncio.gather(*map(asyncio.wrap_future, futures))
    finally:
        for future in futures:
            future.cancel()
