import json

import pytest
from pydantic import ValidationError

from serve_app.errors import NotFound
from serve_app.settings import AppSettings, WhisperSettings


def test_unknown_names_are_rejected_at_every_level() -> None:
    with pytest.raises(ValidationError, match=r"(?s)limits\.max_bytes.*modle"):
        AppSettings.model_validate({"modle": "x", "limits": {"max_bytes": 1}})


def test_the_environment_takes_precedence_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT_MODEL", "openai/whisper-tiny")
    monkeypatch.setenv("STT_LIMITS__MAX_AUDIO_S", "5")
    settings = AppSettings.model_validate({"model": "x", "limits": {"max_audio_s": 7, "max_upload_bytes": 9}})
    assert settings.model == "openai/whisper-tiny"
    assert (settings.limits.max_audio_s, settings.limits.max_upload_bytes) == (5, 9)


@pytest.mark.parametrize("name", ["STT_MODLE", "STT_LIMITS__MAX_BYTES"])
def test_an_unknown_environment_variable_is_rejected(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ValidationError, match=r"(?i)modle|limits\.max_bytes"):
        AppSettings()


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        AppSettings().limits.max_audio_s = 1


def test_an_empty_api_key_is_rejected() -> None:
    with pytest.raises(ValidationError, match="api_keys"):
        AppSettings.model_validate({"api_keys": [""]})


@pytest.mark.parametrize("webhooks", [{"secrets": ["whsec_?"]}, {"secrets": ["whsec_AAAA"]}, {"retry_delays_s": []}])
def test_invalid_webhook_settings_are_rejected(webhooks: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=f"webhooks.{next(iter(webhooks))}"):
        AppSettings.model_validate({"webhooks": webhooks})


@pytest.mark.parametrize(
    "args", [{"blobs": "bucket/prefix"}, {"public_url": "stt.example.com"}, {"verda": {"webhook": "example.com/done"}}]
)
def test_invalid_urls_are_rejected(args: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(args))):
        AppSettings.model_validate(args)


@pytest.mark.parametrize(
    ("uploads", "named"),
    [
        ({"signing_key": "short"}, "signing_key"),
        ({"expires_s": 3600, "sweep_after_s": 7199}, "sweep_after_s"),
        ({"expires_s": 0}, "expires_s"),
    ],
)
def test_invalid_upload_settings_are_rejected(uploads: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        AppSettings.model_validate({"uploads": uploads})


SMALL = {"id": "small", "aliases": ["s", "kleines"], "checkpoint": "openai/whisper-small", "tier": "cpuflex"}


class TestModels:
    def test_every_name_resolves_to_its_model(self) -> None:
        settings = AppSettings.model_validate({"model_tier": "gpuflex", "models": [SMALL, {"id": "/models/de"}]})
        for name, (served, checkpoint, tier) in {
            None: ("whisper-base", "whisper-base", "gpuflex"),
            "whisper-base": ("whisper-base", "whisper-base", "gpuflex"),
            "whisper-1": ("whisper-base", "whisper-base", "gpuflex"),
            "small": ("small", "openai/whisper-small", "cpuflex"),
            "kleines": ("small", "openai/whisper-small", "cpuflex"),
            "/models/de": ("/models/de", "/models/de", None),
        }.items():
            model = settings.served_model(name)
            assert (model.id, model.checkpoint, model.tier) == (served, checkpoint, tier)

    def test_unknown_model_error_lists_the_models(self) -> None:
        settings = AppSettings.model_validate({"models": [SMALL]})
        for name in ("gpt-9", "Small", "openai/whisper-small", ""):
            with pytest.raises(NotFound, match="use one of whisper-base, whisper-1, small, s, kleines") as error:
                settings.served_model(name)
            assert (error.value.param, error.value.code) == ("model", "model_not_found")

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            ({"model": "whisper-1"}, "model_aliases: 'whisper-1' is already used in model"),
            ({"model_aliases": ["a", "b", "a"]}, "model_aliases: 'a' is already used in model_aliases"),
            ({"models": [{"id": "whisper-base"}]}, "models.0.id: 'whisper-base' is already used in model"),
            (
                {"models": [SMALL | {"aliases": ["whisper-1"]}]},
                "models.0.aliases: 'whisper-1' is already used in model_aliases",
            ),
            ({"models": [SMALL, {"id": "s"}]}, "models.1.id: 's' is already used in models.0.aliases"),
            (
                {"models": [SMALL, {"id": "t", "aliases": ["small"]}]},
                "models.1.aliases: 'small' is already used in models.0.id",
            ),
            ({"models": [{"aliases": ["a"]}]}, "(?s)models.0.id.*required"),
            ({"models": [{"id": ""}]}, "(?s)models.0.id.*at least 1"),
            ({"models": [SMALL | {"aliases": [""]}]}, "(?s)models.0.aliases.0.*at least 1"),
            ({"models": [SMALL | {"tier": "tpu"}]}, "(?s)models.0.tier.*'cpuflex' or 'gpuflex'"),
            ({"models": [SMALL | {"alias": "a"}]}, "(?s)models.0.alias.*not permitted"),
            ({"models": [SMALL | {"threads": 0}]}, "(?s)models.0.threads.*greater than 0"),
            ({"models": {"id": "a"}}, "models"),
        ],
    )
    def test_invalid_models_are_rejected_with_field_and_name(self, args: dict[str, object], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            AppSettings.model_validate(args)

    def test_a_models_settings_override_the_common_ones(self) -> None:
        whisper = WhisperSettings(device="cuda", dtype="float16", threads=4, watchdog_s=7)
        settings = AppSettings.model_validate({"models": [SMALL | {"device": "cpu", "threads": 2}]})
        default, small = settings.served_models
        assert default.effective_whisper_settings(whisper) == whisper
        assert small.effective_whisper_settings(whisper) == WhisperSettings(
            device="cpu", dtype="float16", threads=2, watchdog_s=7
        )

    def test_models_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STT_MODELS", json.dumps([SMALL]))
        monkeypatch.setenv("STT_MODEL_TIER", "gpuflex")
        settings = AppSettings.model_validate({"models": [{"id": "from the file"}]})
        assert [(model.id, model.tier) for model in settings.served_models] == [
            ("whisper-base", "gpuflex"),
            ("small", "cpuflex"),
        ]

    def test_the_name_of_the_fallback_must_be_unique(self) -> None:
        settings = AppSettings.model_validate({"model": "whisper-nano", "model_fallback": "whisper-nano"})
        assert settings.model_fallback == settings.model
        with pytest.raises(ValidationError, match=r"model_fallback: 'small' is already used in models\.0\.id"):
            AppSettings.model_validate({"models": [SMALL], "model_fallback": "small"})
