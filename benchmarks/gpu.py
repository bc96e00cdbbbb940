"""Measure the engine on a CUDA device against transformers (`make bench-gpu`), without service and network.

    python -m benchmarks.gpu                                  large-v3-turbo and large-v3, about ten minutes each
    python -m benchmarks.gpu --layouts large-v3-turbo --windows 256 --repeats 2
    python -m benchmarks.gpu --layouts tiny --device cpu --windows 4 --rows 2 4 --repeats 1     a test of the code

Weights are random, in the layouts of the published models: speed does not depend on the text. The lengths of texts are
those of a recorded trace (97 tokens on average, deviation 22): the end token is suppressed until then. Three tiers are
measured separately, engines in turns:

  encoder   features to encoder states, in windows a second
  step      one token for every row, in milliseconds, by number of rows
  tokens    samples in memory to tokens, in seconds of audio a second
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    pipeline,
)
from transformers.utils import logging

from benchmarks.layouts import LAYOUTS, write
from benchmarks.speed import interleave, machine, positive_int, versions
from serve_app.audio import SAMPLE_RATE
from serve_app.schemas.request import MODEL_DEFAULT_TOKENS, TranscriptionOptions
from serve_app.settings import WhisperSettings
from serve_app.whisper.decoding.decoder import Decoder, DecodeRequest
from serve_app.whisper.decoding.search import SearchConfig
from serve_app.whisper.engine.engine import Engine
from serve_app.whisper.engine.scheduler import Batching
from serve_app.whisper.model.whisper_model import WhisperModel

_RESULTS = Path(__file__).parent / "results"
WINDOW_S = 30
MAX_TOKENS = 224
"""The maximum number of tokens of a text."""

Pass = Callable[[], int]
"""Runs one pass of an engine and returns the amount of work it did."""


def text_lengths(count: int, seed: int = 0) -> list[int]:
    """Return token counts of windows packed with speech: 97 on average, deviation 22."""
    drawn = np.random.default_rng(seed).normal(97, 22, count).round()
    return [int(length) for length in drawn.clip(4, MAX_TOKENS)]


@dataclass(frozen=True)
class BenchmarkInput:
    """The input of every engine: checkpoint, device, a full window, the lengths of the windows' texts, rows."""

    folder: Path
    device: str
    sound: NDArray[np.int16]
    lengths: list[int]
    rows: int


class ForcedLengths(LogitsProcessor):
    """Ends each row of a batch after a given number of tokens, no sooner and no later."""

    def __init__(self, lengths: Sequence[int], prefix: int, end: int) -> None:
        self._lengths, self._prefix, self._end = lengths, prefix, end

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        written = input_ids.shape[1] - self._prefix
        over = torch.tensor([written >= length for length in self._lengths[: len(scores)]], device=scores.device)
        ends = torch.full_like(scores, float("-inf"))
        ends[:, self._end] = 0
        scores = scores.clone()
        scores[:, self._end] = float("-inf")
        return torch.where(over[:, None], ends, scores)


class WhisperServe:
    """This project's engine."""

    def __init__(self, inputs: BenchmarkInput) -> None:
        self._inputs = inputs
        self.model = WhisperModel.load(str(inputs.folder), WhisperSettings(device=inputs.device))  # type: ignore[arg-type]
        self._end = self.model.card.tokens.end

    def encoder(self, batch: int) -> Pass:
        """Return a pass of the encoder alone, `batch` windows at a time."""
        features = self.model.features([self._inputs.sound] * batch)

        def run() -> int:
            self.model.encode(features)
            self.model.synchronize()
            return batch

        return run

    def step(self, rows: int) -> Pass:
        """Return a pass of decoding steps with all rows in use."""
        states = self.model.encode(self.model.features([self._inputs.sound]))
        decoder = Decoder(self.model, rows)
        english = next(iter(self.model.card.tokens.languages.values()))
        request = DecodeRequest(
            language=english, with_timestamps=False, suppressed=(self._end,), search=SearchConfig(rows=1)
        )
        for _ in range(rows):
            decoder.add_sequences(states, [request])

        def run(count: int = 20) -> int:
            for _ in range(count):
                decoder.step()
            self.model.synchronize()
            return count

        return run

    def end_to_end(self) -> Pass:
        """Return a pass from samples to tokens through the engine."""
        self._engine = engine = Engine(self.model, Batching(max_batch_size=self._inputs.rows))
        options = TranscriptionOptions(
            language="en",
            timestamps="none",
            temperature_increment_on_fallback=None,
            suppress_tokens=(MODEL_DEFAULT_TOKENS, self._end),
        )
        each = [options.model_copy(update={"max_new_tokens": length}) for length in self._inputs.lengths]

        def run() -> int:
            futures = [engine.submit(self._inputs.sound, option, "benchmark") for option in each]
            return sum(len(future.result(60).tokens) for future in futures)

        return run

    def close(self) -> None:
        if self._engine:
            self._engine.close()

    _engine: Engine | None = None


