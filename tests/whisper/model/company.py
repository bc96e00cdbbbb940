"""A program: decode windows of noise one by one and all together, in the precisions named, and compare bit by bit.

By both kinds of attention that a CPU may have.
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

PLANS = (
    SearchConfig(limit=8),
    SearchConfig(rows=3, beams=True, limit=8),
    SearchConfig(rows=2, temperature=0.8, limit=8),
)


def decode(
    model: WhisperModel, sounds: list[np.ndarray], instructions: list[DecodeRequest]
) -> list[DecodingResult | None]:
    """Decode the sounds in one batch."""
    decoder = Decoder(model, sum(instruction.search.rows for instruction in instructions))
    attempts = decoder.add_sequences(model.encode(model.features(sounds)), instructions)
    while decoder.has_work:
        decoder.step()
    return [attempt.result for attempt in attempts]


def main() -> None:
    rng = np.random.default_rng(3)
    sounds = [(rng.normal(size=16_000 * (1 + i)) * 2000).astype(np.int16) for i in range(len(PLANS))]
    instructions = [replace(DecodeRequest(), search=plan) for plan in PLANS]
    for dtype, attention.FUSED in product(sys.argv[1:], (True, False)):
        settings = WhisperSettings(device="cpu", dtype=dtype, threads=1)
        model = WhisperModel.load("whisper-nano", settings)
        together = decode(model, sounds, instructions)
        alone = [
            decode(model, [sound], [instruction])[0] for sound, instruction in zip(sounds, instructions, strict=True)
        ]
        print(dtype, "equal" if together == alone else f"differ:\n{together}\n{alone}")


if __name__ == "__main__":
    main()
