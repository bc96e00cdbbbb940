import subprocess
import sys

import pytest
from ray.serve._private.build_app import build_app

from deployments.app import build, deployment_names, whisper_deployments
from serve_app.settings import AppSettings


@pytest.mark.slow
def test_deploying_needs_neither_torch_nor_transformers() -> None:
    """They take seconds to import, and five processes start at a time."""
    code = "import deployments.app, sys; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


ARGS = {"model": "whisper-nano"}  # nothing is fetched
MODELS = [{"id": "openai/whisper-tiny"}, {"id": "/models/de calls"}, {"id": "small.en"}]


def test_every_model_has_a_deployment_whose_name_can_be_told_from_its_id() -> None:
    settings = AppSettings.model_validate(ARGS | {"models": MODELS})
    built = build_app(build(settings), name="whisper")
    names = [deployment.name for deployment in built.deployments]
    assert sorted(names) == sorted(deployment_names(settings))
    assert [name for name in names if name.startswith("Whisper")] == [
        *("Whisper", "Whisper-openai-whisper-tiny", "Whisper-models-de-calls", "Whisper-small.en")
    ]
    (transcriber,) = [deployment for deployment in built.deployments if deployment.name == "Transcriber"]
    handles = {model: handle.deployment_name for model, handle in transcriber.init_args[1].items()}
    assert handles == {model.id: name for name, model in whisper_deployments(settings).items()}


def test_two_models_cannot_share_a_deployment() -> None:
    settings = AppSettings.model_validate(ARGS | {"models": [{"id": "de/calls"}, {"id": "de-calls"}]})
    with pytest.raises(ValueError, match="models: 'de-calls' and 'de/calls' would share the deployment"):
        build(settings)
