"""Whisper's options as its own command and `transcribe` take them: defaults, nulls, lists of temperatures."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from serve_app.schemas.request import MODEL_DEFAULT_TOKENS, HypothesisCount, WhisperOptions


def _or_null(kind: Any, null: Any) -> BeforeValidator:
    """Null is allowed too, and stands for that value, as it does to Whisper."""
    return BeforeValidator(lambda given: null if given is None else given, json_schema_input_type=kind | None)


def _steps(ladder: Sequence[Any]) -> dict[str, Any]:
    """A list of temperatures as the first and the step to the next. Raises ValueError for a list that is not all."""
    try:
        step = round(ladder[1] - ladder[0], 6) if len(ladder) > 1 else None
        same = WhisperOptions(temperature=ladder[0], temperature_increment_on_fallback=step)
        if same.temperatures == tuple(round(temperature, 6) for temperature in ladder):
            return same.model_dump(include={"temperature", "temperature_increment_on_fallback"})
    except (IndexError, TypeError, ValueError, OverflowError):
        pass
    raise ValueError(
        "temperature: a list must hold one number, or rise in equal steps to at most 1, such as [0, 0.5, 1]"
    )


class WhisperInput(WhisperOptions):
    """Whisper's options, with the defaults of its command."""

    best_of: Annotated[HypothesisCount, _or_null(HypothesisCount, 1)] = Field(
        5, description="Texts drawn above temperature 0; the likeliest wins. Null: one."
    )
    beam_size: Annotated[HypothesisCount, _or_null(HypothesisCount, 1)] = Field(
        5, description="Beams at temperature 0; 1 or null: greedy."
    )
    patience: Annotated[float, _or_null(float, 1.0)] = Field(
        1.0, gt=0, le=10, description="Beam search ends when beam_size times this many texts have; null: 1."
    )
    suppress_tokens: Annotated[tuple[int, ...], _or_null(tuple[int, ...] | str, ())] = Field(
        (MODEL_DEFAULT_TOKENS,),
        max_length=1000,
        description="Token ids never to write, as a list or with commas between; -1: the model's own; null: none.",
    )
    temperature: Annotated[
        float, BeforeValidator(lambda given: given, json_schema_input_type=float | tuple[float, ...])
    ] = Field(
        0.0,
        ge=0,
        le=1,
        description="0 decodes by beam search; above, tokens are drawn at random. A list: those to try in turn, one or "
        "climbing in equal steps as far as 1 lets them, in the place of temperature_increment_on_fallback.",
    )
    condition_on_previous_text: bool = Field(True, description="Each window is told the text of the one before.")

    @model_validator(mode="before")
    @classmethod
    def _ladder(cls, given: Any) -> Any:
        ladder = given.get("temperature") if isinstance(given, dict) else None
        if not isinstance(ladder, list | tuple):
            return given
        if given.get("temperature_increment_on_fallback") is not None:
            raise ValueError("temperature: a list can't be combined with temperature_increment_on_fallback")
        return given | _steps(ladder)
