"""Nothing leaves the machine that is not on the list, not what the manifest says, or secret."""

import json
import os
import pickle
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.secrets import BLOT, findings
from pipeline.publish import Publication, PublishError, redact, secret_values
from pipeline.store import Run
from tests.pipeline.publish.runs import TOKENIZER, add_stage, model_files, publish, safetensors

CANARY = "hf_" + "canaryCanaryCanary" * 2


def dry(run: Path, stage: str = "chat", **how: object) -> Publication:
    return publish(run, [stage], dry_run=True, **how)[0]  # type: ignore[arg-type]


def with_files(run: Path, files: dict[str, str | bytes], **how: object) -> None:
    add_stage(run, "chat", "sft", {**model_files("chat"), **files}, inputs={"model": "base"}, config={"epochs": 9}, **how)  # type: ignore[arg-type]


def artifact(run: Path) -> Path:
    return (run / "chat" / "artifact").resolve()


def test_only_listed_files_are_published(run: Path) -> None:
    poison = pickle.dumps({"token": CANARY})
    others = {
        "optimizer.pt": poison,
        "training_args.bin": poison,
        "pytorch_model.bin": poison,
        "run.py": "x",
        "notes.md": "x",
        "rng_state.pth": poison,
    }
    with_files(run, {**others, "additional_chat_templates/tools.jinja": "x"})
    one = dry(run)
    assert set(one.left_out) == set(others)
    assert "additional_chat_templates/tools.jinja" in one.files
    assert not set(one.files) & set(others)


def test_a_link_is_never_followed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    for name in ("config.json", "chat_template.jinja"):
        with_files(run, {})
        (artifact(run) / name).unlink()
        (artifact(run) / name).symlink_to(tmp_path / "secret")
        with pytest.raises(PublishError, match="is a link"):
            dry(run)
        Run(run).set_aside(Run(run).current("chat"))  # type: ignore[arg-type]


def test_a_linked_artifact_folder_is_not_followed(run: Path, tmp_path: Path) -> None:
    moved = artifact(run).rename(tmp_path / "elsewhere")
    (Run(run).current("chat").path / "artifact").symlink_to(moved)  # type: ignore[union-attr]
    with pytest.raises(PublishError, match="is a link"):
        dry(run)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_changed_since_it_was_sealed_is_refused(run: Path, name: str) -> None:
    content = (artifact(run) / name).read_bytes()
    (artifact(run) / name).write_bytes(content[:-2] + b"!" + content[-1:])
    with pytest.raises(PublishError, match="not what its manifest says"):
        dry(run)
    (artifact(run) / name).unlink()
    with pytest.raises(PublishError, match="is missing"):
        dry(run)


def test_weights_must_be_safetensors(run: Path) -> None:
    files = {name: content for name, content in model_files("chat").items() if name != "model.safetensors"}
    add_stage(run, "chat", "sft", {**files, "pytorch_model.bin": b"x"}, config={"epochs": 8})
    with pytest.raises(PublishError, match="no safetensors weights"):
        dry(run)


@pytest.mark.parametrize("content", [b"", b"pickle", b"\xff" * 64, safetensors(b"x" * 100)[:-1], (2).to_bytes(8, "little") + b"[]"])
def test_weights_must_be_whole(run: Path, content: bytes) -> None:
    with_files(run, {"model.safetensors": content})
    with pytest.raises(PublishError, match=r"no safetensors file|cut short"):
        dry(run)


def test_every_shard_of_an_index_must_be_there(run: Path) -> None:
    with_files(run, {"model.safetensors.index.json": json.dumps({"weight_map": {"a": "model-00002-of-00002.safetensors"}})})
    with pytest.raises(PublishError, match="the index names model-00002"):
        dry(run)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_custom_code_is_refused(run: Path, name: str) -> None:
    with_files(run, {name: '{"auto_map": {"AutoModel": "evil.Model"}}'})
    with pytest.raises(PublishError, match="custom code"):
        dry(run)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_configuration_is_refused(run: Path, content: str) -> None:
    with_files(run, {"config.json": content})
    with pytest.raises(PublishError, match=r"no JSON|cannot be read"):
        dry(run)


def test_paths_of_this_machine_leave_the_configuration(run: Path) -> None:
    with_files(run, {"config.json": '{"_name_or_path": "/home/somebody/model", "model_type": "llama"}'})
    one = dry(run)
    assert one.files["config.json"] == len('{\n  "model_type": "llama"\n}\n')


