import pytest
from pydantic import ValidationError

from serve_app.settings import AppSettings


def test_unknown_names_are_refused_by_name_at_every_level() -> None:
    with pytest.raises(ValidationError, match=r"(?s)limits\.max_bytes.*modle"):
        AppSettings.model_validate({"modle": "x", "limits": {"max_bytes": 1}})


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT_MODEL", "openai/whisper-tiny")
    monkeypatch.setenv("STT_LIMITS__MAX_AUDIO_S", "5")
    settings = AppSettings.model_validate({"model": "x", "limits": {"max_audio_s": 7, "max_upload_bytes": 9}})
    assert settings.model == "openai/whisper-tiny"
    assert (settings.limits.max_audio_s, settings.limits.max_upload_bytes) == (5, 9)


@pytest.mark.parametrize("name", ["STT_MODLE", "STT_LIMITS__MAX_BYTES"])
def test_an_unknown_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ValidationError, match=r"(?i)modle|limits\.max_bytes"):
        AppSettings()


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        AppSettings().limits.max_audio_s = 1


def test_an_empty_key_would_open_the_door() -> None:
    with pytest.raises(ValidationError, match="api_keys"):
        AppSettings.model_validate({"api_keys": [""]})


@pytest.mark.parametrize("webhooks", [{"secrets": ["whsec_?"]}, {"secrets": ["whsec_AAAA"]}, {"retry_delays_s": []}])
def test_webhooks_that_could_not_be_sent_are_refused(webhooks: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=f"webhooks.{next(iter(webhooks))}"):
        AppSettings.model_validate({"webhooks": webhooks})


@pytest.mark.parametrize(
    "args", [{"blobs": "bucket/prefix"}, {"public_url": "stt.example.com"}, {"verda": {"webhook": "example.com/done"}}]
)
def test_urls_are_told_from_paths(args: dict[str, object]) -> None:
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
def test_uploads_that_could_not_be_kept_are_refused(uploads: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        AppSettings.model_validate({"uploads": uploads})
