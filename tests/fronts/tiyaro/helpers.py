"""Requests and errors of the Tiyaro front."""

import httpx

KEY = "one key"
PATH = "/v1/async/ent/tiyarofs/1/openai/whisper-large"
URL = "http://x/a"


def error_message(answer: httpx.Response) -> str:
    """Return the message of an error, after checking the error's format."""
    assert set(answer.json()) == {"code", "message"}, answer.text
    assert answer.json()["code"] == answer.status_code
    text: str = answer.json()["message"]
    return text