def test_an_adapter_names_the_published_base_and_never_a_folder(run: Path) -> None:
    base = str((run / "base" / "artifact").resolve())
    files: dict[str, str | bytes] = {
        **TOKENIZER,
        "adapter_config.json": json.dumps({"base_model_name_or_path": base}),
        "adapter_model.safetensors": safetensors(b"x"),
    }
    add_stage(run, "light", "sft", {**files, "config.json": "{}"}, inputs={"model": "base"})
    with pytest.raises(PublishError, match="publish the stage that made it first"):
        dry(run, "light")
    _, one = publish(run, ["light", "base"], owner="me", dry_run=True)
    assert "AutoPeftModelForCausalLM" in one.card
    assert one.files["adapter_config.json"] == len(json.dumps({"base_model_name_or_path": "me/demo-base"}, indent=2)) + 1


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja", "config.json"])
def test_a_token_in_any_text_stops_everything(run: Path, name: str) -> None:
    with_files(run, {name: json.dumps({"api": CANARY})})
    with pytest.raises(PublishError, match=f"{name}: line 1 looks like a Hugging Face token") as refused:
        dry(run)
    assert CANARY not in str(refused.value)


def test_a_token_in_the_header_of_weights_stops_everything(run: Path) -> None:
    with_files(run, {"model.safetensors": safetensors(b"x" * 10, author=CANARY)})
    with pytest.raises(PublishError, match="looks like a Hugging Face token"):
        dry(run)


@pytest.mark.parametrize("where", ["recipe", "settings", "notes"])
def test_a_token_that_would_stand_in_the_card_stops_everything(run: Path, where: str) -> None:
    if where == "recipe":
        (run / "recipe.yaml").write_text(f"name: demo\n# {CANARY}\n")
    else:
        with_files(run, {}, **({"result": {"notes": [f"key {CANARY}"]}} if where == "notes" else {}))
        job = artifact(run).parent / "job.json"
        if where == "settings":
            job.write_text(job.read_text().replace('"epochs": 9', f'"epochs": "{CANARY}"'))
    with pytest.raises(PublishError, match=r"README\.md"):
        dry(run)


def test_secrets_of_the_environment_are_found_whatever_they_look_like(run: Path) -> None:
    secrets = secret_values(
        {"MY_API_KEY": "correct-horse-battery", "PATH": "/bin:/usr/bin", "SHORT_TOKEN": "abc", "KEYBOARD": "us-international"}
    )
    assert secrets == ("correct-horse-battery",)
    with_files(run, {"chat_template.jinja": "say correct-horse-battery"})
    with pytest.raises(PublishError, match="secret of this machine's environment"):
        dry(run, secrets=secrets)


SECRETS = [
    CANARY,
    "ghp_" + "a1B2" * 9,
    "github_pat_" + "a1B2" * 10,
    "sk-ant-" + "a1B2" * 8,
    "AKIA" + "A1B2" * 4,
    "AIza" + "a1B2c" * 7,
    "xoxb-" + "1234-" * 5,
    "-----BEGIN RSA PRIVATE KEY-----",
    "postgres://me:pass-word@db.example",
]


@settings(deadline=None)
@given(st.sampled_from(SECRETS), st.text(string.ascii_letters + " \n.,{}\"'", max_size=40), st.text(" \n,\"'", min_size=1, max_size=5))
def test_a_secret_is_found_and_blotted_out_wherever_it_stands(secret: str, before: str, gap: str) -> None:
    text = f"{before}{gap}{secret}{gap}{before}"
    assert findings(text)
    assert secret.strip() not in redact(text)
    assert BLOT in redact(text)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "text", ["hf_hub", "sk-learn", "the key is under the mat", "https://example.com:8080/a@b", "learning_rate: 1e-3", "AKIA", "ghp_"]
)
def test_ordinary_words_are_no_secrets(text: str) -> None:
    assert findings(text) == []
    assert redact(text) == text


def test_known_secrets_are_blotted_out_longest_first() -> None:
    known = secret_values({"A_TOKEN": "longsecret", "B_TOKEN": "longsecret-and-more"})
    assert redact("x longsecret-and-more y longsecret", known) == f"x {BLOT} y {BLOT}"


def test_weights_are_not_copied_where_the_disk_can_link(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linked: list[str] = []
    link = os.link

    def note(source: Path, target: Path, **how: object) -> None:
        linked.append(Path(source).name)
        link(source, target, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", note)
    dry(run)
    assert linked == ["model.safetensors"]

    def refuse(*_: object, **__: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    assert "model.safetensors" in dry(run).files
