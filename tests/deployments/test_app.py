import subprocess
import sys

import pytest
from ray.serve._private.build_app import build_app

from deployments.app import build, deployment_names, whisper_deployments
from serve_app.settings import AppSettings


@pytest.mark.slow
def test_app_imports_neither_torch_nor_transformers() -> None:
    """They take seconds to import, in each of five processes that start at the same time."""
    code = "import deployments.app, sys; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


ARGS = {"model": "whisper-nano"}  # nothing is fetched
MODELS = [{"id": "openai/whisper-tiny"}, {"id": "/models/de calls"}, {"id": "small.en"}]


def test_deployment_names_of_models() -> None:
    settings = AppSettings.model_validate(ARGS | {"models": MODELS})
    application = build_app(build(settings), name="whisper")
    names = [deployment.name for deployment in application.deployments]
    assert sorted(names) == sorted(deployment_names(settings))
    assert [name for name in names if name.startswith("Whisper")] == [
        *("Whisper", "Whisper-openai-whisper-tiny", "Whisper-models-de-calls", "Whisper-small.en")
    ]
    (transcriber,) = [deployment for deployment in application.deployments if deployment.name == "Transcriber"]
    handles = {model: handle.deployment_name for model, handle in transcriber.init_args[1].items()}
    assert handles == {model.id: name for name, model in whisper_deployments(settings).items()}


def test_deployment_names_must_be_unique() -> None:
    settings = AppSettings.model_validate(ARGS | {"models": [{"id": "de/calls"}, {"id": "de-calls"}]})
    with pytest.raises(ValueError, match="models: 'de-calls' and 'de/calls' would share the deployment"):
        build(settings)
