"""Responses of OpenAI's models API."""

from typing import Literal, Self

from pydantic import BaseModel, Field

from serve_app.models import EMBEDDED_WARNINGS
from serve_app.settings import ServedModel


class Model(BaseModel):
    """A name of a served model."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "whisper-serve"
    warning: str | None = Field(None, description="A limitation of the model that users should be aware of.")

    @classmethod
    def of(cls, name: str, model: ServedModel) -> Self:
        """Return a model under one of its names."""
        return cls(id=name, warning=EMBEDDED_WARNINGS.get(model.checkpoint))


class ModelList(BaseModel):
    """All names of all served models."""

    object: Literal["list"] = "list"
    data: list[Model]
