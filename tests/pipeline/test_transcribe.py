"""The transcriber's flow with the real parts, and a recogniser to look over its shoulder."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pydub import AudioSegment

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.audio.windows import Block, Window
from serve_app.net.ssrf import guarded_session
from serve_app.pipeline.transcribe import BlockCache, transcribe
from serve_app.schemas.request import JobRequest, TranscriptionOptions
from serve_app.schemas.transcript import OnDelta, TextDelta
from serve_app.settings import AppSettings, LimitSettings
from serve_app.storage.blobs import BlobStore
from serve_app.whisper.window_text import WindowSegment, WindowText

DATA = Path(__file__).parents[1] / "data"
NOTHING = WindowText(
    language="en", text="", segments=(), tokens=(), avg_logprob=0, no_speech_prob=1, compression_ratio=0
)


async def run(  # type: ignore[no-untyped-def]
    tmp_path: Path,
    sound: bytes,
    recognise,
    windows: dict[str, float] | None = None,
    options: TranscriptionOptions | None = None,
    keeper: BlockCache | None = None,
    tell: OnDelta | None = None,
):
    settings = AppSettings(model="whisper-nano", data_dir=tmp_path, windows=windows or {})
    blobs = BlobStore(settings.blob_root)

    async def chunks():  # type: ignore[no-untyped-def]
        yield sound

    source = await blobs.write(chunks())
    request = JobRequest(source=source, options=options or TranscriptionOptions())
    shares: list[float] = []
    async with guarded_session(settings.network) as session:
        try:
            return await transcribe(
                request, settings.served_model(None), settings, blobs, session, recognise, shares.append, keeper, tell
            ), shares
        finally:
            assert not list(settings.spool_dir.iterdir()), "temporary files were left"


def minutes_of_speech(count: int) -> bytes:
    pcm = np.concatenate(list(AudioDecoder(DATA / "es.wav", LimitSettings())))
    segment = AudioSegment(pcm.tobytes(), sample_width=2, frame_rate=SAMPLE_RATE, channels=1)
    sound: bytes = (segment * (count * 60 * SAMPLE_RATE // len(pcm))).export(format="wav").read()
    return sound


async def test_blocks_are_out_together_but_no_more_than_allowed(tmp_path: Path) -> None:
    out, most, blocks = 0, 0, 0

    async def recognise(block: Block, previous: tuple[int, ...] | None) -> Sequence[WindowText]:
        nonlocal out, most, blocks
        out, blocks = out + 1, blocks + 1
        most = max(most, out)
        await asyncio.sleep(0.2)
        out -= 1
        return [NOTHING] * len(block.windows)

    transcript, shares = await run(tmp_path, minutes_of_speech(4), recognise, {"block_s": 20, "blocks_in_flight": 3})
    assert (transcript.text, most) == ("", 3)
    assert blocks > 10
    assert len(shares) == blocks
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("conditioned", [True, False])
async def test_a_window_is_told_as_soon_as_it_and_all_before_it_are_known(tmp_path: Path, conditioned: bool) -> None:
    begun: list[int] = []
    told: list[str] = []
    out = most = 0

    async def recognise(block: Block, previous: tuple[int, ...] | None) -> Sequence[WindowText]:
        nonlocal out, most
        (window,) = block.windows
        begun.append(window.start)
        number, out = len(begun), out + 1
        most = max(most, out)
        # Odd ones come late, and so must the even ones behind them.
        await asyncio.sleep(0.2 if number % 2 else 0.0)
        assert conditioned or len(told) < number
        out -= 1
        segment = WindowSegment(start=0.0, end=0.5, text=f" {number}", tokens=(number,))
        return [NOTHING.model_copy(update={"segments": (segment,)})]

    def tell(said: TextDelta) -> None:
        told.append(said.text)
        assert len(told) > 3 or len(begun) < 12, "told only when most was done"

    options = TranscriptionOptions(condition_on_previous_text=conditioned)
    windows = {"streamed_in_flight": 4}
    transcript, _ = await run(tmp_path, minutes_of_speech(3), recognise, windows, options, tell=tell)
    assert "".join(told) == transcript.text == " ".join(str(number) for number in range(1, len(begun) + 1))
    assert most == 1 if conditioned else 1 < most <= 4
    assert len(told) == len(begun) > 12


async def test_what_is_known_is_told_while_the_rest_is_cut(tmp_path: Path) -> None:
    told: list[str] = []
    lags: list[int] = []

    async def recognise(block: Block, previous: tuple[int, ...] | None) -> Sequence[WindowText]:
        lags.append(len(lags) - len(told))
        segment = WindowSegment(start=0.0, end=0.5, text=" one", tokens=(1,))
        return [NOTHING.model_copy(update={"segments": (segment,)})]

    await run(tmp_path, minutes_of_speech(3), recognise, tell=lambda said: told.append(said.text))
    assert max(lags) <= 2, "only the window before may still wait"


async def test_a_recording_is_cut_as_its_options_say(tmp_path: Path) -> None:
    async def recognise(block: Block, previous: tuple[int, ...] | None) -> Sequence[WindowText]:
        cuts.append(block.windows)
        return [NOTHING] * len(block.windows)

    found = []
    for vad in (None, {"pad_ms": 0}, {"threshold": 1}):
        cuts: list[tuple[Window, ...]] = []
        await run(tmp_path, minutes_of_speech(1), recognise, options=TranscriptionOptions(vad=vad))
        found.append(cuts)
    padded, bare, deaf = found
    assert padded[0][0].start < bare[0][0].start
    assert deaf == []


async def test_a_failing_block_ends_the_others(tmp_path: Path) -> None:
    cancelled = 0

    async def recognise(block: Block, previous: tuple[int, ...] | None) -> Sequence[WindowText]:
        nonlocal cancelled
        if block.start < 5 * SAMPLE_RATE:
            await asyncio.sleep(0.3)
            raise OSError("the replica is on fire")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return []

    with pytest.raises(OSError, match="on fire"):
        await run(tmp_path, minutes_of_speech(2), recognise, {"block_s": 20, "blocks_in_flight": 3})
    await asyncio.sleep(0)
    assert cancelled == 2


async def test_silence_asks_for_nothing(tmp_path: Path) -> None:
    async def recognise(_: Block) -> Sequence[WindowText]:
        raise AssertionError("nothing was said")

    sound = AudioSegment.silent(5000, SAMPLE_RATE).export(format="wav").read()
    transcript, _ = await run(tmp_path, sound, recognise)
    assert (transcript.text, transcript.language, transcript.duration) == ("", None, 5.0)


async def test_a_recording_that_breaks_off_is_transcribed_with_a_warning(tmp_path: Path) -> None:
    async def recognise(block: Block, previous: tuple[int, ...] | None) -> Sequence[WindowText]:
        return [NOTHING] * len(block.windows)

    whole = (DATA / "fr.flac").read_bytes()
    transcript, _ = await run(tmp_path, whole[: len(whole) // 2], recognise)
    assert 0.5 < transcript.duration < 3
    assert transcript.warnings


@pytest.mark.parametrize("conditioned", [True, False])
async def test_blocks_are_told_what_was_said_before(tmp_path: Path, conditioned: bool) -> None:
    """One after the other if so; and which block is the first is known in any case."""
    told: list[tuple[int, ...] | None] = []
    out = 0

    async def recognise(block: Block, previous: tuple[int, ...] | None) -> Sequence[WindowText]:
        nonlocal out
        told.append(previous)
        out += 1
        assert out == 1 or not conditioned
        await asyncio.sleep(0.05)
        out -= 1
        hot = 1.0 if len(told) == 3 else 0.0
        return [NOTHING.model_copy(update={"tokens": (len(told),), "temperature": hot})] * len(block.windows)

    options = TranscriptionOptions(condition_on_previous_text=conditioned)
    await run(tmp_path, minutes_of_speech(2), recognise, {"block_s": 20, "blocks_in_flight": 3}, options)
    assert told[0] is None
    if conditioned:
        assert set(told[1] or ()) == {1}
        assert set(told[2] or ()) == {1, 2}
        assert told[3] == (), "what took a high temperature to find is not handed on"
        assert set(told[4] or ()) == {4}
    else:
        assert set(told[1:]) == {()}


class Shelf:
    """Blocks kept in memory."""

    def __init__(self) -> None:
        self.blocks: dict[int, str] = {}

    async def load_blocks(self) -> dict[int, str]:
        return dict(self.blocks)

    async def save_block(self, number: int, content: str) -> None:
        self.blocks[number] = content


@pytest.mark.parametrize("conditioned", [True, False])
async def test_a_run_that_begins_again_does_only_what_is_missing(tmp_path: Path, conditioned: bool) -> None:
    """And says the same as one that was never lost, also where a block needs the text before it."""
    asked: list[int] = []
    lost_at: int | None = None

    async def recognise(block: Block, previous: tuple[int, ...] | None) -> Sequence[WindowText]:
        if lost_at is not None and block.start > lost_at * SAMPLE_RATE:
            raise OSError("the replica is gone")
        asked.append(block.start)
        tokens = (block.start, *(previous or ())[-1:])
        segment = WindowSegment(start=0.0, end=0.5, text=f"{tokens}", tokens=tokens)
        return [NOTHING.model_copy(update={"tokens": tokens, "segments": (segment,)})] * len(block.windows)

    options = TranscriptionOptions(condition_on_previous_text=conditioned)
    windows = {"block_s": 20, "blocks_in_flight": 2}
    whole, _ = await run(tmp_path, minutes_of_speech(2), recognise, windows, options)
    assert whole.segments
    every, asked, lost_at, shelf = asked, [], 60, Shelf()
    with pytest.raises(OSError, match="gone"):
        await run(tmp_path, minutes_of_speech(2), recognise, windows, options, shelf)
    kept = {every[number] for number in shelf.blocks}
    assert kept
    asked, lost_at = [], None
    resumed, _ = await run(tmp_path, minutes_of_speech(2), recognise, windows, options, shelf)
    assert resumed.segments == whole.segments
    assert sorted(asked) == sorted(set(every) - kept)


async def test_what_another_model_wrote_is_not_taken(tmp_path: Path) -> None:
    asked: list[int] = []

    async def recognise(block: Block, previous: tuple[int, ...] | None) -> Sequence[WindowText]:
        asked.append(block.start)
        return [NOTHING] * len(block.windows)

    shelf = Shelf()
    await run(tmp_path, minutes_of_speech(1), recognise, {"block_s": 20}, keeper=shelf)
    blocks = len(asked)
    shelf.blocks = {number: text.replace("whisper-nano", "large-v3") for number, text in shelf.blocks.items()}
    await run(tmp_path, minutes_of_speech(1), recognise, {"block_s": 20}, keeper=shelf)
    assert len(asked) == 2 * blocks
