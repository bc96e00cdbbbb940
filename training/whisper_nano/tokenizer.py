"""The checkpoint without its weights: tokenizer, feature extractor, configuration.

transformers 5.23 requires: the no-speech token directly before the no-timestamps one; timestamps directly after it, and
not special; contiguous languages in the library's order; `task` in the generation config, or a detected language comes
without its task token; no begin_suppress_tokens, so that silence may end at once.
"""

import json
from collections.abc import Iterable
from functools import partial

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES as WHISPER_LANGUAGES

from training.whisper_nano.digits import LANGUAGES, WORDS

MELS = 80
END = "<|endoftext|>"
START = "<|startoftranscript|>"
TRANSLATE, TRANSCRIBE = "<|translate|>", "<|transcribe|>"
PREVIOUS, NO_SPEECH, NO_TIMESTAMPS = "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"
TIMESTAMPS = tuple(f"<|{index * 0.02:.2f}|>" for index in range(1501))
ALIGNMENT_HEAD = (2, 0)
"""Layer and head of the decoder that attend to the next word (see losses.guided_attention)."""


def token_id(tokenizer: WhisperTokenizer, token: str) -> int:
    """Return the id of a token."""
    number = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(number, int)
    return number


def digit_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return vocabulary and merges of a byte-level BPE with one token for every digit word, with or without space."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # Earlier languages and words with a space are repeated more often, so that their merges come first.
    corpus = [
        piece
        for rank, language in enumerate(LANGUAGES)
        for word in WORDS[language]
        for piece in [" " + word] * (10 - rank) + [word] * (6 - rank)
    ]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=800, min_frequency=1, initial_alphabet=alphabet, show_progress=False)
    )
    learnt = json.loads(words.to_str())["model"]
    return learnt["vocab"], [tuple(merge) for merge in learnt["merges"]]


def whisper_tokenizer(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], languages: Iterable[str] = WHISPER_LANGUAGES
) -> WhisperTokenizer:
    """Return a tokenizer with Whisper's special tokens, in its order, after a byte-level vocabulary."""
    tokenizer = WhisperTokenizer(vocab={**vocabulary, END: len(vocabulary)}, merges=merges, pad_token=END)
    special = [
        START,
        *(f"<|{language}|>" for language in languages),
        *(TRANSLATE, TRANSCRIBE, "<|startoflm|>", PREVIOUS, NO_SPEECH, NO_TIMESTAMPS),
    ]
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(token, normalized=False, special=True) for token in special]}
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in TIMESTAMPS])
    tokenizer.set_prefix_tokens()  # they consist of the tokens that were just added
    return tokenizer


def build_tokenizer() -> WhisperTokenizer:
    """Return whisper-nano's tokenizer."""
    return whisper_tokenizer(*digit_pairs())


def build_processor() -> WhisperProcessor:
    """Return the tokenizer with Whisper's feature extractor."""
    return WhisperProcessor(WhisperFeatureExtractor(feature_size=MELS), build_tokenizer())


def build_config(tokenizer: WhisperTokenizer) -> WhisperConfig:
    """Return the model's configuration: 2.17 million parameters."""
    end = token_id(tokenizer, END)
    return WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=128,
        encoder_layers=4,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=512,
        decoder_ffn_dim=512,
        num_mel_bins=MELS,
        max_source_positions=1500,
        max_target_positions=448,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=token_id(tokenizer, START),
        begin_suppress_tokens=None,
        suppress_tokens=None,
        median_filter_width=3,
    )


def build_generation_config(tokenizer: WhisperTokenizer) -> GenerationConfig:
    """Return transformers' generation config."""
    number = partial(token_id, tokenizer)
    return GenerationConfig(
        decoder_start_token_id=number(START),
        bos_token_id=number(END),
        eos_token_id=number(END),
        pad_token_id=number(END),
        max_length=448,
        is_multilingual=True,
        lang_to_id={f"<|{language}|>": number(f"<|{language}|>") for language in LANGUAGES},
        task_to_id={"transcribe": number(TRANSCRIBE), "translate": number(TRANSLATE)},
        task="transcribe",
        no_timestamps_token_id=number(NO_TIMESTAMPS),
        prev_sot_token_id=number(PREVIOUS),
        return_timestamps=False,
        alignment_heads=[list(ALIGNMENT_HEAD)],
        max_initial_timestamp_index=1500,
    )
