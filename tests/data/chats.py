"""Ten conversations, and tokenizers like those of the published chat templates. What the tests of rendering share."""

from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from data.templates import EOS, PAD, TEMPLATES

HERE = Path(__file__).parent

Message = dict[str, Any]


def turns(*contents: str, system: str | None = None) -> list[Message]:
    """User and assistant in turn, the user first."""
    said = [{"role": "user" if index % 2 == 0 else "assistant", "content": content} for index, content in enumerate(contents)]
    return [{"role": "system", "content": system}, *said] if system else said


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Today's weather", "parameters": {"type": "object"}}}]

CHATS: dict[str, list[Message]] = {
    "one turn": turns("Hello there", "Hi, how can I help?"),
    "two turns": turns("What is 2 + 2?", "4", "And 3 + 3?", "That is 6."),
    "system": turns("Who are you?", "A ship's cook.", system="You are a pirate."),
    "white space around": turns(" Hello ", " Hi there \n", "More\n", "\n\nYes"),
    "other scripts": turns("你好 👋🏽", "Grüße, café — 日本語 🎉", "…", "naïve"),
    "lines and code": turns("Write a loop", "```python\nfor i in range(3):\n    print(i)\n```\n\nDone."),
    "a turn not learned": [{**m, "train": False} if i == 1 else m for i, m in enumerate(turns("a", "wrong", "b", "right"))],
    "the same words": turns("yes", "yes", "yes yes", "yes"),
    "tools": [
        *turns("Weather in Oslo?"),
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": '{"sky": "clear"}'},
        {"role": "assistant", "content": "Clear skies."},
    ],
    "thinking": turns("Is 7 prime?", "<think>\nOnly 1 and 7 divide it.\n</think>\n\nYes.", "And 8?", "<think>\n2 * 4\n</think>\n\nNo."),
}

_TEXT = [
    (HERE / "chats.py").read_text(encoding="utf-8"),
    "Hello there, how can I help? yes yes. The model answers and ends its turn.\n\n" * 5,
]

# Template: the special tokens, BOS, EOS, and how text is cut: as in GPT-2 (bytes), in Llama 3 and Qwen (lines) or SentencePiece (words).
SHAPES: dict[str, tuple[tuple[str, ...], str | None, str, str]] = {
    "turns": (TEMPLATES["turns"].tokens, None, EOS, "bytes"),
    "chatml-ours": (TEMPLATES["chatml"].tokens, None, EOS, "bytes"),
    "chatml": (("<|im_start|>", "<|im_end|>"), None, "<|endoftext|>", "lines"),
    "llama2": ((), "<s>", "</s>", "words"),
    "llama3": (("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|begin_of_text|>", "<|end_of_text|>", "lines"),
    "mistral": (("[INST]", "[/INST]"), "<s>", "</s>", "words"),
    "gemma": (("<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", "words"),
    "qwen": (("<|im_start|>", "<|im_end|>"), None, "<|endoftext|>", "lines"),
    "zephyr": ((), "<s>", "</s>", "words"),
}
PUBLISHED = ("chatml", "llama2", "llama3", "mistral", "gemma", "qwen", "zephyr")


@cache
def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A small tokenizer with the template of that name."""
    special, bos, eos, cutting = SHAPES[name]
    tokens = [token for token in (eos, PAD, bos, *special) if token]
    trained = _trained(cutting, tokens)
    if bos:  # as published: encoding adds BOS by itself, and so does the template
        trained.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, trained.token_to_id(bos))])
    fast = PreTrainedTokenizerFast(tokenizer_object=trained, eos_token=eos, pad_token=PAD, bos_token=bos)
    if name == "qwen":
        fast.add_tokens(
            [AddedToken(token, special=False, normalized=False) for token in ("<think>", "</think>", "<tool_call>", "</tool_call>")]
        )
    fast.chat_template = source(name)
    return fast


def source(name: str) -> str:
    """Text of the template."""
    if name in ("turns", "chatml-ours"):
        return TEMPLATES[name.removesuffix("-ours")].template
    return (HERE / "templates" / f"{name}.jinja").read_text(encoding="utf-8").rstrip("\n")


def _trained(cutting: str, special: list[str]) -> Tokenizer:
    model = Tokenizer(models.BPE(byte_fallback=cutting == "words", unk_token=None))
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256) if cutting == "words")],
        initial_alphabet=[] if cutting == "words" else pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    if cutting == "bytes":
        model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    elif cutting == "lines":
        words = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), behavior="isolated")
        model.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        model.decoder = decoders.ByteLevel()
    else:
        # Line breaks stay apart, as in Llama 2 and Gemma, where they are tokens of their own.
        lines = pre_tokenizers.Split("\n", behavior="isolated")
        model.pre_tokenizer = pre_tokenizers.Sequence([lines, pre_tokenizers.Metaspace(prepend_scheme="first")])
        model.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    model.train_from_iterator(_TEXT, trainer)
    return model
