"""The engines that ours is compared with, each through its own public interface.

All decode without timestamps, voice activity detection or earlier text, are given the language, and get the same
windows; only transformers' chunked pipeline cuts the audio itself.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import WhisperFeatureExtractor, WhisperTokenizerFast, pipeline

from benchmarks.convert import tiktoken_encoding, to_ctranslate2, to_openai
from benchmarks.engines import RunConfig, WindowResult, in_batches, to_float
from benchmarks.workloads import Workload
from serve_app.audio import SAMPLE_RATE

PROMPT = 4
"""Tokens before a window's text: start, language, task, no timestamps."""


_NO_THRESHOLDS = {"compression_ratio_threshold": None, "no_speech_threshold": None}


def _search_options(config: RunConfig) -> dict[str, Any]:
    """Return openai-whisper's search options: it has no beam size for greedy decoding."""
    return {} if config.beam_size == 1 else {"beam_size": config.beam_size, "best_of": config.beam_size}


def common_length(workload: Workload) -> int | None:
    """Return the text length of all windows. Raises ValueError if they differ: these engines take one length."""
    if len(set(workload.lengths)) > 1:
        raise ValueError("other engines need one length for all windows")
    return workload.lengths[0] if workload.lengths else None


class _Pipeline:
    """transformers' pipeline; counts the tokens of each window."""

    def __init__(self, checkpoint: Path, threads: int) -> None:
        self._pipeline = pipeline("automatic-speech-recognition", model=str(checkpoint), device="cpu", dtype="float32")
        self._end = self._pipeline.tokenizer.eos_token_id
        self._tokens: list[int] = []
        generate = self._pipeline.model.generate

        def counting(*arguments: Any, **options: Any) -> Any:
            tokens = generate(*arguments, **options)
            rows = tokens["sequences"] if isinstance(tokens, dict) else tokens
            self._tokens += (rows < self._end).sum(1).tolist()
            return tokens

        self._pipeline.model.generate = counting

    def _generate(self, workload: Workload, config: RunConfig) -> dict[str, Any]:
        """Return the options of `generate`, and reset the count."""
        self._tokens.clear()
        length = common_length(workload)
        options: dict[str, Any] = {"language": workload.language, "task": "transcribe", "num_beams": config.beam_size}
        options["do_sample"] = False
        if length is not None:
            own = self._pipeline.model.generation_config.suppress_tokens or []
            options |= {"max_new_tokens": length, "suppress_tokens": [*own, self._end]}
        return options


class SequentialPipeline(_Pipeline):
    """transformers' pipeline in a loop over windows, as in tutorials."""

    def __call__(self, workload: Workload, config: RunConfig) -> list[WindowResult]:
        options = self._generate(workload, config)
        texts = [self._pipeline(to_float(window), generate_kwargs=options)["text"] for window in workload.windows]
        return [WindowResult(count, text) for count, text in zip(self._tokens, texts, strict=True)]


class ChunkedPipeline(_Pipeline):
    """transformers' pipeline over the whole audio, a chunk of 30 s every 20 s, as insanely-fast-whisper runs it."""

    def __call__(self, workload: Workload, config: RunConfig) -> list[WindowResult]:
        options = self._generate(workload, config)
        answer = self._pipeline(
            to_float(workload.pcm), chunk_length_s=30, batch_size=config.batch_size, generate_kwargs=options
        )
        # The text is that of all chunks together, with overlaps merged.
        return [WindowResult(count, "") for count in self._tokens[:-1]] + [
            WindowResult(self._tokens[-1], answer["text"])
        ]


class OpenAIWhisper:
    """openai-whisper, with the checkpoint's vocabulary instead of its own."""

    def __init__(self, checkpoint: Path, threads: int) -> None:
        import whisper

        encoding = tiktoken_encoding(checkpoint)
        languages = encoding.encode_single_token("<|translate|>") - encoding.encode_single_token("<|en|>")
        # The library infers whether a model is multilingual from the size of its vocabulary; nano's is small.
        described = {"is_multilingual": True, "num_languages": languages}
        sys.modules["whisper.tokenizer"].get_encoding = lambda **_: encoding  # type: ignore[attr-defined]
        self.model = whisper.load_model(str(to_openai(checkpoint, _converted(checkpoint) / "openai")), device="cpu")
        self.model.__class__ = type("Whisper", (whisper.Whisper,), described)
        self._end = encoding.eot_token

    def __call__(self, workload: Workload, config: RunConfig) -> list[WindowResult]:
        length = common_length(workload)
        answer = self.model.transcribe(
            to_float(workload.pcm),
            clip_timestamps=[seconds for cut in workload.window_bounds for seconds in cut],
            language=workload.language,
            temperature=config.temperatures,
            **_search_options(config),
            **({} if config.fallback else _NO_THRESHOLDS | {"logprob_threshold": None}),
            condition_on_previous_text=False,
            without_timestamps=True,
            fp16=False,
            suppress_blank=False,
            sample_len=length,
            suppress_tokens=[] if length is None else [self._end],
        )
        return [WindowResult(sum(t < self._end for t in s["tokens"]), s["text"]) for s in answer["segments"]]


