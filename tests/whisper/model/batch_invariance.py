"""Program that decodes windows of noise one by one and in one batch, and compares the results bit for bit.

In the precisions given as arguments, with both attention kernels for CPUs.
"""

import sys
from dataclasses import replace
from itertools import product

import numpy as np

from serve_app.settings import WhisperSettings
from serve_app.whisper.decoding.decoder import Decoder, DecodeRequest, DecodingResult
from serve_app.whisper.decoding.search import SearchConfig
from serve_app.whisper.model import attention
from serve_app.whisper.model.whisper_model import WhisperModel

CONFIGS = (
    SearchConfig(max_tokens=8),
    SearchConfig(rows=3, is_beam_search=True, max_tokens=8),
    SearchConfig(rows=2, temperature=0.8, max_tokens=8),
)


def decode(model: WhisperModel, sounds: list[np.ndarray], requests: list[DecodeRequest]) -> list[DecodingResult | None]:
    """Decode the sounds in one batch."""
    decoder = Decoder(model, sum(request.search.rows for request in requests))
    attempts = decoder.add_sequences(model.encode(model.features(sounds)), requests)
    while decoder.has_work:
        decoder.step()
    return [attempt.result for attempt in attempts]


def main() -> None:
    rng = np.random.default_rng(3)
    sounds = [(rng.normal(size=16_000 * (1 + i)) * 2000).astype(np.int16) for i in range(len(CONFIGS))]
    requests = [replace(DecodeRequest(), search=config) for config in CONFIGS]
    for dtype, attention.FUSED in product(sys.argv[1:], (True, False)):
        settings = WhisperSettings(device="cpu", dtype=dtype, threads=1)
        model = WhisperModel.load("whisper-nano", settings)
        together = decode(model, sounds, requests)
        alone = [decode(model, [sound], [request])[0] for sound, request in zip(sounds, requests, strict=True)]
        print(dtype, "equal" if together == alone else f"differ:\n{together}\n{alone}")


if __name__ == "__main__":
    main()
