"""Rendering of plans to audio, a batch at a time, on the dataset's device."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from serve_app.audio import SAMPLE_RATE
from serve_app.diarization.nets import FIRST_CENTRE, FRAME, SPEAKERS, frames
from training.diarization_nano import augment
from training.diarization_nano.dataset import SpeechDataset
from training.diarization_nano.plan import COLUMNS, Plan
from training.diarization_nano.speech import FRAME as SPEECH_FRAME


@dataclass(frozen=True)
class Batch:
    """samples (rows, count) float32; speaking (rows, SPEAKERS, frames) bool; identities (rows, SPEAKERS)."""

    samples: torch.Tensor
    speaking: torch.Tensor
    identities: torch.Tensor


@dataclass(frozen=True)
class Packed:
    """Plans as tensors: events (rows, most, 4), padded with length 0; identities, speeds (rows, SPEAKERS)."""

    events: torch.Tensor
    identities: torch.Tensor
    speeds: torch.Tensor


def pack(plans: Sequence[Plan]) -> Packed:
    """Convert plans to tensors of one shape."""
    events = torch.zeros(len(plans), max(len(plan.events) for plan in plans), len(COLUMNS), dtype=torch.int64)
    for row, plan in enumerate(plans):
        events[row, : len(plan.events)] = torch.from_numpy(plan.events)
    return Packed(
        events,
        torch.stack([torch.from_numpy(plan.identities) for plan in plans]),
        torch.stack([torch.from_numpy(plan.speeds) for plan in plans]),
    )


def interpolate(samples: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Read 16-bit samples at fractional places, by cubic interpolation (Catmull-Rom)."""
    whole = places.floor()
    share = (places - whole).to(torch.float32)
    index = (whole.to(torch.int64) - 1).clamp(0, len(samples) - 4)
    before, left, right, after = samples.unfold(0, 4, 1)[index].to(torch.float32).unbind(1)
    bend, twist = 2 * before - 5 * left + 4 * right - after, 3 * (left - right) + after - before
    return (left + 0.5 * share * (right - before + share * (bend + share * twist))) / 32768


def render_speakers(dataset: SpeechDataset, packed: Packed, count: int) -> torch.Tensor:
    """Return the clean speech of each speaker (rows, SPEAKERS, count)."""
    rows, device = len(packed.events), dataset.device
    slot, start, length, source = packed.events.reshape(-1, len(COLUMNS)).T
    row = torch.arange(rows, device=device).repeat_interleave(packed.events.shape[1])
    skipped = (-start).clamp(min=0)
    audible = (torch.minimum(length, count - start) - skipped).clamp(min=0)
    total = int(audible.sum())
    sample = torch.arange(total, device=device)

    def expand(event: torch.Tensor) -> torch.Tensor:
        return torch.repeat_interleave(event, audible, output_size=total)

    within = sample + expand(skipped - audible.cumsum(0) + audible)
    speed = packed.speeds[row, slot].to(torch.float64)
    sound = interpolate(dataset.samples, expand(source) + within * expand(speed))
    edge = torch.minimum(within, expand(length - 1) - within).clamp(max=80).to(torch.float32) / 80
    voices = torch.zeros(rows * SPEAKERS * count, device=device)
    voices[within + expand((row * SPEAKERS + slot) * count + start)] = sound * edge
    return voices.view(rows, SPEAKERS, count)


def speaking(dataset: SpeechDataset, packed: Packed, count: int) -> torch.Tensor:
    """Return (rows, SPEAKERS, frames) bool: the speakers at the centre of each of the networks' frames."""
    device = dataset.device
    centres = torch.arange(frames(count), device=device) * FRAME + FIRST_CENTRE
    slot, start, length, source = (column.unsqueeze(2) for column in packed.events.unbind(2))
    speed = packed.speeds.gather(1, slot.squeeze(2)).unsqueeze(2)
    inside = (centres >= start) & (centres < start + length)
    place = (source + (centres - start).clamp(min=0) * speed).to(torch.int64) // SPEECH_FRAME
    is_speech = dataset.speech[place.clamp(0, len(dataset.speech) - 1)] & inside
    slots = torch.arange(SPEAKERS, device=device).view(1, 1, -1) == slot
    return torch.einsum("bes,bet->bst", slots.to(torch.float32), is_speech.to(torch.float32)) > 0


def render(dataset: SpeechDataset, packed: Packed, seconds: float, *, clean: bool = False) -> Batch:
    """Render audio and labels; `clean` omits rooms, noise, codecs and levels."""
    count = round(seconds * SAMPLE_RATE)
    packed = Packed(*(tensor.to(dataset.device) for tensor in (packed.events, packed.identities, packed.speeds)))
    voices = render_speakers(dataset, packed, count)
    samples = voices.sum(1) if clean else augment.record_conversation(voices, dataset.noises)
    return Batch(samples, speaking(dataset, packed, count), packed.identities)
