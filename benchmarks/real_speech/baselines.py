"""The peers as their users run them: given a file, with their own defaults for everything but the weights."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import baselines as peers
from benchmarks.engines import sound
from benchmarks.real_speech.transcript import Heard, Timed
from benchmarks.real_speech.whisper_serve import Hear
from serve_app.audio.decode import Decoding
from serve_app.settings import LimitSettings

Open = Callable[[Path, int], Callable[[str, bool], Heard]]


@asynccontextmanager
async def opened(load: Open, checkpoint: Path, threads: int) -> AsyncIterator[Hear]:
    """A library that blocks, behind the interface of ours."""
    transcribe = load(checkpoint, threads)

    async def hear(path: Path, words: bool) -> Heard:
        return await asyncio.to_thread(transcribe, str(path), words)

    yield hear


def _samples(path: str) -> NDArray[np.float32]:
    """The file's sound, decoded as the service does: openai-whisper and transformers would call a program for it."""
    return sound(np.concatenate(list(Decoding(Path(path), LimitSettings()))))


def openai(checkpoint: Path, threads: int) -> Callable[[str, bool], Heard]:
    """openai-whisper as its command `whisper` runs it: beam 5, best of 5, the ladder, conditioned on earlier text."""
    model = peers.OpenAI(checkpoint, threads).model
    # Its own file of a known model has these; in one that is loaded from a path all of the upper layers count.
    told = json.loads((checkpoint / "generation_config.json").read_text())
    heads = torch.zeros(model.dims.n_text_layer, model.dims.n_text_head, dtype=torch.bool)
    for layer, head in told["alignment_heads"]:
        heads[layer, head] = True
    model.register_buffer("alignment_heads", heads.to_sparse(), persistent=False)

    def transcribe(path: str, words: bool) -> Heard:
        answer = model.transcribe(
            _samples(path),
            temperature=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
            beam_size=5,
            best_of=5,
            condition_on_previous_text=True,
            fp16=False,
            word_timestamps=words,
        )
        segments = tuple(Timed(s["text"], s["start"], s["end"]) for s in answer["segments"])
        timed = (word for s in answer["segments"] for word in s.get("words", ()))
        return Heard(
            answer["text"], answer["language"], segments, tuple(Timed(w["word"], w["start"], w["end"]) for w in timed)
        )

    return transcribe


def _faster(answer: tuple[Iterable[Any], Any]) -> Heard:
    segments = list(answer[0])
    words = tuple(Timed(w.word, w.start, w.end) for s in segments for w in s.words or ())
    text = "".join(segment.text for segment in segments)
    return Heard(text, answer[1].language, tuple(Timed(s.text, s.start, s.end) for s in segments), words)


def faster(checkpoint: Path, threads: int, precision: str) -> Callable[[str, bool], Heard]:
    """faster-whisper's `WhisperModel.transcribe`: beam 5, no VAD, conditioned on earlier text."""
    model = peers.FasterWhisper(checkpoint, threads, precision).model
    return lambda path, words: _faster(model.transcribe(path, word_timestamps=words))


def batched(checkpoint: Path, threads: int, precision: str) -> Callable[[str, bool], Heard]:
    """faster-whisper's `BatchedInferencePipeline`: beam 5, VAD, 8 windows at a time, no fallback."""
    from faster_whisper import BatchedInferencePipeline

    pipeline = BatchedInferencePipeline(peers.FasterWhisper(checkpoint, threads, precision).model)
    return lambda path, words: _faster(pipeline.transcribe(path, batch_size=8, word_timestamps=words))


def transformers(checkpoint: Path, threads: int) -> Callable[[str, bool], Heard]:
    """transformers' pipeline over chunks of 30 s, 8 at a time, with timestamps and its default of 5 beams."""
    from transformers import pipeline

    recogniser = pipeline("automatic-speech-recognition", model=str(checkpoint), device="cpu", dtype="float32")

    options = {
        "chunk_length_s": 30,
        "batch_size": 8,
        # Not every checkpoint's generation config says so, and without it none is in the prompt.
        "generate_kwargs": {"task": "transcribe"},
    }

    def transcribe(path: str, words: bool) -> Heard:
        answer = recogniser(_samples(path), return_timestamps="word" if words else True, **options)
        pieces = tuple(
            Timed(chunk["text"], start, start if end is None else end)
            for chunk in answer["chunks"]
            for start, end in [chunk["timestamp"]]
            if start is not None
        )
        # Asked for the language, it fails on several chunks, and on the times of words.
        return Heard(answer["text"], None, () if words else pieces, pieces if words else ())

    return transcribe
