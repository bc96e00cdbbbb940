"""Whisper's languages: ISO-639-1 codes and English names, in the order of its vocabulary."""

# Not imported from transformers, which would take every process most of a second: a test compares the two.
_NAMES = """
en:english zh:chinese de:german es:spanish ru:russian ko:korean fr:french ja:japanese pt:portuguese tr:turkish
pl:polish ca:catalan nl:dutch ar:arabic sv:swedish it:italian id:indonesian hi:hindi fi:finnish vi:vietnamese
he:hebrew uk:ukrainian el:greek ms:malay cs:czech ro:romanian da:danish hu:hungarian ta:tamil no:norwegian
th:thai ur:urdu hr:croatian bg:bulgarian lt:lithuanian la:latin mi:maori ml:malayalam cy:welsh sk:slovak
te:telugu fa:persian lv:latvian bn:bengali sr:serbian az:azerbaijani sl:slovenian kn:kannada et:estonian
mk:macedonian br:breton eu:basque is:icelandic hy:armenian ne:nepali mn:mongolian bs:bosnian kk:kazakh
sq:albanian sw:swahili gl:galician mr:marathi pa:punjabi si:sinhala km:khmer sn:shona yo:yoruba so:somali
af:afrikaans oc:occitan ka:georgian be:belarusian tg:tajik sd:sindhi gu:gujarati am:amharic yi:yiddish lo:lao
uz:uzbek fo:faroese ht:haitian_creole ps:pashto tk:turkmen nn:nynorsk mt:maltese sa:sanskrit lb:luxembourgish
my:myanmar bo:tibetan tl:tagalog mg:malagasy as:assamese tt:tatar haw:hawaiian ln:lingala ha:hausa ba:bashkir
jw:javanese su:sundanese yue:cantonese
"""

LANGUAGES = {code: name.replace("_", " ") for code, name in (pair.split(":") for pair in _NAMES.split())}
"""Lower-case English names by code."""

LANGUAGE_ALIASES = {
    "burmese": "my",
    "valencian": "ca",
    "flemish": "nl",
    "haitian": "ht",
    "letzeburgesch": "lb",
    "pushto": "ps",
    "panjabi": "pa",
    "moldavian": "ro",
    "moldovan": "ro",
    "sinhalese": "si",
    "castilian": "es",
    "mandarin": "zh",
}
"""Codes by alternative English name."""

_CODES = {name: code for code, name in LANGUAGES.items()} | LANGUAGE_ALIASES


def language_code(value: str) -> str:
    """Return the ISO-639-1 code of a language, given by code or English name in any case.

    Raises ValueError for a language that Whisper does not support.
    """
    name = value.strip().lower()
    if name in LANGUAGES:
        return name
    if name in _CODES:
        return _CODES[name]
    raise ValueError(f"unknown language {value!r}: use an ISO-639-1 code or an English name, such as 'en' or 'english'")


def language_name(code: str) -> str:
    """Return the lower-case English name of a language code, as in OpenAI's verbose_json."""
    return LANGUAGES[code]
