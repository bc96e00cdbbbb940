"""Measure the engine on a CUDA device against transformers (`make bench-gpu`); no service, no network.

    python -m benchmarks.gpu                                  large-v3-turbo and large-v3, about ten minutes each
    python -m benchmarks.gpu --layouts large-v3-turbo --windows 256 --repeats 2
    python -m benchmarks.gpu --layouts tiny --device cpu --windows 4 --rows 2 4 --repeats 1     does it run at all

Weights are random, in the layouts of the published models, and made on the spot: speed does not depend on what they
say. Texts are as long as a recorded trace has them, window by window (97 tokens on average, deviation 22): the end
token is forbidden until then. Three tiers, each timed by itself, engines in turn:

  encoder   features to encoder states, in windows a second
  step      one token for every row, in milliseconds, by number of rows
  tokens    samples in memory to tokens, in seconds of sound a second
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
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
from benchmarks.speed import machine, positive, turns, versions
from serve_app.audio import SAMPLE_RATE
from serve_app.options import MODELS_OWN, TranscriptionOptions
from serve_app.settings import WhisperSettings
from serve_app.whisper.decoder import Decoder, Instruction
from serve_app.whisper.engine import Engine
from serve_app.whisper.model import WhisperModel
from serve_app.whisper.scheduler import Batching
from serve_app.whisper.search import Plan

_RESULTS = Path(__file__).parent / "results"
WINDOW_S = 30
LONGEST = 224
"""Tokens of a text at most."""

Pass = Callable[[], int]
"""One pass of an engine: how much it did."""


def trace(count: int, seed: int = 0) -> list[int]:
    """Tokens of windows packed with speech: 97 on average, deviation 22."""
    drawn = np.random.default_rng(seed).normal(97, 22, count).round()
    return [int(length) for length in drawn.clip(4, LONGEST)]


@dataclass
class Bed:
    """A checkpoint on a device, for every engine; `sound`: a full window, `lengths` of the windows' texts."""

    folder: Path
    device: str
    sound: NDArray[np.int16]
    lengths: list[int]

    def __post_init__(self) -> None:
        self.ours = WhisperModel.load(str(self.folder), WhisperSettings(device=self.device))  # type: ignore[arg-type]
        self.theirs = WhisperForConditionalGeneration.from_pretrained(
            self.folder, dtype=self.ours.dtype, attn_implementation="sdpa"
        ).to(self.device)  # type: ignore[arg-type]
        self.processor = WhisperProcessor.from_pretrained(self.folder)
        self.end = self.ours.card.tokens.end

    def wait(self) -> None:
        """Until the device has done everything."""
        self.ours.synchronize()


class Lengths(LogitsProcessor):
    """Lets each row of a batch end after so many tokens, no sooner and no later."""

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


def encoders(bed: Bed, batch: int) -> dict[str, Pass]:
    """The encoder alone, `batch` windows at a time."""
    features = bed.ours.features([bed.sound] * batch)

    def theirs() -> int:
        with torch.inference_mode():
            bed.theirs.model.encoder(features)
        return batch

    def ours() -> int:
        bed.ours.encode(features)
        return batch

    return {"ours": ours, "transformers": theirs}


def steps(bed: Bed, rows: int) -> dict[str, Pass]:
    """Decoding steps of rows that are all in use, as the engine takes them."""
    states = bed.ours.encode(bed.ours.features([bed.sound]))
    decoder = Decoder(bed.ours, rows)
    never = Instruction(
        language=next(iter(bed.ours.card.tokens.languages.values())), timed=False, suppressed=(bed.end,)
    )
    instruction = Instruction(**(vars(never) | {"plan": Plan(rows=1)}))
    for _ in range(rows):
        decoder.admit(states, [instruction])

    def ours(count: int = 20) -> int:
        for _ in range(count):
            decoder.step()
        return count

    return {"ours": ours}


