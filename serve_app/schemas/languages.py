"""Whisper's languages: their codes and English names, in the order of its vocabulary."""

# Not from transformers, which takes most of a second to import, in every process: a test holds them together.
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
"""Code to lower-case English name."""

OTHER_NAMES = {
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
"""Further names to code."""

_CODES = {name: code for code, name in LANGUAGES.items()} | OTHER_NAMES


def language_code(value: str) -> str:
    """The ISO-639-1 code for a code or an English name, in any case.

    Raises ValueError when Whisper knows no such language.
    """
    word = value.strip().lower()
    if word in LANGUAGES:
        return word
    if word in _CODES:
        return _CODES[word]
    raise ValueError(
        f"unknown language {value!r}: give an ISO-639-1 code or an English name, such as 'en' or 'english'"
    )


def language_name(code: str) -> str:
    """The lower-case English name of a code, as OpenAI's verbose_json shows it."""
    return LANGUAGES[code]
