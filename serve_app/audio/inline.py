"""Audio embedded in a request as base64."""

import base64
import binascii

from serve_app.errors import InvalidRequest


def decode_base64(text: str, param: str) -> bytes:
    """Decode base64, plain or in a data URL. Raises InvalidRequest, naming `param`."""
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"{param} must be base64, plain or in a data URL", param, "invalid_base64") from None
