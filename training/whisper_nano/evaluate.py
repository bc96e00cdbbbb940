"""Score checkpoints, without the service, on held-out recordings (see benchmarks.heldout_set).

    python -m training.whisper_nano.evaluate serve_app/models/whisper-nano data/training/whisper-nano/model

Recordings are cut into windows at the true pauses, and decoded greedily in float32 with transformers.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.utils import logging

from serve_app.audio import SAMPLE_RATE
from testing.scoring import match_boundaries, normalise, word_error_rate
from training.whisper_nano.digits import WORDS
from training.whisper_nano.tokenizer import TIMESTAMPS, token_id

TIMESTAMP_S = 0.02
BATCH = 8


@dataclass(frozen=True)
class Window:
    """A part of a recording and its utterances, with times from its start."""

    recording: dict[str, Any]
    samples: npt.NDArray[np.float32]
    utterances: list[dict[str, Any]]
    offset: float

    @property
    def language(self) -> str:
        return str(self.recording["language"])

    @property
    def text(self) -> str:
        return " ".join(utterance["text"] for utterance in self.utterances)


def read(path: Path) -> npt.NDArray[np.float32]:
    """Decode a whole recording to 16 kHz mono."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE)
        frames = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
        return np.concatenate([frame.to_ndarray()[0] for frame in [*frames, *resampler.resample(None)]])


def windows(recording: dict[str, Any], samples: npt.NDArray[np.float32], longest: float) -> Iterator[Window]:
    """Yield windows of as many utterances as fit into `longest` seconds, cut in the middle of pauses."""
    spoken = recording["utterances"]
    begin, end = max(0.0, spoken[0]["start"] - 1), min(len(samples) / SAMPLE_RATE, spoken[-1]["end"] + 1)
    edges = [begin, *((left["end"] + right["start"]) / 2 for left, right in pairwise(spoken)), end]
    first = 0
    for index in range(1, len(spoken) + 1):
        if index == len(spoken) or edges[index + 1] - edges[first] > longest:
            windows_to_score = samples[round(edges[first] * SAMPLE_RATE) : round(edges[index] * SAMPLE_RATE)]
            yield Window(recording, windows_to_score, spoken[first:index], edges[first])
            first = index


