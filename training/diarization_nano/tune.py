"""Tune pyannote.audio's clustering on conversations of speakers that are neither trained on nor reserved.

    python -m training.diarization_nano.tune data/training/diarization-nano serve_app/models/diarization-nano

Composes 120 conversations, runs both networks once on each, and tries every combination of clustering parameters on
their outputs. Writes the best one to the folder's config.yaml, and prints a table of the best ones.
"""

import argparse
import os
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from pyannote.audio import Pipeline
from pyannote.core import Annotation, Segment
from pyannote.metrics.diarization import DiarizationErrorRate

from serve_app.audio import SAMPLE_RATE
from serve_app.diarization.fast_pipeline import BatchedSpeakerDiarization
from serve_app.diarization.nets import FIRST_CENTRE, FRAME
from training.diarization_nano.conversations import conversations
from training.diarization_nano.cpu_settings import flush_denormals
from training.diarization_nano.dataset import SpeechDataset
from training.diarization_nano.export import STEP, write_config

COLLAR = 0.5
"""Seconds around a boundary that are not scored, in all: a quarter on each side."""
THRESHOLDS = (0.3, 0.4, 0.5)
"""Distances at which the agglomerative clustering that initialises VBx stops."""
FA_VALUES = (0.05, 0.1, 0.15, 0.25)
"""The weight of a chunk's evidence: chunks overlap, so each counts less than an independent one."""
FB_VALUES = (1.5, 3.0, 6.0, 10.0, 15.0)
"""The cost of an additional speaker."""
MIN_PAUSES_S = (0.1, 0.3, 0.5)


@dataclass(frozen=True)
class NetworkOutputs:
    """A conversation's truth, and the networks' outputs for it."""

    file: dict[str, Any]
    truth: Annotation
    segmentations: Any
    embeddings: Any


def to_annotation(speaking: torch.Tensor, identities: torch.Tensor) -> Annotation:
    """Convert (speakers, frames) to an annotation; pauses below 0.3 s are speech in the dataset."""
    truth = Annotation()
    for row, identity in zip(speaking.numpy(), identities.tolist(), strict=True):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        for first, last in edges.reshape(-1, 2):
            start, end = ((FIRST_CENTRE + FRAME * (edge - 0.5)) / SAMPLE_RATE for edge in (first, last))
            truth[Segment(float(start), float(end)), len(truth)] = f"voice {identity}"
    return truth


def compose_conversations(dataset: SpeechDataset, count: int, seed: int) -> list[tuple[dict[str, Any], Annotation]]:
    """Return `count` conversations of 1-5 minutes as the pipeline's input, with their true turns."""
    return [
        (
            {"waveform": batch.samples, "sample_rate": SAMPLE_RATE, "uri": str(number)},
            to_annotation(batch.speaking[0], batch.identities[0]),
        )
        for number, batch in enumerate(conversations(dataset, count, seed))
    ]


def run_networks(
    pipeline: BatchedSpeakerDiarization, conversations_made: list[tuple[dict[str, Any], Annotation]]
) -> list[NetworkOutputs]:
    """Run the networks, with a line of progress every ten conversations."""
    outputs, start = [], time.perf_counter()
    for file, truth in conversations_made:
        segmentations = pipeline.get_segmentations(file)
        embeddings = pipeline.get_embeddings(file, segmentations, exclude_overlap=True)
        outputs.append(NetworkOutputs(file, truth, segmentations, embeddings))
        if len(outputs) % 10 == 0:
            print(
                f"{len(outputs)}/{len(conversations_made)} conversations in {time.perf_counter() - start:.0f} s",
                flush=True,
            )
    return outputs


def score(
    pipeline: BatchedSpeakerDiarization, outputs: list[NetworkOutputs], params: dict[str, Any], *, given: bool
) -> dict[str, float]:
    """Return error rates over all conversations, and the share with the right number of speakers."""
    pipeline.instantiate(params)
    metric, right = DiarizationErrorRate(collar=COLLAR), 0
    for one in outputs:
        speakers = len(one.truth.labels())
        # The networks' outputs do not depend on the parameters.
        pipeline.get_segmentations = lambda *_, one=one, **__: one.segmentations
        pipeline.get_embeddings = lambda *_, one=one, **__: one.embeddings.copy()
        found = pipeline.apply(one.file, num_speakers=speakers if given else None).speaker_diarization
        length = one.file["waveform"].shape[1] / SAMPLE_RATE
        metric(one.truth, found, uem=Segment(0, length))
        right += len(found.labels()) == speakers
    parts = metric[:]
    return {
        "der": abs(metric),
        "missed": parts["missed detection"] / parts["total"],
        "false_alarm": parts["false alarm"] / parts["total"],
        "confusion": parts["confusion"] / parts["total"],
        "count_right": right / len(outputs),
    }


def format_result(params: dict[str, Any], result: dict[str, float]) -> str:
    """Format a line of the table."""
    clustering = params["clustering"]
    figures = " ".join(f"{name} {value:.1%}" for name, value in result.items())
    return (
        f"threshold {clustering['threshold']:.1f} Fa {clustering['Fa']:.2f} Fb {clustering['Fb']:4.1f} "
        f"pause {params['segmentation']['min_duration_off']:.1f}: {figures}"
    )


def parameters(threshold: float, fa: float, fb: float, pause: float) -> dict[str, Any]:
    """Return the pipeline's parameters."""
    return {
        "segmentation": {"min_duration_off": pause},
        "clustering": {"threshold": threshold, "Fa": fa, "Fb": fb},
    }


def find_best(
    pipeline: BatchedSpeakerDiarization, outputs: list[NetworkOutputs]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Find the parameters with the lowest error; pauses last, because they do not interact with the others."""
    results = []
    for numbers in product(THRESHOLDS, FA_VALUES, FB_VALUES):
        params = parameters(*numbers, 0.3)
        results.append((score(pipeline, outputs, params, given=False), params))
    results.sort(key=lambda result: result[0]["der"])
    for result, params in results[:12]:
        print(format_result(params, result), flush=True)
    found = results[0][1]["clustering"]
    last = []
    for pause in MIN_PAUSES_S:
        params = parameters(found["threshold"], found["Fa"], found["Fb"], pause)
        last.append((score(pipeline, outputs, params, given=False), params))
        print(format_result(params, last[-1][0]), flush=True)
    result, params = min(last, key=lambda result: result[0]["der"])
    return params, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="written by training.diarization_nano.synthesise")
    parser.add_argument("folder", type=Path, help="written by training.diarization_nano.export")
    parser.add_argument("--conversations", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    flush_denormals()
    pipeline = Pipeline.from_pretrained(arguments.folder)
    pipeline.__class__ = BatchedSpeakerDiarization
    pipeline.segmentation_batch_size = pipeline.embedding_batch_size = 8
    with torch.inference_mode():
        conversations_made = compose_conversations(
            SpeechDataset(arguments.data, torch.device("cpu"), "dev"), arguments.conversations, arguments.seed
        )
        outputs = run_networks(pipeline, conversations_made)
        params, result = find_best(pipeline, outputs)
        print(f"number of speakers given: {format_result(params, score(pipeline, outputs, params, given=True))}")
    write_config(arguments.folder, params, STEP)
    print(f"wrote to {arguments.folder}: {format_result(params, result)}")


if __name__ == "__main__":
    main()
