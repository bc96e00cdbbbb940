"""Checkpoints with the layouts of OpenAI's models and random weights: speed does not depend on the text.

python -m benchmarks.layouts base data/bench/base
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from training.whisper_nano.tokenizer import (
    END,
    NO_SPEECH,
    NO_TIMESTAMPS,
    PREVIOUS,
    START,
    TRANSCRIBE,
    TRANSLATE,
    digit_pairs,
    token_id,
    whisper_tokenizer,
)

TEXT_TOKENS = 50_257
"""The text tokens of every multilingual Whisper, before its special tokens."""


@dataclass(frozen=True)
class Layout:
    """The shape of a published model, as in its config.json."""

    width: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    mels: int = 80
    languages: int = 99


LAYOUTS = {
    "tiny": Layout(384, 6, 4, 4),
    "base": Layout(512, 8, 6, 6),
    "small": Layout(768, 12, 12, 12),
    "large-v3": Layout(1280, 20, 32, 32, mels=128, languages=100),
    "large-v3-turbo": Layout(1280, 20, 32, 4, mels=128, languages=100),
}


def write(name: str, folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint of a layout to `folder`, in float16, which every engine can load."""
    layout = LAYOUTS[name]
    languages = list(LANGUAGES)[: layout.languages]
    vocabulary, merges = digit_pairs()
    # Tokens that no text is encoded to; decoded, each is a word.
    fillers = {f"Ġ{number:x}": number for number in range(len(vocabulary), TEXT_TOKENS)}
    tokenizer = whisper_tokenizer(vocabulary | fillers, merges, languages)
    end = token_id(tokenizer, END)
    torch.manual_seed(seed)
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=layout.mels,
        d_model=layout.width,
        encoder_layers=layout.encoder_layers,
        decoder_layers=layout.decoder_layers,
        encoder_attention_heads=layout.heads,
        decoder_attention_heads=layout.heads,
        encoder_ffn_dim=4 * layout.width,
        decoder_ffn_dim=4 * layout.width,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=token_id(tokenizer, START),
        begin_suppress_tokens=None,
        suppress_tokens=None,
    )
    network = WhisperForConditionalGeneration(config).half()
    network.generation_config = GenerationConfig(
        decoder_start_token_id=token_id(tokenizer, START),
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        max_length=448,
        is_multilingual=True,
        lang_to_id={f"<|{language}|>": token_id(tokenizer, f"<|{language}|>") for language in languages},
        task_to_id={
            "transcribe": token_id(tokenizer, TRANSCRIBE),
            "translate": token_id(tokenizer, TRANSLATE),
        },
        task="transcribe",
        no_timestamps_token_id=token_id(tokenizer, NO_TIMESTAMPS),
        prev_sot_token_id=token_id(tokenizer, PREVIOUS),
        # So that no engine ends a window early, or writes these tokens among its words.
        suppress_tokens=[token_id(tokenizer, token) for token in (START, PREVIOUS, NO_SPEECH)],
        begin_suppress_tokens=[],
        alignment_heads=[[layer, 0] for layer in range(layout.decoder_layers // 2, layout.decoder_layers)],
        max_initial_timestamp_index=50,
    )
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=layout.mels).save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", choices=LAYOUTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"wrote {write(arguments.layout, arguments.folder, arguments.seed)}")


if __name__ == "__main__":
    main()
