"""`python -m stages.core.gguf_export FOLDER NAME [CONVERTER]`: GGUF weights and an Ollama Modelfile beside a LLaMA-style model's folder, for llama.cpp.

llama.cpp's own converter knows tokenizers by a fingerprint of each, and so refuses every tokenizer that was trained here. This writes what it would
write, with llama.cpp's `gguf` package: names from its tensor map, query and key rows in ggml's order of rotary pairs, the byte-level
vocabulary with GPT-2's splitting of words. What is written is read back by transformers' own GGUF reader and compared. Other kinds of models are
left to llama.cpp's converter, where the user has it.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig

from data import chat
from data.errors import DataError
from data.shape import rendered
from stages.contract import DONE, FAILED, WRONG_INPUT, StageError
from stages.core.models import load_tokenizer
from stages.core.trust import strict

FILE, MODELFILE = "model.gguf", "Modelfile"
TYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 2e-1}
"""Largest allowed difference of logits after reading back, relative to the largest logit where that is above one."""


def write(folder: Path, name: str, converter: Path | None = None) -> list[str]:
    """Write `model.gguf` and `Modelfile` into a model's folder; gives what was done, a sentence each.

    `converter` is llama.cpp's `convert_hf_to_gguf.py`, and is used instead of what is written here.

    Raises:
        DataError: the model or its tokenizer is of a kind that only llama.cpp's converter may know.
        StageError: what was written reads back as another model.
    """
    tokenizer = load_tokenizer(folder)
    told = converted(folder, converter) if converter else written(folder, name, tokenizer)
    page, note = modelfile(tokenizer)
    (folder / MODELFILE).write_text(page, encoding="utf-8")
    return [told, f"{MODELFILE}: ollama create {name} -f {folder / MODELFILE}", *note]


def converted(folder: Path, converter: Path) -> str:
    """By llama.cpp's own converter. Raises StageError with its last words."""
    argv = [sys.executable, str(converter), str(folder), "--outfile", str(folder / FILE), "--outtype", "auto"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / FILE).is_file():
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise StageError(f"{converter} failed: {last[:300]}")
    return f"{FILE}: written by {converter}"


def written(folder: Path, name: str, tokenizer: Any) -> str:
    """By us, and read back."""
    from transformers import AutoModelForCausalLM

    check(AutoConfig.from_pretrained(folder, **strict(folder)), folder)
    model = AutoModelForCausalLM.from_pretrained(folder, **strict(folder), use_safetensors=True, dtype="auto").eval()
    dtype = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[model.dtype]
    partial = folder / f"{FILE}.partial"
    _write(partial, model, tokenizer, name, dtype)
    partial.replace(folder / FILE)
    difference = read_back(model, folder, dtype)
    return f"{FILE}: {TYPES[dtype]}; read back, its logits differ by {difference:.2g} at most"


def check(config: Any, folder: Path) -> None:
    """Raises DataError unless weights and tokenizer are of the kind that is written here exactly."""
    other = "llama.cpp's own converter may know it: get llama.cpp's convert_hf_to_gguf.py, and name it with --converter"
    if any(name.endswith("ForSequenceClassification") for name in config.architectures or []):
        raise DataError(f"{folder} holds a reward model; GGUF is for models that answer")
    if config.model_type != "llama" or config.rope_parameters.get("rope_type", "default") != "default":
        raise DataError(f"{folder} holds a {config.model_type} model; only plain LLaMA-style models are written as GGUF here; {other}")
    settings = json.loads((folder / "tokenizer.json").read_bytes())
    splitter = settings.get("pre_tokenizer") or {}
    plain = splitter.get("type") == "ByteLevel" and not splitter.get("add_prefix_space") and splitter.get("use_regex", True)
    if settings["model"]["type"] != "BPE" or not plain or settings.get("normalizer"):
        raise DataError(f"the tokenizer of {folder} is no plain byte-level BPE; {other}")


