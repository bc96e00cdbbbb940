"""The API of Verda's asynchronous Whisper containers."""
