"""A hint at the language that a text is written in (py3langid; Lui & Baldwin 2012)."""

SAMPLE = 2_000
"""Characters that are looked at."""


def language_of(text: str) -> str:
    """Two letters (ISO 639-1). A guess: short or mixed texts, lists and names mislead it."""
    from py3langid import classify

    return str(classify(text[:SAMPLE])[0])
