"""The HTTP APIs. Each folder speaks the API of one service; `bodies.py`, `uploads.py` and `health.py` are shared."""
