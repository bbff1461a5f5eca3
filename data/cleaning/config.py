"""What a recipe says about cleaning. Torch-free."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from data.config import Spec

Share = Annotated[float, Field(ge=0, le=1)]


_LANGUAGES = frozenset(
    [
        "ace",
        "af",
        "am",
        "an",
        "ar",
        "ary",
        "arz",
        "as",
        "az",
        "ba",
        "bcl",
        "be",
        "bg",
        "bn",
        "br",
        "bs",
        "ca",
        "crh",
        "cs",
        "cy",
        "da",
        "de",
        "dz",
        "el",
        "en",
        "eo",
        "es",
        "et",
        "eu",
        "ext",
        "fa",
        "fi",
        "fo",
        "fr",
        "fuv",
        "fy",
        "ga",
        "gcf",
        "gcr",
        "gd",
        "gl",
        "gom",
        "grc",
        "gu",
        "gug",
        "guw",
        "ha",
        "hbo",
        "he",
        "hi",
        "hr",
        "ht",
        "hu",
        "hy",
        "id",
        "ig",
        "is",
        "it",
        "ja",
        "jv",
        "ka",
        "kab",
        "kik",
        "kk",
        "km",
        "kn",
        "ko",
        "ku",
        "ky",
        "la",
        "lb",
        "lg",
        "lij",
        "ln",
        "lo",
        "lt",
        "ltg",
        "lv",
        "mg",
        "mk",
        "ml",
        "mn",
        "mr",
        "ms",
        "mt",
        "my",
        "ne",
        "nl",
        "nn",
        "no",
        "nso",
        "oc",
        "om",
        "or",
        "pa",
        "pcm",
        "pl",
        "ps",
        "pt",
        "qu",
        "ro",
        "ru",
        "rw",
        "sa",
        "sdh",
        "se",
        "si",
        "sk",
        "sl",
        "sn",
        "so",
        "sq",
        "sr",
        "st",
        "sv",
        "sw",
        "ta",
        "te",
        "tg",
        "th",
        "tk",
        "tl",
        "tr",
        "tt",
        "ug",
        "uk",
        "ur",
        "uz",
        "uzs",
        "vec",
        "vi",
        "vo",
        "wa",
        "wuu",
        "xh",
        "yo",
        "yue",
        "zh",
        "zu",
        "zxx",
    ]
)
"""What py3langid tells apart."""


def _known(codes: tuple[str, ...]) -> tuple[str, ...]:
    for code in codes:
        if code not in _LANGUAGES:
            raise ValueError(f"no language '{code}' is known; wanted two letters (ISO 639-1), one of {', '.join(sorted(_LANGUAGES))}")
    return codes


class Rules(Spec):
    """A document is removed by the first rule that it breaks; null switches one off. Words are what white space separates, a Chinese or Japanese
    character being one. Rules 1 to 8 and repetition: Gopher (Rae et al. 2021, A1); the rest: C4 (Raffel et al. 2020), FineWeb (Penedo et al. 2024)."""

    words_min: int | None = 50
    """Fewest words."""
    words_max: int | None = 100_000
    """Most words."""
    word_length_min: float | None = 3.0
    """Shortest mean word, in characters; not applied where most characters are Chinese, Japanese or Korean."""
    word_length_max: float | None = 10.0
    """Longest mean word, in characters."""
    symbols: float | None = 0.1
    """Largest number of `#`, and of ellipses, per word."""
    bullet_lines: Share | None = 0.9
    """Largest share of lines that begin with a bullet."""
    ellipsis_lines: Share | None = 0.3
    """Largest share of lines that end with an ellipsis."""
    alphabetic_words: Share | None = 0.8
    """Smallest share of words with a letter."""
    stop_words: int | None = None
    """Fewest different words of the, be, to, of, and, that, have, with: for English, where Gopher wants 2."""
    duplicate_lines: Share | None = 0.3
    """Largest share of lines that repeat an earlier one."""
    duplicate_paragraphs: Share | None = 0.3
    """Largest share of paragraphs that repeat an earlier one."""
    duplicate_line_characters: Share | None = 0.2
    """Largest share of characters in lines that repeat an earlier one."""
    duplicate_paragraph_characters: Share | None = 0.2
    """Largest share of characters in paragraphs that repeat an earlier one."""
    top_2_gram: Share | None = 0.20
    """Largest share of characters in the most frequent run of 2 words."""
    top_3_gram: Share | None = 0.18
    """As above, 3 words."""
    top_4_gram: Share | None = 0.16
    """As above, 4 words."""
    duplicate_5_grams: Share | None = 0.15
    """Largest share of characters in runs of 5 words that occur more than once."""
    duplicate_6_grams: Share | None = 0.14
    """As above, 6 words."""
    duplicate_7_grams: Share | None = 0.13
    """As above, 7 words."""
    duplicate_8_grams: Share | None = 0.12
    """As above, 8 words."""
    duplicate_9_grams: Share | None = 0.11
    """As above, 9 words."""
    duplicate_10_grams: Share | None = 0.10
    """As above, 10 words."""
    placeholder: bool | None = True
    """Remove documents with `lorem ipsum`."""
    braces: bool | None = None
    """Remove documents with a curly bracket, as C4 does to be rid of code."""
    unfinished_lines: Share | None = None
    """Largest share of lines without a full stop, question or exclamation mark, quotation mark or closing bracket at their end; FineWeb wants 0.88."""
    short_lines: Share | None = None
    """Largest share of lines below 30 characters; FineWeb wants 0.67."""


class Lines(Spec):
    """Lines that are taken out of a document (C4)."""

    boilerplate: bool = True
    """Lines that ask for JavaScript or cookies, or name terms of use or a privacy policy, in fewer than 30 words."""
    unfinished: bool = False
    """Lines without a mark of punctuation at their end. This takes headings, lists and verse with it."""
    words_min: int | None = Field(None, gt=0)
    """Lines with fewer words; C4 wants 3 or more."""


class Copies(Spec):
    """Of documents with the same content the first one stays."""

    exact: bool = True
    """Equal but for case, punctuation and white space."""
    near: Annotated[float, Field(gt=0.3, lt=1)] | None = 0.8
    """Smallest Jaccard similarity of the sets of 5 words in a row, estimated by MinHash, from which on two documents are copies; null keeps them."""


class Cleaning(Spec):
    """What is done to each document, in this order."""

    repair: bool = True
    """Repair text that was decoded wrongly (ftfy), bring it to NFC, and remove control characters and what is no text."""
    lines: Lines | None = Lines()
    """Lines that are taken out; null takes none."""
    language: Annotated[tuple[str, ...], AfterValidator(_known)] = ()
    """Languages to keep (`[en, de]`, ISO 639-1), by a hint from the text's first 2,000 characters; all if left out."""
    rules: Rules | None = Rules()
    """Rules that remove documents; null for none."""
    scrub: tuple[Literal["email", "ip", "phone", "card"], ...] = ()
    """Personal data to replace by a name in brackets such as `[EMAIL]`; simple patterns, which miss some and take some that is none."""
    longest: int | None = Field(None, ge=200)
    """Longest document in characters: a longer one is split between paragraphs, else sentences, else words."""
    copies: Copies = Copies()
    """Documents that repeat others."""
    overlap: int = Field(13, ge=5)
    """Words in a row shared with the sets of `against`, from which on a document is removed."""
