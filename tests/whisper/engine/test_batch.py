"""Batches of windows through a real engine."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serve_app.audio.windows import Window
from serve_app.schemas.request import TranscriptionOptions
from serve_app.whisper.engine.engine import Engine
from serve_app.whisper.protocol import WindowBatch
from serve_app.whisper.window_text import WindowText, next_prompt_tokens

Windows = dict[str, NDArray[np.int16]]
TEXTS = ["three one four one five nine", "zwei sieben eins acht zwei acht"]


@pytest.fixture
def contexts(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The previous tokens of each window that is submitted."""
    seen: list[tuple[int, ...]] = []
    submit = engine.submit

    def watched(*args: Any, previous: Sequence[int], **more: Any) -> Any:
        seen.append(tuple(previous))
        return submit(*args, previous=previous, **more)

    monkeypatch.setattr(engine, "submit", watched)
    return seen


async def run(
    engine: Engine, windows: Windows, previous: tuple[int, ...] | None, **options: Any
) -> Sequence[WindowText]:
    pcm = np.concatenate([windows["en.mp3"], windows["de.opus"]])
    first = len(windows["en.mp3"])
    both = Window(0, first), Window(first, len(pcm))
    batch = WindowBatch(pcm, both, TranscriptionOptions(**options), "job", previous_tokens=previous)
    return await engine.transcribe(batch)


async def test_windows_are_independent(engine: Engine, windows: Windows, contexts: list[Any]) -> None:
    texts = await run(engine, windows, None)
    assert [text.text for text in texts] == TEXTS
    assert contexts == [(), ()]


async def test_the_initial_prompt_is_before_the_first_window_of_all(
    engine: Engine, windows: Windows, contexts: list[Any]
) -> None:
    await run(engine, windows, None, initial_prompt="one two")
    await run(engine, windows, (), initial_prompt="one two")
    assert contexts == [engine.tokenize("one two"), (), (), ()]


async def test_each_window_is_prompted_with_the_text_before(
    engine: Engine, windows: Windows, contexts: list[Any]
) -> None:
    texts = await run(engine, windows, (331, 339), condition_on_previous_text=True)
    assert contexts == [(331, 339), (331, 339, *texts[0].tokens)]


async def test_cancelling_aborts_all_windows(engine: Engine, windows: Windows) -> None:
    finished = engine.stats().windows
    task = asyncio.create_task(run(engine, windows, None))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(30):
        while engine._requests:
            await asyncio.sleep(0.01)
    assert engine.stats().windows == finished


def test_text_of_a_high_temperature_is_no_prompt() -> None:
    text = WindowText(
        language="en", text="", segments=(), tokens=(7,), avg_logprob=0, no_speech_prob=0, compression_ratio=0
    )
    assert next_prompt_tokens((1, 2), text) == (1, 2, 7)
    assert next_prompt_tokens((1, 2), text.model_copy(update={"temperature": 0.6})) == ()
    assert len(next_prompt_tokens(range(500), text)) == 224