class _Multilingual:
    """A CTranslate2 model that reports itself as multilingual, which nano's small vocabulary does not suggest."""

    is_multilingual = True

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class FasterWhisper:
    """faster-whisper, one window at a time."""

    def __init__(self, checkpoint: Path, threads: int, precision: str) -> None:
        from faster_whisper import WhisperModel

        folder = to_ctranslate2(checkpoint, _converted(checkpoint) / "ctranslate2")
        self.model = WhisperModel(str(folder), device="cpu", compute_type=precision, cpu_threads=threads)
        self.model.model = _Multilingual(self.model.model)
        self._end = self.model.hf_tokenizer.token_to_id("<|endoftext|>")

    def __call__(self, workload: Workload, config: RunConfig) -> list[WindowResult]:
        segments, _ = self.model.transcribe(
            to_float(workload.pcm),
            clip_timestamps=[seconds for cut in workload.window_bounds for seconds in cut],
            **({} if config.fallback else _NO_THRESHOLDS | {"log_prob_threshold": None}),
            **self._options(workload, config),
        )
        return self._heard(segments)

    def _heard(self, segments: Iterable[Any]) -> list[WindowResult]:
        return [WindowResult(sum(token < self._end for token in segment.tokens), segment.text) for segment in segments]

    def _options(self, workload: Workload, config: RunConfig) -> dict[str, Any]:
        length = common_length(workload)
        return {
            "language": workload.language,
            "beam_size": config.beam_size,
            "best_of": config.beam_size,
            "temperature": config.temperatures,
            "condition_on_previous_text": False,
            "without_timestamps": True,
            "vad_filter": False,
            "suppress_blank": False,
            "suppress_tokens": None if length is None else [self._end],
            "max_new_tokens": None if length is None else _ct2_length(length) - PROMPT,
        }


class FasterWhisperBatched(FasterWhisper):
    """faster-whisper's batched pipeline, with the given windows instead of those of its VAD."""

    def __init__(self, checkpoint: Path, threads: int, precision: str) -> None:
        super().__init__(checkpoint, threads, precision)
        from faster_whisper import BatchedInferencePipeline

        self._pipeline = BatchedInferencePipeline(self.model)

    def __call__(self, workload: Workload, config: RunConfig) -> list[WindowResult]:
        clips = [{"start": start, "end": end} for start, end in workload.window_bounds]
        segments, _ = self._pipeline.transcribe(
            to_float(workload.pcm),
            clip_timestamps=clips,
            batch_size=config.batch_size,
            **self._options(workload, config),
        )
        return self._heard(segments)


class CTranslate2:
    """CTranslate2 alone: windows in, tokens out."""

    def __init__(self, checkpoint: Path, threads: int, precision: str) -> None:
        import ctranslate2

        folder = to_ctranslate2(checkpoint, _converted(checkpoint) / "ctranslate2")
        self._view = ctranslate2.StorageView.from_array
        self._model = ctranslate2.models.Whisper(str(folder), compute_type=precision, intra_threads=threads)
        self._extract = WhisperFeatureExtractor.from_pretrained(checkpoint)
        self._tokenizer = WhisperTokenizerFast.from_pretrained(checkpoint)
        self._end = self._tokenizer.eos_token_id

    def __call__(self, workload: Workload, config: RunConfig) -> list[WindowResult]:
        length = common_length(workload)
        names = ("<|startoftranscript|>", f"<|{workload.language}|>", "<|transcribe|>", "<|notimestamps|>")
        prompt = self._tokenizer.convert_tokens_to_ids(list(names))
        results = []
        for group in in_batches(workload.windows, config.batch_size):
            sounds = [to_float(window) for window in group]
            features = self._extract(sounds, sampling_rate=SAMPLE_RATE, return_tensors="np").input_features
            generated = self._model.generate(
                self._view(features),
                [prompt] * len(group),
                beam_size=config.beam_size,
                max_length=448 if length is None else _ct2_length(length),
                suppress_blank=False,
                suppress_tokens=[-1] if length is None else [-1, self._end],
            )
            tokens = [result.sequences_ids[0] for result in generated]
            results += [WindowResult(len(row), self._tokenizer.decode(row, skip_special_tokens=True)) for row in tokens]
        return results


def _ct2_length(tokens: int) -> int:
    """Return CTranslate2's max_length for a number of new tokens: it allows min(length / 2, length - prompt)."""
    return max(2 * tokens, tokens + PROMPT)


def _converted(checkpoint: Path) -> Path:
    return Path(__file__).parents[1] / "data" / "bench" / "converted" / checkpoint.name
