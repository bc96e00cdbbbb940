"""Planned and rendered conversations: the labels are true of the audio."""

import random
from itertools import pairwise

import numpy as np
import torch

from serve_app.diarization.nets import FIRST_CENTRE, FRAME, SPEAKERS, Features, SegmentationNet, frames
from training.diarization_nano import augment
from training.diarization_nano.dataset import DatasetSpeaker, SpeechDataset
from training.diarization_nano.plan import SPEEDS, Plan, Planner
from training.diarization_nano.render import pack, render

SECONDS = 10.0


def plans(dataset: SpeechDataset, count: int) -> list[Plan]:
    planner, rng = Planner(dataset.speakers, SECONDS), random.Random(4)
    return [planner.plan_window(rng, planner.speaker_pool(rng, 8)) for _ in range(count)]


def test_same_seed_same_plan(tones: SpeechDataset) -> None:
    for left, right in zip(plans(tones, 5), plans(tones, 5), strict=True):
        assert np.array_equal(left.events, right.events)


def test_turns_of_one_speaker_do_not_overlap(tones: SpeechDataset) -> None:
    for plan in plans(tones, 60):
        for slot in range(SPEAKERS):
            own = sorted((start, start + length) for who, start, length, _ in plan.events.tolist() if who == slot)
            assert all(end <= start for (_, end), (start, _) in pairwise(own))


def test_speakers_of_one_timbre_differ_in_speed(tones: SpeechDataset) -> None:
    seen = 0
    for plan in plans(tones, 200):
        speakers = [divmod(identity, len(SPEEDS)) for identity in plan.identities.tolist() if identity >= 0]
        assert len(speakers) == len(set(speakers))
        seen += len(speakers) >= 3
        for voice, speed in speakers:
            for other, pace in speakers:
                if voice == other and speed != pace:
                    assert abs(SPEEDS[speed] - SPEEDS[pace]) > 0.13
    assert seen > 50


def test_conversations_often_have_one_language() -> None:
    languages = ("en", "de", "fr", "es")
    speakers_of_all_languages = [
        DatasetSpeaker(f"v{number}", f"v{number}", languages[number % 4], ((0, 500),), 1.0) for number in range(400)
    ]
    planner, rng = Planner(speakers_of_all_languages, SECONDS), random.Random(9)
    together = []
    for _ in range(200):
        speakers = planner.choose_speakers(rng, planner.speaker_pool(rng, 12))
        if len(speakers) > 1:
            together.append(len({speakers_of_all_languages[speaker].language for speaker, _ in speakers}) == 1)
    assert sum(together) > 0.5 * len(together)  # among strangers it would be a sixth
    assert not all(together)


def test_sound_matches_the_labels(tones: SpeechDataset) -> None:
    batch = render(tones, pack(plans(tones, 24)), SECONDS, clean=True)
    anyone = batch.speaking.any(1)
    assert batch.speaking.shape == (24, SPEAKERS, frames(round(SECONDS * 16000)))
    around = batch.samples.unfold(1, 200, FRAME)[:, : anyone.shape[1]]  # about 0-200 of each frame's 640
    centres = batch.samples[:, FIRST_CENTRE - 100 :].unfold(1, 200, FRAME)[:, : anyone.shape[1]]
    loud = centres.abs().amax(2) > 0.01
    assert around.shape == centres.shape
    assert 0.2 < anyone.float().mean() < 0.95
    assert (loud == anyone).float().mean() > 0.98


def test_speed_changes_the_pitch(tones: SpeechDataset) -> None:
    voice = [one.timbre for one in tones.speakers].index("m1")
    for speed in (SPEEDS[0], SPEEDS[-1]):
        first, count = tones.speakers[voice].utterances[1]
        events = np.array([[0, 0, int(count * 160 / speed), first * 160]])
        identities, speeds = np.full(SPEAKERS, -1), np.ones(SPEAKERS, np.float32)
        identities[0], speeds[0] = 0, speed
        batch = render(tones, pack([Plan(events, identities, speeds)]), 1.0, clean=True)
        spectrum = torch.fft.rfft(batch.samples[0, :16000] * torch.hann_window(16000)).abs()
        assert abs(int(spectrum.argmax()) - 1100 * speed) <= 2


def test_recordings_are_finite_and_in_range(tones: SpeechDataset) -> None:
    torch.manual_seed(1)
    batch = render(tones, pack(plans(tones, 16)), SECONDS)
    assert batch.samples.isfinite().all()
    assert batch.samples.abs().max() <= 1.001
    assert batch.samples.std() > 1e-3


def test_recording_without_speech(tones: SpeechDataset) -> None:
    for seed in range(8):  # some go through a codec, some do not
        torch.manual_seed(seed)
        assert augment.record_conversation(torch.zeros(1, SPEAKERS, 16_000), tones.noises).isfinite().all()


def test_frames_of_the_networks() -> None:
    for samples in (160_000, 159_999, 48_000, 5_000):
        sound = torch.randn(1, samples)
        assert SegmentationNet().eval()(sound).shape[1] == frames(samples)
    assert Features()(torch.zeros(1, 16_000)).isfinite().all()  # silence
