"""The model in training computes the same as transformers with its weights."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from testing import noise
from training.whisper_nano.augment import whisper_features
from training.whisper_nano.batches import Batch
from training.whisper_nano.compose import Composer, Shape
from training.whisper_nano.dataset import SpeechDataset, mel_power
from training.whisper_nano.export import export
from training.whisper_nano.losses import guided_attention, losses
from training.whisper_nano.model import ENCODER_OFFSETS, TrainedWhisper, initialise, split_heads
from training.whisper_nano.targets import Targets, position_labels
from training.whisper_nano.tokenizer import TIMESTAMPS, build_config, build_tokenizer, token_id
from training.whisper_nano.train import Trainer

TOKENIZER = build_tokenizer()
FIRST_TIMESTAMP = token_id(TOKENIZER, TIMESTAMPS[0])


@pytest.fixture(scope="module")
def model() -> TrainedWhisper:
    torch.manual_seed(1)
    model = TrainedWhisper(build_config(TOKENIZER)).eval()
    initialise(model, FIRST_TIMESTAMP)
    return model


@pytest.fixture(scope="module")
def batch(small_dataset: SpeechDataset) -> Batch:
    composer = Composer(small_dataset, 2)
    window = composer.window(Shape(3000, 2000, 99, 0.5))
    sequence = Targets(TOKENIZER).sequence(composer, window, 0, 0.0)
    return Batch(
        torch.from_numpy(window.features)[None],
        torch.tensor([0]),
        torch.tensor([sequence.tokens[:-1]]),
        torch.tensor([sequence.labels[1:]]),
        torch.from_numpy(sequence.spans())[None],
        torch.from_numpy(position_labels(window))[None],
    )


@torch.no_grad()
def test_same_logits_as_transformers(model: TrainedWhisper, batch: Batch) -> None:
    ours = model(batch)
    theirs = model.whisper(batch.features, decoder_input_ids=batch.tokens).logits
    assert torch.allclose(ours.tokens, theirs, atol=1e-4)


@torch.no_grad()
def test_initial_offsets_of_encoder_heads(model: TrainedWhisper) -> None:
    """Between position embeddings alone, a head's scores are highest at its offset."""
    encoder = model.whisper.model.encoder
    positions = encoder.embed_positions.weight[None]
    for layer, distances in zip(encoder.layers, ENCODER_OFFSETS, strict=True):
        query, key = (split_heads(layer.self_attn, name, positions) for name in "qk")
        highest = (query @ key.transpose(2, 3))[0].argmax(-1)
        for head, distance in enumerate(distances):
            looked = highest[head, 100:1400] - torch.arange(100, 1400)
            assert abs(looked.float().median().item() - distance) <= 2


def test_all_used_weights_have_gradients(model: TrainedWhisper, batch: Batch) -> None:
    model.zero_grad()
    losses(model(batch), batch, FIRST_TIMESTAMP).total(1.0).backward()
    still = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert still == []


@torch.no_grad()
def test_guidance_loss_is_zero_inside_the_spans(model: TrainedWhisper, batch: Batch) -> None:
    outputs = model(batch)
    for head, span in (((1, 0), 0), ((1, 1), 1), ((2, 0), 2), ((2, 1), 1), ((2, 2), 0)):
        first, last = batch.spans[:, span].unsqueeze(-1).unbind(2)
        inside = (torch.arange(1500) >= first) & (torch.arange(1500) < last)
        outputs.attention[head] = torch.where(inside, 0.0, -1e4).log_softmax(-1)
    assert guided_attention(outputs, batch).item() == pytest.approx(0, abs=1e-3)


def test_features_equal_whisper() -> None:
    samples = noise.make(np.random.default_rng(1), "pink", 16000 * 30)
    samples[16000 * 10 : 16000 * 20] = 0
    ours = whisper_features(mel_power(samples)).T
    theirs = WhisperFeatureExtractor(feature_size=80)(samples, sampling_rate=16000, return_tensors="np").input_features
    assert np.abs(ours[:, 2:-2] - theirs[0, :, 2:-2]).max() < 1e-3  # its edges mirror the sound, ours are silent


def test_exported_checkpoint_loads(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, 10, 1e-3, seed=1)
    averaged = copy.deepcopy(trainer.average.module.whisper.state_dict())
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.add_(1)
    trainer.save()
    assert export(tmp_path, tmp_path / "model") == 0
    loaded = WhisperForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert all(torch.allclose(weight, averaged[name], atol=1e-2) for name, weight in loaded.state_dict().items())
    shipped = Path("serve_app/models/whisper-nano")
    ours_config, theirs = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "model", shipped))
    assert ours_config == theirs
