"""A tokenizer, a model and jobs small enough that a whole stage takes a second."""

import os

os.environ.setdefault("TQDM_DISABLE", "1")

import json
import random

import pytest

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "while",
    "two",
    "dogs",
    "ran",
    "over",
    "green",
    "hills",
    "and",
    "saw",
    "seven",
    "birds",
    "near",
    "old",
    "water",
]


def stories(count, seed=0):
    """Sentences of four to twenty words; the seed decides all."""
    source = random.Random(seed)
    return [" ".join(source.choices(WORDS, k=source.randint(4, 20))) + "." for _ in range(count)]


@pytest.fixture(scope="session")
def tokenizer():
    from data.templates import TEMPLATES
    from stages.tokenizer.run import trained

    return trained(stories(200), 320, TEMPLATES["turns"])


@pytest.fixture
def llama(tokenizer):
    """Makes models: `llama(layers=1)`; the same weights for the same seed."""
    from stages.core.config import Llama
    from stages.core.models import new_llama

    def make(seed=0, **shape):
        return new_llama(Llama(**{"hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "context": 64, **shape}), tokenizer, seed)

    return make


@pytest.fixture(scope="session")
def base_folder(tokenizer, tmp_path_factory):
    """An untrained base model as an artifact."""
    from stages.core.artifacts import save_artifact
    from stages.core.config import Llama
    from stages.core.models import new_llama

    folder = tmp_path_factory.mktemp("base") / "artifact"
    model = new_llama(Llama(hidden_size=32, layers=2, heads=4, kv_heads=2, context=64), tokenizer, 0)
    save_artifact(model, tokenizer, folder, kind="causal-lm")
    return folder


@pytest.fixture
def make_job(tmp_path):
    """Makes jobs: `make_job("pretrain", config, inputs={field: (kind, folder)}, rows={field: rows})`."""
    from stages.contract import Hardware, Input, Job

    def make(kind, config, *, name="stage", inputs=(), rows=(), seed=1, **more):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        files = {}
        for field, content in dict(rows).items():
            path = tmp_path / f"{name}-{field}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in content))
            files[field] = [path]
        references = {
            field: Input(reference=field, kind=made, path=path, fingerprint="none") for field, (made, path) in dict(inputs).items()
        }
        hardware = Hardware(gpus=0, **more.pop("hardware", {}))
        return Job(
            stage=name, kind=kind, folder=folder, seed=seed, config=config, inputs=references, files=files, hardware=hardware, **more
        )

    return make


@pytest.fixture
def run_stage():
    """Runs a job in this process, settings validated as in a stage process."""
    from stages.registry import config_class, run_function

    def run(job):
        return run_function(job.kind)(job, config_class(job.kind).model_validate(job.config), job.hardware)

    return run
