"""Other engines as their users run them: with a file as input, and default options for everything but the weights."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import baselines
from benchmarks.engines import to_float
from benchmarks.real_speech.transcript import EngineTranscript, TimedText
from benchmarks.real_speech.whisper_serve import Transcribe
from testing.recordings import decode_recording

LoadModel = Callable[[Path, int], Callable[[str, bool], EngineTranscript]]


@asynccontextmanager
async def run_in_thread(load: LoadModel, checkpoint: Path, threads: int) -> AsyncIterator[Transcribe]:
    """Adapt a blocking library to the interface of our engine."""
    transcribe_file = load(checkpoint, threads)

    async def transcribe(path: Path, words: bool) -> EngineTranscript:
        return await asyncio.to_thread(transcribe_file, str(path), words)

    yield transcribe


def _samples(path: str) -> NDArray[np.float32]:
    """Decode a file as the service does: openai-whisper and transformers would call ffmpeg."""
    return to_float(decode_recording(Path(path)))


def openai(checkpoint: Path, threads: int) -> Callable[[str, bool], EngineTranscript]:
    """Load openai-whisper as its command `whisper` runs it: beam 5, best of 5, conditioned on earlier text."""
    model = baselines.OpenAIWhisper(checkpoint, threads).model
    # For a model loaded from a path, openai-whisper would use all heads of the upper layers.
    generation_config = json.loads((checkpoint / "generation_config.json").read_text())
    heads = torch.zeros(model.dims.n_text_layer, model.dims.n_text_head, dtype=torch.bool)
    for layer, head in generation_config["alignment_heads"]:
        heads[layer, head] = True
    model.register_buffer("alignment_heads", heads.to_sparse(), persistent=False)

    def transcribe(path: str, words: bool) -> EngineTranscript:
        result = model.transcribe(
            _samples(path),
            temperature=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
            beam_size=5,
            best_of=5,
            condition_on_previous_text=True,
            fp16=False,
            word_timestamps=words,
        )
        segments = tuple(TimedText(s["text"], s["start"], s["end"]) for s in result["segments"])
        timed = (word for s in result["segments"] for word in s.get("words", ()))
        return EngineTranscript(
            result["text"],
            result["language"],
            segments,
            tuple(TimedText(w["word"], w["start"], w["end"]) for w in timed),
        )

    return transcribe


def _faster(result: tuple[Iterable[Any], Any]) -> EngineTranscript:
    segments = list(result[0])
    words = tuple(TimedText(w.word, w.start, w.end) for s in segments for w in s.words or ())
    text = "".join(segment.text for segment in segments)
    return EngineTranscript(text, result[1].language, tuple(TimedText(s.text, s.start, s.end) for s in segments), words)


def faster(checkpoint: Path, threads: int, precision: str) -> Callable[[str, bool], EngineTranscript]:
    """Load faster-whisper's `WhisperModel`: beam 5, no VAD, conditioned on earlier text."""
    model = baselines.FasterWhisper(checkpoint, threads, precision).model
    return lambda path, words: _faster(model.transcribe(path, word_timestamps=words))


def batched(checkpoint: Path, threads: int, precision: str) -> Callable[[str, bool], EngineTranscript]:
    """Load faster-whisper's `BatchedInferencePipeline`: beam 5, VAD, 8 windows at a time, no fallback."""
    from faster_whisper import BatchedInferencePipeline

    pipeline = BatchedInferencePipeline(baselines.FasterWhisper(checkpoint, threads, precision).model)
    return lambda path, words: _faster(pipeline.transcribe(path, batch_size=8, word_timestamps=words))


def transformers(checkpoint: Path, threads: int) -> Callable[[str, bool], EngineTranscript]:
    """Load transformers' pipeline: chunks of 30 s, 8 at a time, timestamps, its default of 5 beams."""
    from transformers import pipeline

    recogniser = pipeline("automatic-speech-recognition", model=str(checkpoint), device="cpu", dtype="float32")

    options = {
        "chunk_length_s": 30,
        "batch_size": 8,
        # Some generation configs do not set the task, and then the prompt has none.
        "generate_kwargs": {"task": "transcribe"},
    }

    def transcribe(path: str, words: bool) -> EngineTranscript:
        result = recogniser(_samples(path), return_timestamps="word" if words else True, **options)
        pieces = tuple(
            TimedText(chunk["text"], start, start if end is None else end)
            for chunk in result["chunks"]
            for start, end in [chunk["timestamp"]]
            if start is not None
        )
        # With `return_language` it fails on several chunks and on word timestamps.
        return EngineTranscript(result["text"], None, () if words else pieces, pieces if words else ())

    return transcribe