def _write(file: Path, model: Any, tokenizer: Any, name: str, dtype: str) -> None:
    import gguf

    writer = gguf.GGUFWriter(file, "llama")
    _describe(writer, model.config, name, gguf.LlamaFileType[f"{'ALL' if dtype == 'fp32' else 'MOSTLY'}_{TYPES[dtype]}"])
    _vocabulary(writer, tokenizer, model.config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    kind = gguf.GGMLQuantizationType[TYPES[dtype]]
    for place, tensor in _tensors(model):
        target = names.get_name(place, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise DataError(f"no name is known for the weights {place}")
        values = tensor.float().numpy()
        # Norms and biases are small and are kept exactly, as llama.cpp wants them.
        as_kind = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else kind
        writer.add_tensor(target, gguf.quants.quantize(values, as_kind), raw_dtype=as_kind)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()


def _describe(writer: Any, config: Any, name: str, file_type: Any) -> None:
    from gguf import GGML_QUANT_VERSION

    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _vocabulary(writer: Any, tokenizer: Any, size: int) -> None:
    """Every id with its text and kind; rows of the embedding that no token has are told as unused."""
    from gguf import TokenType

    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {entry["id"]: entry["special"] for entry in backend["added_tokens"]}
    by_id = {number: text for text, number in tokenizer.get_vocab().items()}
    kinds = [
        TokenType.UNUSED
        if n not in by_id
        else TokenType.NORMAL
        if n not in added
        else TokenType.CONTROL
        if added[n]
        else TokenType.USER_DEFINED
        for n in range(size)
    ]
    merges = [one if isinstance(one, str) else " ".join(one) for one in backend["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([by_id.get(n, f"[PAD{n}]") for n in range(size)])
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_eot_token_id, max(chat.end_ids(tokenizer) - {tokenizer.eos_token_id}, default=None)),
    ):
        if number is not None:
            add(number)
    writer.add_add_bos_token(False)  # templates write it where it belongs
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Weights by transformers' names; tied ones once, queries and keys in ggml's order."""
    config, tied = model.config, model.config.tie_word_embeddings
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads if ".k_proj." in name else None
        yield name, tensor if heads is None else paired(tensor, heads)


def paired(weight: Tensor, heads: int) -> Tensor:
    """(heads * D, ...) with rows in ggml's order: transformers turns row i with row i + D/2, ggml turns neighbours."""
    size = weight.size(0) // heads // 2
    return weight.reshape(heads, 2, size, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def read_back(model: Any, folder: Path, dtype: str) -> float:
    """Largest difference of logits between the model and its GGUF file as transformers reads it. Raises StageError if it is another model."""
    from transformers import AutoModelForCausalLM

    stranger = AutoModelForCausalLM.from_pretrained(folder, **strict(folder), gguf_file=FILE, dtype=torch.float32).eval()
    count = min(32, model.config.max_position_embeddings)
    ids = torch.from_numpy(np.random.default_rng(0).integers(model.config.vocab_size, size=(2, count)))
    with torch.no_grad():
        ours, theirs = model.float()(input_ids=ids).logits, stranger(input_ids=ids).logits
    difference = float((ours - theirs).abs().max())
    if not difference <= TOLERANCE[dtype] * max(1.0, float(ours.abs().max())):
        raise StageError(f"{folder / FILE} reads back as another model: its logits differ by {difference:.3g}")
    return difference


def modelfile(tokenizer: Any) -> tuple[str, list[str]]:
    """A Modelfile for Ollama, and what it lacks. Its template is found by rendering, and left out where the chat template has no simple form."""
    stops = [tokenizer.convert_ids_to_tokens(number) for number in sorted(chat.end_ids(tokenizer))]
    lines = [f"FROM ./{FILE}", *(f"PARAMETER stop {json.dumps(stop)}" for stop in stops), "PARAMETER temperature 1"]
    template = go_template(tokenizer) if tokenizer.chat_template else None
    if template is None:
        return "\n".join(lines) + "\n", [
            "the Modelfile has no template: this chat template has no simple form; write one before you chat through Ollama"
        ]
    return "\n".join([*lines, f'TEMPLATE """{template}"""']) + "\n", []


def go_template(tokenizer: Any) -> str | None:
    """The chat template in Ollama's language; None where a message's text depends on more than its role, or the language could not hold it."""
    roles = ("system", "user", "assistant")
    try:
        empty, _ = rendered(tokenizer, [{"role": "user", "content": "x"}])
        opening = empty.partition("x")[0]
        pieces = {role: _piece(tokenizer, role, opening) for role in roles}
        prompt = _said(tokenizer, ["user"], prompt=True).removeprefix(_said(tokenizer, ["user"]))
        begin = _common_start(pieces["user"][2], tokenizer)
        turns = {role: (before.removeprefix(begin), after) for role, (before, after, _) in pieces.items()}
        probe = ["system", "user", "assistant", "user", "assistant", "user"]
        assembled = begin + "".join(f"{turns[role][0]}{role}{n}{turns[role][1]}" for n, role in enumerate(probe)) + prompt
        whole = _said(tokenizer, probe, prompt=True)
    except (DataError, ValueError):
        return None
    parts = [begin, prompt, *(text for pair in turns.values() for text in pair)]
    if assembled != whole or any(mark in part for part in parts for mark in ("{{", "}}", '"""')):
        return None
    cases = "".join(
        f'{{{{ {"if" if n == 0 else "else if"} eq .Role "{role}" }}}}{turns[role][0]}{{{{ .Content }}}}{turns[role][1]}'
        for n, role in enumerate(roles)
    )
    return f"{begin}{{{{ range .Messages }}}}{cases}{{{{ end }}}}{{{{ end }}}}{prompt}"


def _said(tokenizer: Any, roles: list[str], *, prompt: bool = False) -> str:
    return rendered(tokenizer, [{"role": role, "content": f"{role}{n}"} for n, role in enumerate(roles)], prompt=prompt)[0]


def _piece(tokenizer: Any, role: str, opening: str) -> tuple[str, str, str]:
    """What stands before and after the words of a role's second message, and the text of the first alone."""
    first = ["system"] if role == "system" else ["user", "assistant", "user", "assistant"][: 3 if role == "user" else 4]
    text = _said(tokenizer, first)
    word = f"{role}{len(first) - 1}"
    before, found, after = text.rpartition(word)
    if not found:
        raise ValueError(role)
    if role == "system":
        return before, after, text
    earlier = _said(tokenizer, first[:-1])
    if not before.startswith(earlier):
        raise ValueError(role)
    return before.removeprefix(earlier), after, _said(tokenizer, ["user"])


def _common_start(first: str, tokenizer: Any) -> str:
    """What a conversation begins with whatever its first message is, such as a BOS token."""
    later = _said(tokenizer, ["user", "assistant", "user"])
    turn = later.removeprefix(_said(tokenizer, ["user", "assistant"])).partition("user2")[0]
    before = first.partition("user0")[0]
    if not before.endswith(turn):
        raise ValueError("the first turn differs from later ones")
    return before.removesuffix(turn)


def main(arguments: list[str]) -> int:
    if len(arguments) not in (2, 3):
        print("usage: python -m stages.core.gguf_export FOLDER NAME [CONVERTER]", file=sys.stderr)
        return WRONG_INPUT
    try:
        print(json.dumps(write(Path(arguments[0]), arguments[1], *map(Path, arguments[2:]))))
    except (DataError, StageError) as error:
        print(error, file=sys.stderr)
        return WRONG_INPUT if isinstance(error, DataError) else FAILED
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
