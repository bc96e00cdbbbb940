"""The fast pipeline's turns are identical to the library's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from serve_app.audio import SAMPLE_RATE
from serve_app.diarization.pipeline import SpeakerPipeline
from serve_app.diarization.pyannote_pipeline import PyannotePipeline, load_pyannote
from serve_app.models import model_source
from serve_app.schemas.request import DiarizationOptions
from serve_app.settings import DiarizationSettings, VadSettings
from tests.diarization.conversation import conversation, restless
from tests.server import MODELS

CLUSTERINGS = {
    "AgglomerativeClustering": {"method": "centroid", "min_cluster_size": 3, "threshold": 0.6},
    "VBxClustering": {"threshold": 0.6, "Fa": 0.07, "Fb": 0.8},
}
"""The clustering of pyannote/speaker-diarization-3.1 and of community-1."""


@pytest.fixture(scope="module")
def file() -> dict[str, Any]:
    sound = conversation(60).astype(np.float32) / 32768
    return {"waveform": torch.from_numpy(sound)[None], "sample_rate": SAMPLE_RATE, "uri": "conversation"}


def folder(path: Path, clustering: str, exclude_overlap: bool) -> str:
    """Return diarization-nano with a changed config."""
    for part in Path(model_source("diarization-nano")).iterdir():
        (path / part.name).symlink_to(part)
    config = yaml.safe_load((path / "config.yaml").read_text())
    config["pipeline"]["params"]["embedding_exclude_overlap"] = exclude_overlap
    config["params"]["segmentation"]["min_duration_off"] = 0.0  # every frame counts
    config["pipeline"]["params"]["clustering"] = clustering
    config["params"]["clustering"] = CLUSTERINGS[clustering]
    (path / "config.yaml").unlink()
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clustering", "exclude_overlap", "arguments"),
    [
        ("AgglomerativeClustering", True, {}),
        ("AgglomerativeClustering", False, {"num_speakers": 3}),
        ("VBxClustering", True, {}),
    ],
)
def test_results_are_identical(
    file: dict[str, Any], tmp_path: Path, clustering: str, exclude_overlap: bool, arguments: dict[str, int]
) -> None:
    source = folder(tmp_path, clustering, exclude_overlap)
    theirs, ours = restless(source), restless(source)
    from serve_app.diarization.fast_pipeline import (
        BatchedSpeakerDiarization,  # after the library, which is imported quietly
    )

    assert BatchedSpeakerDiarization.is_supported(ours)
    ours.__class__ = BatchedSpeakerDiarization
    ours.segmentation_batch_size = ours.embedding_batch_size = 8
    expected, found = theirs.apply(dict(file), **arguments), ours.apply(dict(file), **arguments)
    assert len(expected.speaker_diarization.labels()) > 1
    assert len(expected.speaker_diarization) > 20
    assert list(found.speaker_diarization.itertracks(yield_label=True)) == list(
        expected.speaker_diarization.itertracks(yield_label=True)
    )
    assert found.exclusive_speaker_diarization == expected.exclusive_speaker_diarization
    np.testing.assert_allclose(found.speaker_embeddings, expected.speaker_embeddings, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_results_of_trained_networks_are_identical(file: dict[str, Any]) -> None:
    theirs = load_pyannote("diarization-nano", None)
    ours = SpeakerPipeline.load(
        DiarizationSettings(pipeline="diarization-nano", device="cpu", threads=1), VadSettings(), MODELS
    )
    sound = conversation(60)
    plain = SpeakerPipeline(PyannotePipeline(theirs), DiarizationSettings(), VadSettings())
    expected = plain.diarize(sound, DiarizationOptions())
    assert len(expected) > 5
    assert ours.diarize(sound, DiarizationOptions()) == expected


@pytest.mark.slow
def test_only_chunks_with_speech_are_embedded(file: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = restless()
    from serve_app.diarization.fast_pipeline import BatchedSpeakerDiarization

    ours.__class__ = BatchedSpeakerDiarization
    speech = ours.get_segmentations(dict(file))
    with_speech = int((speech.data.sum(axis=(1, 2)) > 0).sum())
    assert 0 < with_speech < len(speech.data)
    embedded = 0
    network = ours._embedding

    def count_calls(waves: torch.Tensor, masks: torch.Tensor) -> Any:
        nonlocal embedded
        embedded += len(waves) if masks.any() else 0
        return network(waves, masks=masks)

    least = network.min_num_samples  # computed with the network
    monkeypatch.setattr(ours, "_embedding", count_calls)
    count_calls.min_num_samples, count_calls.sample_rate = least, SAMPLE_RATE  # type: ignore[attr-defined]
    ours.get_embeddings(dict(file), speech, exclude_overlap=True)
    assert embedded == with_speech


@pytest.mark.slow
def test_embedding_without_several_masks_is_unsupported() -> None:
    pipeline = restless()
    from serve_app.diarization.fast_pipeline import BatchedSpeakerDiarization

    model = pipeline._embedding.model_
    forward = model.forward

    def one_mask(waves: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        if weights.dim() != 2:
            raise ValueError("(batch, frames) is expected")
        return forward(waves, weights)  # type: ignore[no-any-return]

    model.forward = one_mask
    assert not BatchedSpeakerDiarization.is_supported(pipeline)
    model.forward = lambda waves, weights: forward(waves, weights) + weights.dim()
    assert not BatchedSpeakerDiarization.is_supported(pipeline)