class Transformers:
    """transformers, through `generate` and its pipeline."""

    VARIANTS = ("generate, SDPA", "generate, static cache", "pipeline, 24 at a time", "pipeline, 96 at a time")

    def __init__(self, inputs: BenchmarkInput) -> None:
        self._inputs = inputs
        logging.set_verbosity_error()
        self._dtype = torch.float16 if inputs.device == "cuda" else torch.float32
        self._network = WhisperForConditionalGeneration.from_pretrained(
            inputs.folder, dtype=self._dtype, attn_implementation="sdpa"
        ).to(inputs.device)  # type: ignore[arg-type]
        self._processor = WhisperProcessor.from_pretrained(inputs.folder)
        self._end = self._network.generation_config.eos_token_id
        self._generate_options: dict[str, Any] = {
            **{"language": "en", "task": "transcribe", "num_beams": 1},
            **{"return_timestamps": False, "max_new_tokens": MAX_TOKENS},
        }

    def run(self, name: str, batch: int) -> int:
        """Run one pass of the named variant."""
        match name.split(", "):
            case ["encoder"]:
                done = self._encode(batch)
            case ["generate", cache]:
                done = self._generate(static=cache == "static cache")
            case _:
                done = self._run_pipeline(int(name.split()[1]))
        if self._inputs.device == "cuda":
            torch.cuda.synchronize()
        return done

    def _features(self, windows: int) -> Tensor:
        sound = self._inputs.sound.astype(np.float32) / 32768
        return self._processor.feature_extractor(
            [sound] * windows, sampling_rate=SAMPLE_RATE, return_tensors="pt", device=self._inputs.device
        ).input_features.to(self._inputs.device, self._dtype)

    def _encode(self, batch: int) -> int:
        if self._encoded is None or len(self._encoded) != batch:
            self._encoded = self._features(batch)
        with torch.inference_mode():
            self._network.model.encoder(self._encoded)
        return batch

    _encoded: Tensor | None = None

    def _generate(self, static: bool) -> int:
        tokens, rows = 0, self._inputs.rows
        for first in range(0, len(self._inputs.lengths), rows):
            lengths = self._inputs.lengths[first : first + rows]
            processors = LogitsProcessorList([ForcedLengths(lengths, prefix=4, end=self._end)])
            cache = {"cache_implementation": "static"} if static else {}
            features = self._features(len(lengths))
            made = self._network.generate(features, logits_processor=processors, **self._generate_options, **cache)
            tokens += int((made < self._end).sum())
        return tokens

    def _run_pipeline(self, batch: int) -> int:
        asr = pipeline(
            "automatic-speech-recognition",
            model=self._network,
            tokenizer=self._processor.tokenizer,
            feature_extractor=self._processor.feature_extractor,
            chunk_length_s=WINDOW_S,
            batch_size=batch,
            device=self._inputs.device,
        )
        windows = len(self._inputs.lengths)
        processors = LogitsProcessorList(
            [ForcedLengths(self._inputs.lengths * (1 + batch // windows), prefix=4, end=self._end)]
        )
        sound = np.tile(self._inputs.sound.astype(np.float32) / 32768, windows)
        asr(
            {"raw": sound, "sampling_rate": SAMPLE_RATE},
            generate_kwargs={**self._generate_options, "logits_processor": processors},
        )
        return sum(self._inputs.lengths)


class TransformersProcess:
    """transformers in a process of its own: when torch compiles, it frees workspaces that other graphs still use."""

    def __init__(self, inputs: BenchmarkInput) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, remote_end = context.Pipe()
        self._process = context.Process(target=_serve_requests, args=(remote_end, inputs), daemon=True)
        self._process.start()

    def run(self, name: str, batch: int = 0) -> Pass:
        def run() -> int:
            self._pipe.send((name, batch))
            done = self._pipe.recv()
            assert isinstance(done, int)
            return done

        return run

    def close(self) -> None:
        self._process.terminate()
        self._process.join()


def _serve_requests(pipe: Connection, inputs: BenchmarkInput) -> None:
    transformers = Transformers(inputs)
    while True:
        pipe.send(transformers.run(*pipe.recv()))


def measure(engines: dict[str, Pass], repeats: int) -> dict[str, dict[str, Any]]:
    """Run passes in turns, A B A B …, after a warm-up of each; return the work and the seconds of each engine."""
    found: dict[str, dict[str, Any]] = {name: {"seconds": []} for name in engines}
    for place, name in enumerate(interleave(engines, 1 + repeats)):
        start = time.perf_counter()
        found[name]["done"] = engines[name]()
        seconds = time.perf_counter() - start
        if place >= len(engines):
            found[name]["seconds"].append(round(seconds, 5))
        print(f"    {name:24} {seconds:8.3f} s{'  (warm-up)' if place < len(engines) else ''}", flush=True)
    return found


def run(
    layout: str, device: str, windows: int, rows: Sequence[int], repeats: int, folder: Path, skipped: Sequence[str] = ()
) -> dict[str, Any]:
    """Run all tiers of one layout; `skipped` variants are left out of the last."""
    checkpoint = folder / layout
    if not (checkpoint / "config.json").exists():
        write(layout, checkpoint)
    noise = np.random.default_rng(1).normal(0, 2000, WINDOW_S * SAMPLE_RATE).astype(np.int16)
    inputs = BenchmarkInput(checkpoint, device, noise, text_lengths(windows), max(rows))
    ours, transformers = WhisperServe(inputs), TransformersProcess(inputs)
    figures: dict[str, Any] = {"tokens_per_window": round(float(np.mean(inputs.lengths)), 1)}
    figures |= {"dtype": str(ours.model.dtype), "encoder": {}, "step": {}}
    for count in rows:
        print(f"  encoder, {count} at a time", flush=True)
        both = {"ours": ours.encoder(count), "transformers": transformers.run("encoder", count)}
        figures["encoder"][count] = measure(both, repeats)
    for count in rows:
        print(f"  step, {count} rows", flush=True)
        figures["step"][count] = measure({"ours": ours.step(count)}, repeats)
    print(f"  tokens, {windows} windows, {inputs.rows} rows", flush=True)
    end_to_end = {"ours": ours.end_to_end()} | {
        name: transformers.run(name) for name in Transformers.VARIANTS if name not in skipped
    }
    figures["tokens"] = measure(end_to_end, repeats)
    ours.close()
    transformers.close()
    for name, found in figures["tokens"].items():
        found["real_time"] = round(windows * WINDOW_S / median(found["seconds"]), 1)
        print(f"  {name:26} {found['real_time']:8.1f} × real time")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    both = ["large-v3-turbo", "large-v3"]
    known = f"of {', '.join(LAYOUTS)}"
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=both, metavar="LAYOUT", help=known)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--windows", type=positive_int, default=512, help="number of 30 s windows (512)")
    parser.add_argument("--rows", type=positive_int, nargs="+", default=[1, 8, 16, 32, 64, 128], help="batch sizes")
    parser.add_argument("--repeats", type=positive_int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("data/bench"), help="folder for the checkpoints")
    parser.add_argument(
        "--skip", nargs="+", choices=Transformers.VARIANTS, default=[], help="variants of transformers to skip"
    )
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results/")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device found; test the code with --device cpu --layouts tiny")
    logging.set_verbosity_error()
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    result: dict[str, Any] = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "device": device}
    result |= {"machine": machine(torch.get_num_threads()), "versions": versions(), "layouts": {}}
    for layout in arguments.layouts:
        print(layout, flush=True)
        result["layouts"][layout] = run(
            layout,
            arguments.device,
            arguments.windows,
            arguments.rows,
            arguments.repeats,
            arguments.folder,
            arguments.skip,
        )
        if arguments.save:
            path = _RESULTS / f"gpu-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
            path.write_text(json.dumps(result, indent=1) + "\n")
            print(f"saved {path}")


if __name__ == "__main__":
    main()
