"""Log-mel features, compared with transformers'."""

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from serve_app.whisper.model.features import LogMel


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("samples", [[1], [159, 160, 161], [16_000], [240_000, 100_000], [479_600, 479_999], [480_000]])
def test_features_equal_transformers_at_any_length(mels: int, samples: list[int]) -> None:
    """Alone or in a batch. Frames of padding, which are not computed, have the values that computation would give."""
    extractor = WhisperFeatureExtractor(feature_size=mels)
    rng = np.random.default_rng(sum(samples))
    windows = [(rng.normal(size=count) * 3000).astype(np.int16) for count in samples]
    ours = LogMel(mels, 3000, torch.device("cpu"))(windows)
    for own, window in zip(ours, windows, strict=True):
        sound = window.astype(np.float32) / 32768
        expected = extractor(sound, sampling_rate=16_000, return_tensors="pt").input_features[0]
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-4)
