"""Random sentences: numbers, everyday words and made-up words, in any alphabet that a synthesiser needs."""

import random

from training.whisper_nano.digits import WORDS as DIGITS

# fmt: off
_EVERYDAY = {
    "en": "the of and to in is you that it was for are with his they be this have from one had by words but what some we can out other were all there when use your how said each she which do their time if will way about many then them would write like so these her long make thing see him two has look more day could go come did number sound no most people my over know water than call first who may down side been now find any new work part take get place made live where after back little only round man year came show every good me give our under name very through just form much great think say help low line before turn cause same mean differ move right boy old too does tell sentence set three want air well also play small end put home read hand port large spell add even land here must big high such follow act why ask men change went light kind off need house picture try us again animal point mother world near build self earth father",  # noqa: E501
    "de": "und die der das ich nicht ist wir sie ein eine mit auf für haben werden können müssen heute morgen gestern vielleicht natürlich zusammen arbeiten sprechen wohnung straße wasser zeit jahr leute kinder schule freund freude schön groß klein schnell langsam immer niemals warum woher welche zwischen gegen ohne durch nach vor über unter sagen gehen kommen sehen wissen denken finden bleiben liegen stehen lassen führen bringen halten glauben fragen brauchen folgen lernen",  # noqa: E501
    "fr": "le la les un une des et est dans pour que qui avec sur pas nous vous ils elle mais comme tout bien aussi encore toujours jamais peut être avoir faire dire aller voir savoir pouvoir vouloir venir prendre croire trouver donner parler aimer passer demander maison ville jour année homme femme enfant monde pays temps eau soleil rue chose travail petite grande nouveau premier dernier bonjour merci aujourd'hui demain",  # noqa: E501
    "es": "el la los las una que de en por para con no se su al lo como más pero sus le ya este porque esta entre cuando muy sin sobre también me hasta hay donde quien desde todo nos durante todos uno les ni contra otros ese eso ante ellos esto antes algunos unos yo otro otras otra él tanto esa estos mucho nada muchos poco ella estar haber hacer decir poder tiempo vida casa mundo agua calle trabajo gobierno hombre mujer amigo noche mañana",  # noqa: E501
}
_SYLLABLES = {
    "latin": (list("bcdfghjklmnprstvz"), [*"aeiou", "ai", "ei", "ou"]),
    "cyrillic": (list("бвгдзклмнпрстфх"), list("аеиоуя")),
    "devanagari": (list("कगचजटडतदनपबमयरलवसह"), ["", "ा", "ि", "ी", "ु", "े", "ो"]),
    "telugu": (list("కగచజటడతదనపబమయరలవసహ"), ["", "ా", "ి", "ీ", "ు", "ే", "ో"]),
}
# fmt: on


def made_up(rng: random.Random, alphabet: str) -> str:
    """Return a meaningless word of one to four syllables."""
    onsets, vowels = _SYLLABLES[alphabet]
    return "".join(rng.choice(onsets) + rng.choice(vowels) for _ in range(rng.choice([1, 2, 2, 2, 3, 3, 4])))


def sentence(rng: random.Random, language: str, alphabet: str = "latin") -> str:
    """Return one to sixteen words with some commas; a quarter of the sentences are numbers only."""
    base = language[:2]
    count = rng.choice([1, 2, 3, 4, 5, 6, 8, 10, 13, 16])
    if base in DIGITS and rng.random() < 0.25:
        words = [rng.choice(DIGITS[base]) for _ in range(min(count, 9))]
    else:
        known = _EVERYDAY[base].split() if base in _EVERYDAY and alphabet == "latin" else []
        words = [rng.choice(known) if known and rng.random() < 0.8 else made_up(rng, alphabet) for _ in range(count)]
    return "".join(word + (", " if rng.random() < 0.07 else " ") for word in words).strip(" ,")
