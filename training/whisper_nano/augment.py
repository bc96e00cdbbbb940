"""Augmentation of mel power spectrograms, (frames, mels), as many voices, rooms and microphones would change them."""

import random

import numpy as np
import torch
from torchaudio.functional import lfilter

from training.whisper_nano.dataset import FRAMES_A_SECOND, Mel
from training.whisper_nano.tokenizer import MELS


def interpolate(mel: Mel, places: np.ndarray, axis: int) -> Mel:
    """Read `mel` at fractional places of one axis."""
    lower = np.floor(places).astype(int)
    upper = np.minimum(lower + 1, mel.shape[axis] - 1)
    share = np.expand_dims((places - lower).astype(np.float32), 1 - axis)
    mixed: Mel = mel.take(lower, axis) * (1 - share) + mel.take(upper, axis) * share
    return mixed


def warp_frequency(rng: random.Random, log_mel: Mel) -> Mel:
    """Shift formants and pitch up or down by a tenth."""
    return interpolate(log_mel, np.clip(np.arange(MELS) * rng.uniform(0.9, 1.1), 0, MELS - 1), 1)


def stretch_time(rng: random.Random, log_mel: Mel) -> Mel:
    """Stretch or compress time by up to a fifth."""
    frames = max(8, int(len(log_mel) * rng.uniform(0.82, 1.22)))
    return interpolate(log_mel, np.linspace(0, len(log_mel) - 1, frames), 0)


def equaliser(rng: random.Random, decibels: float) -> Mel:
    """Return a smooth random gain for each mel, of about `decibels`."""
    place = np.linspace(0, np.pi, MELS)
    curve = sum(rng.gauss(0, decibels) / (k + 1) * np.cos(k * place + rng.random() * 0.5) for k in range(1, 5))
    gain: Mel = (10 ** (curve / 10)).astype(np.float32)
    return gain


def reverberate(rng: random.Random, power: Mel) -> None:
    """Add the exponential tail of a room of 0.12-0.5 s, in place."""
    decay = 10 ** (-6 / FRAMES_A_SECOND / rng.uniform(0.12, 0.5))
    gain = rng.uniform(0.02, 0.25) * (1 - decay)
    sound = torch.from_numpy(power.T.copy())
    tail = lfilter(sound, torch.tensor([1.0, -decay]), torch.tensor([gain, 0.0]), clamp=False).numpy().T
    power[1:] += tail[:-1]


def limit_band(rng: random.Random, power: Mel, hardness: float) -> None:
    """Sometimes limit the bandwidth, like a telephone or a thin microphone, in place."""
    if rng.random() < 0.3 * hardness:
        power[:, rng.randint(52, 76) :] *= 10 ** rng.uniform(-7, -2)
    if rng.random() < 0.06 * hardness:
        power[:, : rng.randint(2, 8)] *= 10 ** rng.uniform(-5, -1)


def add_noise(rng: random.Random, power: Mel, noises: list[Mel], *, silent: bool, hardness: float) -> None:
    """Add one or two noises at 2-60 dB below the speech, or a faint floor, in place; often neither."""
    frames = len(power)
    if rng.random() < (0.85 if silent else 0.65 * hardness):
        for _ in range(rng.choice([1, 1, 2])):
            sound = rng.choice(noises)
            start = rng.randint(0, len(sound) - frames)
            decibels = rng.uniform(-10, 60) if silent else min(60.0, max(2.0, rng.gauss(22, 11)))
            added = sound[start : start + frames] * np.float32(10 ** (-decibels / 10))
            power += added * equaliser(rng, 4) if rng.random() < 0.6 else added
    elif rng.random() < 0.5:
        gamma = np.random.default_rng(rng.getrandbits(64)).gamma(2.0, 0.5, power.shape)
        power += (10 ** rng.uniform(-9, -4) * gamma).astype(np.float32)


def whisper_features(power: Mel) -> Mel:
    """Apply Whisper's scaling: logarithm, at most 80 dB below the loudest, about -1..1."""
    log = np.log10(np.maximum(power, 1e-10))
    scaled: Mel = (np.maximum(log, log.max() - 8) + 4) / 4
    return scaled
