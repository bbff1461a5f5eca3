"""The ids of a Hugging Face tokenizer, computed by tiktoken: several times faster, and only where the two are proved to agree.

Both apply byte-level BPE to pieces that a regular expression cuts. Hugging Face merges the adjacent pair that stands first in its list of merges,
tiktoken the adjacent pair whose concatenation is the token of lowest rank. Ids are equal if

1. ids rise along the list of merges, and no token is made by two merges: "first in the list" then means "lowest rank";
2. each token, alone, is merged into itself. Then two adjacent pieces x, y whose concatenation is a token t are always t's own merge: no merge has
   crossed the ends of t yet, so that what was merged inside is what is merged in t alone, whose last step joins the two parts of t's merge. A pair
   that tiktoken may join is thus a pair that Hugging Face may join, in every state that is reached, and both pick the same one;
3. text is cut alike: the patterns below are those of published tokenizers, compared with their Rust counterparts over all of Unicode in the tests.

A text that spells an added token is left to the tokenizer itself, and so is every tokenizer for which one of these cannot be shown.
"""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What `ByteLevel` cuts with."""
_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
PATTERNS = {
    GPT2: r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    # Llama 3
    _ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": None,
    # Qwen 2 and 3
    _ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": None,
}
"""How a tokenizer cuts, and tiktoken's faster spelling of the same; None where it takes the same."""

Encode = Callable[[str], "NDArray[np.int32] | None"]


def fast_encode(backend: Any) -> Encode | None:
    """A function from a text to the ids that `backend.encode` gives with special tokens, or None where it cannot tell them; None if none is proved equal."""
    settings = json.loads(backend.to_str())
    pattern = _pattern(settings)
    ranks = _ranks(settings, backend)
    ends = _ends(backend)
    if pattern is None or ranks is None or ends is None:
        return None
    import tiktoken

    encoding = tiktoken.Encoding("proved equal", pat_str=PATTERNS[pattern] or pattern, mergeable_ranks=ranks, special_tokens={})
    added = [re.escape(token["content"]) for token in settings["added_tokens"]]
    spelled = re.compile("|".join(added)).search if added else lambda text: None
    before, after = (np.array(ids, np.int32) for ids in ends)
    framed = len(before) + len(after) > 0

    def encode(text: str) -> NDArray[np.int32] | None:
        if spelled(text) is not None:
            return None
        ids = encoding.encode_to_numpy(text, disallowed_special=()).view(np.int32)
        return np.concatenate([before, ids, after]) if framed else ids

    return encode


def _pattern(settings: dict[str, Any]) -> str | None:
    """The known pattern that the tokenizer cuts with, if that is all that it does to a text."""
    cutting = settings["pre_tokenizer"] or {}
    if settings["normalizer"] is not None:
        return None
    if cutting.get("type") == "ByteLevel":
        return GPT2 if not cutting["add_prefix_space"] and cutting["use_regex"] else None
    steps = cutting.get("pretokenizers", []) if cutting.get("type") == "Sequence" else []
    if [step["type"] for step in steps] != ["Split", "ByteLevel"]:
        return None
    split, last = steps
    plain = split["behavior"] == "Isolated" and not split["invert"] and not last["add_prefix_space"] and not last["use_regex"]
    pattern = split["pattern"].get("Regex")
    return pattern if plain and pattern in PATTERNS else None


def _ranks(settings: dict[str, Any], backend: Any) -> dict[bytes, int] | None:
    """Tokens as bytes with their ids, if conditions 1 and 2 hold."""
    model = settings["model"]
    marks = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if model["type"] != "BPE" or any(model.get(mark) for mark in marks):
        return None
    vocabulary: dict[str, int] = model["vocab"]
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    made = [vocabulary.get(first + second, -1) for first, second in merges]
    letters = _letters()
    special = {token["content"] for token in settings["added_tokens"]}
    single = {token for token in vocabulary if len(token) == 1 and token in letters}
    merged = {first + second for first, second in merges}
    words = {token: number for token, number in vocabulary.items() if token in merged or token in single}
    rising = all(first < second for first, second in pairwise(made)) and (not made or made[0] >= 0)
    if len(single) < 256 or not rising or set(vocabulary) - set(words) - special:
        return None
    if not all(set(token) <= letters.keys() for token in words) or not _alone(settings, backend, words):
        return None
    return {bytes(letters[letter] for letter in token): number for token, number in words.items()}


def _alone(settings: dict[str, Any], backend: Any, words: dict[str, int]) -> bool:
    """Each token, alone, is merged into itself; with `ignore_merges` it would be looked up instead, which shows nothing."""
    if settings["model"].get("ignore_merges"):
        backend = type(backend).from_str(json.dumps({**settings, "model": {**settings["model"], "ignore_merges": False}}))
    merge = backend.model.tokenize
    return all([token.id for token in merge(word)] == [number] for word, number in words.items())


def _ends(backend: Any) -> tuple[list[int], list[int]] | None:
    """What the tokenizer puts before and behind every text."""
    found = []
    for text in ("a", "b b"):
        plain, whole = backend.encode(text, add_special_tokens=False).ids, backend.encode(text, add_special_tokens=True).ids
        place = next((begin for begin in range(len(whole)) if whole[begin : begin + len(plain)] == plain), None)
        if place is None:
            return None
        found.append((whole[:place], whole[place + len(plain) :]))
    return found[0] if found[0] == found[1] else None


def _letters() -> dict[str, int]:
    """The letter that stands for each byte in a byte-level vocabulary: itself where it can be seen, else one from 256 on (Radford et al. 2019)."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {**{chr(byte): byte for byte in seen}, **{chr(256 + place): byte for place, byte in enumerate(hidden)}}
