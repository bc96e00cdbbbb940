"""Speakers of the training data: hundreds of made-up voices of espeak-ng, and those shipped with the synthesisers.

A made-up voice is a variant file of espeak-ng with its own formants, pitch, breath and roughness.
"""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.whisper_nano.espeak import espeak
from training.whisper_nano.speech import (
    ESPEAK_CHARACTERS,
    ESPEAK_VARIANTS,
    RESERVED_ESPEAK_VARIANTS,
)

DEV_VARIANTS = ("m8", "f5", "Alicia", "Annie", "Diogo", "Mike", "paul", "robert", "steph", "antonio")
"""Shipped variants that are used for tuning only."""
TRAINING_VARIANTS = tuple(
    variant
    for variant in [*ESPEAK_VARIANTS, *ESPEAK_CHARACTERS]
    if variant not in (*DEV_VARIANTS, *RESERVED_ESPEAK_VARIANTS, "whisper", "whisperf")
)
LANGUAGE_WEIGHTS = {"en-us": 6, "en": 5, "en-gb-scotland": 2, "de": 5, "fr": 5, "es": 4, "es-419": 2} | dict.fromkeys(
    ("it", "pt", "nl", "pl", "sv", "fi", "cs", "ro", "tr"), 1
)
FLITE_PITCH_HZ = {"awb": 130, "rms": 105, "slt": 180}
"""Without kal: kal16 and festival's kal are the same speaker, who is reserved for evaluation."""
FESTIVAL_ALPHABETS = {
    "cmu_us_slt_arctic_hts": "latin",
    "upc_ca_ona_hts": "latin",
    "hy_fi_mv_diphone": "latin",
    "lp_diphone": "latin",
    "pc_diphone": "latin",
    "czech_dita": "latin",
    "czech_krb": "latin",
    "czech_ph": "latin",
    "msu_ru_nsh_clunits": "cyrillic",
    "hindi_NSK_diphone": "devanagari",
    "telugu_NSK_diphone": "telugu",
}
ENGLISH_FESTIVAL = ("cmu_us_slt_arctic_hts", "ked_diphone")
DEV_FESTIVAL_ALPHABETS = {"ked_diphone": "latin", "czech_machac": "latin", "suo_fi_lj_diphone": "latin"}


FAMILY = 4
"""The number of siblings among made-up voices."""

_USUAL_PITCH, _USUAL_FORMANT = (82.0, 118.0), (100.0, 100.0, 100.0, 0.0)
_EXTRAS = (
    "flutter",
    "roughness",
    "voicing",
    "consonants",
    "breath",
    "breathw",
    "echo",
    "tone",
    "klatt",
    "intonation",
    "stressAdd",
    "stressAmp",
    "stressLength",
)


@dataclass(frozen=True)
class Speaker:
    """A voice with its settings; voices with the same `timbre` differ only in settings.

    `pitch`, `pitch_range`: espeak-ng's, 0-100; for flite the mean in Hz. `rate`: words a minute for espeak-ng, duration
    factor for flite and festival. `wander`: variation of pitch between utterances.
    """

    engine: str
    timbre: str
    language: str
    pitch: float
    pitch_range: int
    rate: float
    wander: float

    @property
    def family(self) -> str:
        """Similar voices: siblings, and one timbre with other settings."""
        return self.timbre.split(".")[0]


@dataclass(frozen=True)
class Variant:
    """A made-up voice.

    `pitch`: Hz, low and high; `formants`: percent of (frequency, height, width), and Hz added to the frequency;
    `extras`: other lines of a variant file, in espeak-ng's syntax.
    """

    pitch: tuple[float, float]
    formants: tuple[tuple[float, float, float, float], ...]
    extras: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> "Variant":
        """Parse a variant file; missing values are espeak-ng's defaults."""
        pitch, formants, extras = _USUAL_PITCH, [_USUAL_FORMANT] * 9, []
        for line in text.splitlines():
            match line.split("//")[0].split():
                case ["pitch", low, high, *_]:
                    pitch = (float(low), float(high))
                case ["formant", number, *values] if int(number) < len(formants):
                    given = [float(value) for value in values[:4]]
                    formants[int(number)] = (*given, *_USUAL_FORMANT[len(given) :])
                case [word, *_] if word in _EXTRAS:
                    extras.append(line.split("//")[0].strip())
        return cls(pitch, tuple(formants), tuple(extras))

    def text(self) -> str:
        """Return the variant file."""
        lines = ["language variant", f"pitch {self.pitch[0]:.0f} {self.pitch[1]:.0f}", *self.extras]
        for number, values in enumerate(self.formants):
            lines.append(f"formant {number} " + " ".join(f"{value:.0f}" for value in values))
        return "\n".join(lines) + "\n"

    def sibling(self, rng: random.Random, colours: Sequence["Variant"]) -> "Variant":
        """Return a similar voice: voices that are hard to distinguish are the best training data.

        Half of them have the breath, roughness, echo and so on of one of `colours`.
        """
        pitch = 2 ** rng.gauss(0, 0.1)
        tract = rng.gauss(1, 0.03)
        formants = tuple(
            (
                frequency * tract * rng.gauss(1, 0.04),
                height * rng.uniform(0.8, 1.2),
                width * rng.uniform(0.85, 1.15),
                added + rng.gauss(0, 20) * (added != 0),
            )
            for frequency, height, width, added in self.formants
        )
        low = self.pitch[0] * pitch
        extras = self.extras if rng.random() < 0.5 else rng.choice(colours).extras
        return Variant((low, low * rng.uniform(1.15, 1.7)), formants, extras)


