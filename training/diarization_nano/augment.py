"""Rooms, microphones, levels, noise and codecs, for a batch of conversations at once, on any device.

Random numbers come from torch's global generator.
"""

import math

import torch

from serve_app.audio import SAMPLE_RATE

_TAIL = 8_000
"""Samples after which reverberation is cut."""


def uniform(low: float, high: float, *shape: int, like: torch.Tensor) -> torch.Tensor:
    """Draw uniformly distributed numbers on `like`'s device."""
    return torch.rand(*shape, device=like.device) * (high - low) + low


def bernoulli(share: float, *shape: int, like: torch.Tensor) -> torch.Tensor:
    """Return 1.0 with probability `share`, else 0.0."""
    return (torch.rand(*shape, device=like.device) < share).to(torch.float32)


def to_gain(decibels: torch.Tensor) -> torch.Tensor:
    """Convert decibels to a factor."""
    return torch.pow(10.0, decibels / 20)


def random_responses(rows: int, hertz: torch.Tensor, decibels: torch.Tensor) -> torch.Tensor:
    """Return smooth random frequency responses (rows, len(hertz)) with deviations of about `decibels` (rows,)."""
    place = (hertz.clamp(min=60) / 60).log() / math.log(8000 / 60) * math.pi
    waves = torch.stack([torch.cos(order * place) for order in range(1, 7)])
    weights = torch.randn(rows, 6, device=hertz.device) / torch.arange(1, 7, device=hertz.device).sqrt()
    return to_gain(decibels.unsqueeze(1) * (weights @ waves))


def room_responses(rows: int, like: torch.Tensor) -> torch.Tensor:
    """Return impulse responses (rows, _TAIL): the direct sound, and noise that decays over 0.1-0.7 s."""
    time = torch.arange(_TAIL, device=like.device) / SAMPLE_RATE
    decay = uniform(0.1, 0.7, rows, 1, like=like)
    tail = torch.randn(rows, _TAIL, device=like.device) * torch.exp(-6.9 * time / decay)
    tail[:, :32] = 0
    strength = to_gain(uniform(-22, 0, rows, 1, like=like)) / tail.square().sum(1, keepdim=True).sqrt()
    response = tail * strength
    response[:, 0] = 1
    return response


def apply_rooms(voices: torch.Tensor) -> torch.Tensor:
    """Apply a microphone and a position to each speaker (rows, speakers, count); half of the rows get a room."""
    count = voices.shape[2]
    size = count + _TAIL
    speaking = voices.abs().amax(2) > 0  # silent speakers need no room
    if not speaking.any():
        return voices
    spectrum = torch.fft.rfft(voices[speaking], size)
    hertz = torch.fft.rfftfreq(size, 1 / SAMPLE_RATE).to(voices.device)
    speakers = len(spectrum)
    strength = uniform(0, 5, speakers, like=voices) * bernoulli(0.6, speakers, like=voices)
    spectrum *= random_responses(speakers, hertz, strength)
    response = room_responses(speakers, voices)
    indoors = bernoulli(0.5, len(voices), 1, like=voices).expand_as(speaking)[speaking]
    response[:, 1:] *= indoors.unsqueeze(1)
    spectrum *= torch.fft.rfft(response, size)
    placed = torch.zeros_like(voices)
    placed[speaking] = torch.fft.irfft(spectrum, size)[:, :count]
    return placed


def coloured_noise(rows: int, count: int, like: torch.Tensor) -> torch.Tensor:
    """Return noise (rows, count) of root mean square 1 with smooth random spectra; a third swells and fades."""
    spectrum = torch.fft.rfft(torch.randn(rows, count, device=like.device))
    hertz = torch.fft.rfftfreq(count, 1 / SAMPLE_RATE).to(like.device)
    tilt = (hertz.clamp(min=40) / 1000).unsqueeze(0) ** uniform(-1.2, 0.3, rows, 1, like=like)
    sound = torch.fft.irfft(spectrum * tilt * random_responses(rows, hertz, uniform(0, 8, rows, like=like)), count)
    swell = torch.nn.functional.interpolate(torch.rand(rows, 1, 24, device=like.device), count, mode="linear")[:, 0]
    sound = torch.where(bernoulli(0.33, rows, 1, like=like) > 0, sound * swell.square(), sound)
    return sound / sound.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)


