"""OpenAI's audio API: transcriptions, translations and models."""