class Scorer:
    """A checkpoint with its processor."""

    def __init__(self, checkpoint: str) -> None:
        self.model = WhisperForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.processor = WhisperProcessor.from_pretrained(checkpoint)
        self.tokenizer = self.processor.tokenizer
        self.first_timestamp = token_id(self.tokenizer, TIMESTAMPS[0])

    def features(self, batch: Sequence[npt.NDArray[np.float32]]) -> torch.Tensor:
        features: torch.Tensor = self.processor.feature_extractor(
            list(batch), sampling_rate=SAMPLE_RATE, return_tensors="pt"
        ).input_features
        return features

    def batches(self, windows_to_score: Sequence[Window]) -> Iterator[tuple[list[Window], torch.Tensor]]:
        for _, same in groupby(
            sorted(windows_to_score, key=lambda window: window.language), key=lambda window: window.language
        ):
            group = list(same)
            for start in range(0, len(group), BATCH):
                batch = group[start : start + BATCH]
                yield batch, self.features([window.samples for window in batch])

    def text(self, tokens: Sequence[int]) -> str:
        words = [token for token in tokens if token < self.first_timestamp]
        return str(self.tokenizer.decode(words, skip_special_tokens=True))

    def segments(self, tokens: Sequence[int]) -> list[tuple[float, float]]:
        times = [(token - self.first_timestamp) * TIMESTAMP_S for token in tokens if token >= self.first_timestamp]
        return list(zip(times[::2], times[1::2], strict=False))

    def transcription_scores(self, windows_to_score: Sequence[Window]) -> dict[str, float]:
        """Score words and boundaries with timestamps, language detection, and word starts in windows without errors."""
        pairs, boundaries, detected, start_errors = [], [], [], []
        for batch, features in self.batches(windows_to_score):
            language = batch[0].language
            answer = self.model.generate(
                features, language=language, task="transcribe", return_timestamps=True, return_token_timestamps=True
            )
            detected_languages = self.model.detect_language(features, generation_config=self.model.generation_config)
            detected += [self.tokenizer.decode([token]) == f"<|{language}|>" for token in detected_languages.tolist()]
            for window, tokens, times in zip(
                batch, answer["sequences"].tolist(), answer["token_timestamps"].tolist(), strict=True
            ):
                pairs.append((window.text, self.text(tokens)))
                spoken = [(u["start"] - window.offset, u["end"] - window.offset) for u in window.utterances]
                boundaries += match_boundaries(spoken, self.segments(tokens))
                if normalise(pairs[-1][0]) == normalise(pairs[-1][1]):
                    start_errors += self.word_start_errors(window, tokens, times)
        return {
            "wer": word_error_rate(pairs),
            "boundaries": float(np.mean(boundaries)),
            "language": float(np.mean(detected)),
            "word starts 0.1 s": float(np.mean(np.array(start_errors) <= 0.1)),
            "word starts 0.2 s": float(np.mean(np.array(start_errors) <= 0.2)),
        }

    def word_start_errors(self, window: Window, tokens: list[int], times: list[float]) -> list[float]:
        """Return the error in seconds of each word's start. A token's time is its end: a word starts at the end of the
        token before it.
        """
        first_special = self.tokenizer.eos_token_id
        positions = [index for index, token in enumerate(tokens) if token < first_special]
        words = [word for utterance in window.utterances for word in utterance["words"]]
        if len(positions) != len(words):
            return []
        return [
            abs(times[position - 1] + window.offset - word["start"])
            for position, word in zip(positions, words, strict=True)
        ]

    def translation_scores(self, windows_to_score: Sequence[Window]) -> dict[str, float]:
        """Score the English translation of windows in other languages."""
        pairs = []
        for batch, features in self.batches([window for window in windows_to_score if window.language != "en"]):
            tokens = self.model.generate(features, language=batch[0].language, task="translate", return_timestamps=True)
            english = dict(zip(WORDS[batch[0].language], WORDS["en"], strict=True))
            pairs += [
                (" ".join(english[word] for word in window.text.split()), self.text(predicted))
                for window, predicted in zip(batch, tokens.tolist(), strict=True)
            ]
        return {"wer translated": word_error_rate(pairs)}

    def prompted_scores(self, windows_to_score: Sequence[Window]) -> dict[str, float]:
        """Score words with the text of the recording's previous window as the prompt, including timestamps."""
        previous_token = self.model.generation_config.prev_sot_token_id
        pairs = []
        for _, same in groupby(windows_to_score, key=lambda window: window.recording["file"]):
            previous: list[int] = []
            for window in same:
                prompt = torch.tensor([previous_token, *previous]) if previous else None
                tokens = self.model.generate(
                    self.features([window.samples]),
                    language=window.language,
                    task="transcribe",
                    return_timestamps=True,
                    prompt_ids=prompt,
                )[0].tolist()
                predicted = [t for t in tokens if t >= self.first_timestamp or t < self.tokenizer.eos_token_id]
                pairs.append((window.text, self.text(predicted)))
                previous = predicted
        return {"wer conditioned": word_error_rate(pairs)}

    def hallucination_scores(self, silent: Sequence[npt.NDArray[np.float32]], longest: float) -> dict[str, float]:
        """Return the share of windows without speech that have words."""
        chunks = [
            samples[start : start + round(longest * SAMPLE_RATE)]
            for samples in silent
            for start in range(0, len(samples), round(longest * SAMPLE_RATE))
        ]
        has_text = []
        for start in range(0, len(chunks), BATCH):
            features = self.features(chunks[start : start + BATCH])
            tokens = self.model.generate(features, language="en", task="transcribe", return_timestamps=True)
            has_text += [bool(normalise(self.text(predicted))) for predicted in tokens.tolist()]
        return {"silence with text": float(np.mean(has_text))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", help="checkpoint folders")
    parser.add_argument("--recordings", type=Path, default=Path("data/heldout"))
    parser.add_argument("--window", type=float, default=10.0, help="longest window in seconds (10)")
    parser.add_argument("--most", type=int, default=100_000, help="maximum number of windows of each recording")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    logging.set_verbosity_error()
    windows_to_score: list[Window] = []
    silent = []
    for recording in json.loads((arguments.recordings / "truth.json").read_text())["recordings"]:
        samples = read(arguments.recordings / recording["file"])
        if recording["kind"] == "speech":
            windows_to_score += list(windows(recording, samples, arguments.window))[: arguments.most]
        else:
            silent.append(samples)
    print(
        f"{len(windows_to_score)} windows of at most {arguments.window:g} s, {len(silent)} recordings without speech",
        flush=True,
    )
    for checkpoint in arguments.checkpoints:
        scorer = Scorer(checkpoint)
        print(checkpoint)
        parts = (
            lambda scorer=scorer: scorer.transcription_scores(windows_to_score),
            lambda scorer=scorer: scorer.translation_scores(windows_to_score),
            lambda scorer=scorer: scorer.prompted_scores(windows_to_score),
            lambda scorer=scorer: scorer.hallucination_scores(silent, arguments.window),
        )
        for part in parts:
            for name, share in part().items():
                print(f"  {name:20}{share:8.2%}", flush=True)


if __name__ == "__main__":
    main()
