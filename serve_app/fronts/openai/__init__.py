"""OpenAI's audio API: transcriptions, translations and models. It has the common error format."""

from serve_app.fronts.common.front import Front
from serve_app.fronts.openai.routes import router

FRONT = Front("openai", (router,), path_prefixes=("v1",))
