"""Whisper's options as openai-whisper's command and `transcribe` define them: defaults, nulls, temperature lists."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from serve_app.schemas.request import MODEL_DEFAULT_TOKENS, HypothesisCount, WhisperOptions


def _or_null(kind: Any, null: Any) -> BeforeValidator:
    """Return a validator that replaces null, which Whisper allows, by the value it means there."""
    return BeforeValidator(lambda given: null if given is None else given, json_schema_input_type=kind | None)


def _as_increments(temperatures: Sequence[Any]) -> dict[str, Any]:
    """Return a list of temperatures as the first one and the increment. Raises ValueError if that can't express it."""
    try:
        increment = round(temperatures[1] - temperatures[0], 6) if len(temperatures) > 1 else None
        options = WhisperOptions(temperature=temperatures[0], temperature_increment_on_fallback=increment)
        if options.temperatures == tuple(round(temperature, 6) for temperature in temperatures):
            return options.model_dump(include={"temperature", "temperature_increment_on_fallback"})
    except (IndexError, TypeError, ValueError, OverflowError):
        pass
    raise ValueError(
        "temperature: a list must hold one number, or rise in equal steps to at most 1, such as [0, 0.5, 1]"
    )


class WhisperInput(WhisperOptions):
    """Whisper's options, with the defaults of openai-whisper's command."""

    best_of: Annotated[HypothesisCount, _or_null(HypothesisCount, 1)] = Field(
        5, description="Number of samples above temperature 0; the most likely one wins. Null: 1."
    )
    beam_size: Annotated[HypothesisCount, _or_null(HypothesisCount, 1)] = Field(
        5, description="Number of beams at temperature 0; 1 or null: greedy decoding."
    )
    patience: Annotated[float, _or_null(float, 1.0)] = Field(
        1.0,
        gt=0,
        le=10,
        description="Beam search ends after beam_size times this many finished hypotheses; null: 1.",
    )
    suppress_tokens: Annotated[tuple[int, ...], _or_null(tuple[int, ...] | str, ())] = Field(
        (MODEL_DEFAULT_TOKENS,),
        max_length=1000,
        description="Token ids to suppress, as a list or separated by commas; -1: the model's own list; null: none.",
    )
    temperature: Annotated[
        float, BeforeValidator(lambda given: given, json_schema_input_type=float | tuple[float, ...])
    ] = Field(
        0.0,
        ge=0,
        le=1,
        description="0: beam search; above 0: random sampling. A list: the temperatures to try in turn, which rise in "
        "equal steps as far as 1 allows, instead of temperature_increment_on_fallback.",
    )
    condition_on_previous_text: bool = Field(True, description="Condition each window on the previous window's text.")

    @model_validator(mode="before")
    @classmethod
    def _convert_temperature_list(cls, given: Any) -> Any:
        temperatures = given.get("temperature") if isinstance(given, dict) else None
        if not isinstance(temperatures, list | tuple):
            return given
        if given.get("temperature_increment_on_fallback") is not None:
            raise ValueError("temperature: a list can't be combined with temperature_increment_on_fallback")
        return given | _as_increments(temperatures)