def whole(bed: Bed, rows: int) -> dict[str, Pass]:
    """Samples to tokens, through each one's own interface."""
    engine = Engine(bed.ours, Batching(max_batch_size=rows))
    options = TranscriptionOptions(
        language="en",
        timestamps="none",
        temperature_increment_on_fallback=None,
        suppress_tokens=(MODELS_OWN, bed.end),
    )
    told = {"language": "en", "task": "transcribe", "num_beams": 1}
    generated: dict[str, Any] = {**told, "return_timestamps": False, "max_new_tokens": LONGEST}
    windows = len(bed.lengths)

    def ours() -> int:
        each = [options.model_copy(update={"max_new_tokens": length}) for length in bed.lengths]
        futures = [engine.submit(bed.sound, option, "benchmark") for option in each]
        return sum(len(future.result().tokens) for future in futures)

    def generate(static: bool) -> int:
        tokens = 0
        sound = bed.sound.astype(np.float32) / 32768
        for first in range(0, windows, rows):
            lengths = bed.lengths[first : first + rows]
            features = bed.processor.feature_extractor(
                [sound] * len(lengths), sampling_rate=SAMPLE_RATE, return_tensors="pt", device=bed.device
            ).input_features.to(bed.device, bed.ours.dtype)
            processors = LogitsProcessorList([Lengths(lengths, prefix=4, end=bed.end)])
            cache = {"cache_implementation": "static"} if static else {}
            made = bed.theirs.generate(features, logits_processor=processors, **generated, **cache)
            tokens += int((made < bed.end).sum())
        return tokens

    def pipelined(batch: int) -> int:
        asr = pipeline(
            "automatic-speech-recognition",
            model=bed.theirs,
            tokenizer=bed.processor.tokenizer,
            feature_extractor=bed.processor.feature_extractor,
            chunk_length_s=WINDOW_S,
            batch_size=batch,
            device=bed.device,
        )
        processors = LogitsProcessorList([Lengths(bed.lengths * (1 + batch // windows), prefix=4, end=bed.end)])
        sound = np.tile(bed.sound.astype(np.float32) / 32768, windows)
        asr(
            {"raw": sound, "sampling_rate": SAMPLE_RATE},
            generate_kwargs={**generated, "logits_processor": processors},
        )
        return sum(bed.lengths)

    return {
        "ours": ours,
        "generate, SDPA": lambda: generate(static=False),
        "generate, static cache": lambda: generate(static=True),
        "pipeline, 24 at a time": lambda: pipelined(24),
        "pipeline, 96 at a time": lambda: pipelined(96),
    }


def measure(bed: Bed, engines: dict[str, Pass], repeats: int) -> dict[str, dict[str, Any]]:
    """Passes in turn, A B A B …, after a warm-up of each: what each did, and its seconds."""
    found: dict[str, dict[str, Any]] = {name: {"seconds": []} for name in engines}
    for place, name in enumerate(turns(engines, 1 + repeats)):
        bed.wait()
        start = time.perf_counter()
        found[name]["done"] = engines[name]()
        bed.wait()
        seconds = time.perf_counter() - start
        if place >= len(engines):
            found[name]["seconds"].append(round(seconds, 5))
        print(f"    {name:24} {seconds:8.3f} s{'  (warm-up)' if place < len(engines) else ''}", flush=True)
    return found


def run(layout: str, device: str, windows: int, rows: Sequence[int], repeats: int, folder: Path) -> dict[str, Any]:
    """All tiers of one layout."""
    checkpoint = folder / layout
    if not (checkpoint / "config.json").exists():
        write(layout, checkpoint)
    noise = np.random.default_rng(1).normal(0, 2000, WINDOW_S * SAMPLE_RATE).astype(np.int16)
    bed = Bed(checkpoint, device, noise, trace(windows))
    figures: dict[str, Any] = {"tokens_per_window": round(float(np.mean(bed.lengths)), 1), "dtype": str(bed.ours.dtype)}
    for tier, make in (("encoder", encoders), ("step", steps)):
        figures[tier] = {}
        for count in rows:
            print(f"  {tier}, {count} at a time", flush=True)
            figures[tier][count] = measure(bed, make(bed, count), repeats)
    print(f"  tokens, {windows} windows, {max(rows)} rows", flush=True)
    figures["tokens"] = measure(bed, whole(bed, max(rows)), repeats)
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
    parser.add_argument("--windows", type=positive, default=512, help="of 30 s (512)")
    parser.add_argument("--rows", type=positive, nargs="+", default=[1, 8, 16, 32, 64, 128], help="batch sizes")
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--folder", type=Path, default=Path("data/bench"), help="for the checkpoints")
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results/")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --device cpu --layouts tiny tries the code out")
    logging.set_verbosity_error()
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    result: dict[str, Any] = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "device": device}
    result |= {"machine": machine(torch.get_num_threads()), "versions": versions(), "layouts": {}}
    for layout in arguments.layouts:
        print(layout, flush=True)
        result["layouts"][layout] = run(
            layout, arguments.device, arguments.windows, arguments.rows, arguments.repeats, arguments.folder
        )
        if arguments.save:
            path = _RESULTS / f"gpu-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
            path.write_text(json.dumps(result, indent=1) + "\n")
            print(f"saved {path}")


if __name__ == "__main__":
    main()
