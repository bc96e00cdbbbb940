"""Models that FastAPI doesn't see, in the OpenAPI document."""

from typing import Any

from pydantic import BaseModel


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model, with the models in it written out: references of its own would lead nowhere."""
    schema = model.model_json_schema()
    inner = schema.pop("$defs", {})

    def written_out(part: Any) -> Any:
        if isinstance(part, list):
            return [written_out(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return written_out(inner[part["$ref"].removeprefix("#/$defs/")])
        return {name: written_out(value) for name, value in part.items()}

    result: dict[str, Any] = written_out(schema)
    return result