def made_up(rng: random.Random) -> Variant:
    """Return a random voice: a vocal tract and a pitch, and often breath, an echo or a tone."""
    tract = rng.uniform(0.84, 1.27)  # from a long vocal tract to a short one
    low = min(260.0, max(55.0, 105 * tract**2.2 * 2 ** rng.gauss(0, 0.3)))
    extras = [
        f"flutter {rng.randint(0, 12)}",
        f"roughness {rng.choice([0, 1, 2, 2, 3, 4, 5])}",
        f"voicing {rng.randint(60, 150)}",
        f"consonants {rng.randint(60, 140)} {rng.randint(60, 140)}",
    ]
    formants = [(rng.uniform(90, 120), rng.uniform(55, 125), rng.uniform(70, 190), 0.0)]
    for _ in range(8):
        formants.append((100 * tract * rng.gauss(1, 0.06), rng.uniform(55, 125), rng.uniform(70, 190), 0.0))
    if rng.random() < 0.3:
        extras.append("breath " + " ".join(str(rng.randint(0, 12)) for _ in range(8)))
    if rng.random() < 0.2:
        extras.append(f"echo {rng.randint(40, 200)} {rng.randint(5, 20)}")
    if rng.random() < 0.4:
        tone = [(hertz, rng.randint(60, 255)) for hertz in (600, 1200, 2000, 3000)]
        extras.append("tone " + " ".join(f"{hertz} {level}" for hertz, level in tone))
    if rng.random() < 0.12:
        extras.append(f"klatt {rng.choice([1, 2, 3, 4])}")
    return Variant((low, low * rng.uniform(1.15, 1.7)), tuple(formants), tuple(extras))


def made_up_families(rng: random.Random, count: int, shipped: Sequence[Variant], name: str = "made") -> dict[str, str]:
    """Return `count` variant files by name, in families of FAMILY siblings: `made3.0`, `made3.1` …

    Half of the families are random, the others are derived from a shipped variant.
    """
    files: dict[str, str] = {}
    while len(files) < count:
        family = len(files) // FAMILY
        if rng.random() < 0.5:
            first, colours = made_up(rng), [made_up(rng) for _ in range(FAMILY)]
        else:
            first, colours = rng.choice(shipped), shipped
        for number in range(min(FAMILY, count - len(files))):
            files[f"{name}{family}.{number}"] = first.sibling(rng, colours).text()
    return files


def shipped_variants(system: Path, names: Sequence[str]) -> list[Variant]:
    """Return variants that espeak-ng ships, from its data folder."""
    return [Variant.read((system / "voices" / "!v" / name).read_text(errors="replace")) for name in names if name]


def espeak_data(folder: Path, variants: dict[str, str], system: Path) -> None:
    """Create a data folder for espeak-ng in `folder`: the system's, with our variants added."""
    data = folder / "espeak-ng-data"
    (data / "voices").mkdir(parents=True, exist_ok=True)
    for path in system.iterdir():
        if path.name != "voices" and not (data / path.name).exists():
            (data / path.name).symlink_to(path)
    ours = data / "voices" / "!v"
    ours.mkdir(exist_ok=True)
    for path in (system / "voices" / "!v").iterdir():
        if not (ours / path.name).exists():
            (ours / path.name).symlink_to(path)
    os.environ["ESPEAK_DATA_PATH"] = str(folder)
    # espeak-ng lists at most 350 voices when the first one is used: add ours later, or languages are missing.
    espeak().synthesise("a", "en", rate=170, pitch=50, pitch_range=50, word_gap=0)
    for name, text in variants.items():
        (ours / name).write_text(text)


def espeak_speaker(rng: random.Random, variant: str) -> Speaker:
    """Return a random speaker with this variant."""
    language = rng.choices(list(LANGUAGE_WEIGHTS), list(LANGUAGE_WEIGHTS.values()))[0]
    return Speaker(
        engine="espeak",
        timbre=variant,
        language=language,
        pitch=min(95, max(5, rng.gauss(50, 20))),
        pitch_range=rng.randint(20, 85),
        rate=min(240, max(110, rng.gauss(168, 25))),
        wander=rng.choice([1, 2, 3, 6]),
    )