def other_noise(noises: torch.Tensor, rows: int, count: int, like: torch.Tensor) -> torch.Tensor:
    """Return noise (rows, count) of root mean square 1: hum, tones, clicks, sirens."""
    kind = torch.randint(len(noises), (rows, 1), device=like.device)
    start = torch.randint(max(1, noises.shape[1] - count), (rows, 1), device=like.device)
    place = (start + torch.arange(count, device=like.device)) % noises.shape[1]
    sound = noises[kind, place].to(torch.float32) / 32768
    return sound / sound.square().mean(1, keepdim=True).sqrt().clamp(min=1e-3)


def limit_band(samples: torch.Tensor) -> torch.Tensor:
    """Limit the bandwidth as telephones and thin microphones do: a third loses high, a sixth low frequencies."""
    rows, count = samples.shape
    hertz = torch.fft.rfftfreq(count, 1 / SAMPLE_RATE).to(samples.device)
    top = torch.where(bernoulli(0.35, rows, 1, like=samples) > 0, uniform(3200, 7600, rows, 1, like=samples), 9000.0)
    bottom = torch.where(bernoulli(0.17, rows, 1, like=samples) > 0, uniform(60, 320, rows, 1, like=samples), 1.0)
    slope = uniform(4, 40, rows, 1, like=samples)
    response = torch.sigmoid((top - hertz) / top * slope) * torch.sigmoid((hertz - bottom) / bottom * 6)
    return torch.fft.irfft(torch.fft.rfft(samples) * response, count)


def apply_codec(samples: torch.Tensor) -> torch.Tensor:
    """Remove what a codec removes: parts of the spectrum far below the loudest one of their frame."""
    window = torch.hann_window(512, device=samples.device)
    spectrum = torch.stft(samples, 512, 256, window=window, return_complex=True)
    size = spectrum.abs()
    least = size.amax(1, keepdim=True) * to_gain(uniform(-55, -26, len(samples), 1, 1, like=samples))
    return torch.istft(spectrum * (size > least), 512, 256, window=window, length=samples.shape[1])


def quantise(samples: torch.Tensor) -> torch.Tensor:
    """Quantise to 16 bits at levels from -45 dBFS to clipping; some to 8-bit mu-law."""
    rows = len(samples)
    peak = samples.abs().amax(1, keepdim=True).clamp(min=1e-6)
    over, under = uniform(0, 8, rows, 1, like=samples), uniform(-45, 0, rows, 1, like=samples)
    level = torch.where(bernoulli(0.06, rows, 1, like=samples) > 0, over, under)
    loud = (samples / peak * to_gain(level)).clamp(-1, 1)
    small = torch.sign(loud) * torch.log1p(255 * loud.abs()) / math.log(256)
    small = torch.round(small * 127) / 127
    telephone = torch.sign(small) * torch.expm1(small.abs() * math.log(256)) / 255
    return torch.where(bernoulli(0.06, rows, 1, like=samples) > 0, telephone, torch.round(loud * 32767) / 32767)


def record_conversation(voices: torch.Tensor, noises: torch.Tensor) -> torch.Tensor:
    """Mix clean voices (rows, speakers, count) to one recording of each conversation (rows, count)."""
    rows, speakers, count = voices.shape
    spread = uniform(0, 5, rows, 1, 1, like=voices)
    level_differences = (torch.randn(rows, speakers, 1, device=voices.device) * spread).clamp(-9, 9)
    mixed = (apply_rooms(voices) * to_gain(level_differences)).sum(1)
    speech = torch.where(mixed.abs() > 1e-5, mixed, 0.0).square()
    spoken = (speech > 0).sum(1, keepdim=True).clamp(min=SAMPLE_RATE)
    level = (speech.sum(1, keepdim=True) / spoken).sqrt().clamp(min=0.01)
    snr_db = uniform(2, 35, rows, 1, like=voices)
    noisy = mixed + coloured_noise(rows, count, voices) * level * to_gain(-snr_db) * bernoulli(
        0.65, rows, 1, like=voices
    )
    snr_db = uniform(4, 35, rows, 1, like=voices)
    noisy = noisy + other_noise(noises, rows, count, voices) * level * to_gain(-snr_db) * bernoulli(
        0.25, rows, 1, like=voices
    )
    recording = limit_band(noisy)
    coded = bernoulli(0.15, rows, like=voices) > 0
    if coded.any():
        recording[coded] = apply_codec(recording[coded])
    # Some rows end early, like the last chunk of a recording, which is padded with zeros.
    end = torch.where(bernoulli(0.06, rows, 1, like=voices) > 0, uniform(0.1, 1.0, rows, 1, like=voices), 2.0) * count
    return quantise(recording) * (torch.arange(count, device=voices.device) < end)
