"""Models of the Hub, from repositories that mean harm: no file lands outside of its folder, nothing is unpickled, and code runs only if it is trusted.

The Hub is the one on loopback of `tests/hub`, the client is the real one.
"""

import io
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from data.errors import DataError
from pipeline.chat.cast import cast
from pipeline.errors import RecipeError
from pipeline.hub import check_trust, fetch, fetch_all, settle
from pipeline.jobs import make_job
from pipeline.own import run_of
from stages.contract import Hardware, Job
from stages.core.dialogue import Ask, Drawing, Opening
from stages.core.trust import REFUSED, strict, trust, trust_folders
from tests.hub.fixtures import hub
from tests.hub.repository import Blob, Repository
from tests.hub.server import Server
from tests.pipeline.conftest import Workshop
from tests.stages.tiny import CPU, causal_lm, saved, tokenizer_of

__all__ = ["hub"]
RECIPE = """\
name: chain
stages:
  base: {kind: toy-train, model: 'hub:them/model'}
  chat: {kind: toy-train, model: base}
"""
CODE = """\
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path(WITNESS).touch()
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""
PLAIN = {"config.json": b'{"architectures": ["LlamaForCausalLM"]}'}


def publish(hub: Server, files: dict[str, bytes], name: str = "them/model") -> str:
    """A commit with exactly these files, by whatever names; its oid."""
    repository = hub.repositories.setdefault(("model", name), Repository("model", name, private=False))
    oid = repository._add(repository.branches["main"], "a commit", {path: Blob.regular(content) for path, content in files.items()})
    repository.branches["main"] = oid
    return oid


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    """Is there once the code of the model has run."""
    return tmp_path / "witness"


@pytest.fixture
def own_code(tmp_path: Path, witness: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of a model that transformers does not know, with its code."""
    import transformers.dynamic_module_utils

    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    tokenizer = tokenizer_of(["yes", "no"])
    folder = saved(causal_lm(tokenizer), tokenizer, tmp_path / "theirs")
    settings = json.loads((folder / "config.json").read_text()) | {"model_type": "own", "architectures": ["OwnForCausalLM"]}
    settings["auto_map"] = {"AutoConfig": "code_of_own.OwnConfig", "AutoModelForCausalLM": "code_of_own.OwnForCausalLM"}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "code_of_own.py").write_text(CODE.replace("WITNESS", repr(str(witness))))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def jobs(workshop: Workshop) -> Callable[..., list[Job]]:
    """The orders of both stages, for a recipe that trusts these commits."""

    def make(*trusted: str, model: str = "them/model") -> list[Job]:
        workshop.write(RECIPE.replace("them/model", model) + "".join(f"trust_remote_code: [{', '.join(trusted)}]\n" if trusted else ""))
        check_trust(workshop.recipe(), settle(workshop.recipe(), workshop.run))
        plan = workshop.plan()
        return [make_job(plan, step, 1, Hardware(gpus=0)) for step in plan.steps]

    yield make
    trust(Job(stage="none", kind="none", folder=workshop.root, seed=0, config={}))


def loaded(job: Job):  # type: ignore[no-untyped-def]
    from stages.core.models import load_causal_lm

    trust(job)
    return load_causal_lm(job.inputs["model"].path, CPU)


def test_code_of_a_model_is_neither_fetched_nor_run_unless_it_is_trusted(hub: Server, jobs, own_code, witness: Path):
    publish(hub, own_code)
    base, _ = jobs()
    assert not base.inputs["model"].trusted
    assert not list(base.inputs["model"].path.glob("*.py"))
    with pytest.raises(DataError, match=r"runs only where the recipe's `trust_remote_code` names") as told:
        loaded(base)
    assert REFUSED in str(told.value)
    (base.inputs["model"].path / "code_of_own.py").write_bytes(own_code["code_of_own.py"])
    with pytest.raises(DataError, match="trust_remote_code"):
        loaded(base)
    assert not witness.exists()


def test_trusted_code_runs_and_so_does_what_stages_make_of_it(hub: Server, jobs, own_code, witness: Path):
    from stages.core.artifacts import save_artifact
    from stages.core.models import load_tokenizer

    commit = publish(hub, own_code)
    base, chat = jobs(f"them/model@{commit}")
    assert (base.inputs["model"].trusted, chat.inputs["model"].trusted) == (True, True)
    model = loaded(base)
    assert type(model).__name__ == "OwnForCausalLM"
    assert witness.exists()
    save_artifact(model, load_tokenizer(base.inputs["model"].path), base.artifact, kind="causal-lm")
    assert type(loaded(chat)).__name__ == "OwnForCausalLM"
    trust(chat.model_copy(update={"inputs": {}}))
    assert strict(base.artifact)["trust_remote_code"] is False, "another job, which trusts nothing"


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_trusted_settings_that_name_code_of_a_third_place_are_refused(
    hub: Server, jobs, own_code, tmp_path: Path, witness: Path, file: str
):
    """transformers would take that code from whatever state the other repository is in."""
    says = json.loads(own_code[file]) | {"auto_map": {"AutoConfig": "other/code--code_of_own.OwnConfig", "AutoTokenizer": [None, "x--y.Z"]}}
    publish(hub, {"code_of_own.py": own_code["code_of_own.py"]}, "other/code")
    commit = publish(hub, own_code | {file: json.dumps(says).encode()})
    with pytest.raises(RecipeError, match=r"hub:them/model.*: its code is that of another repository, other/code \(auto_map\)"):
        jobs(f"them/model@{commit}")
    (folder := tmp_path / "copied").mkdir()
    (folder / file).write_text(json.dumps(says))
    assert strict(folder)["trust_remote_code"] is False
    trust_folders([folder])
    with pytest.raises(DataError, match="another repository, other/code"):
        strict(folder)
    assert not witness.exists()


def test_trusted_settings_that_name_code_of_their_own_repository_mean_the_code_beside_them(hub: Server, jobs, own_code, witness: Path):
    """As transformers writes them for a model that was loaded from the Hub: `owner/name--module.Class`. The Hub is not asked for another state of it."""
    says = json.loads(own_code["config.json"])
    says["auto_map"] = {name: f"them/model--{what}" for name, what in says["auto_map"].items()}
    commit = publish(hub, own_code | {"config.json": json.dumps(says).encode()})
    publish(hub, own_code | {"code_of_own.py": b"raise SystemExit('a later state')"})
    base, _ = jobs(f"them/model@{commit}", model=f"them/model@{commit}")
    asked = len(hub.requests("GET", "/resolve/"))
    assert type(loaded(base)).__name__ == "OwnForCausalLM"
    assert witness.exists()
    assert len(hub.requests("GET", "/resolve/")) == asked
    untrusted, _ = jobs(model=f"them/model@{commit}")
    with pytest.raises(DataError, match="runs only where the recipe's `trust_remote_code` names"):
        loaded(untrusted)


def test_chat_and_export_run_code_as_the_recipe_says_and_of_a_runs_folder_none(
    hub: Server, jobs, own_code, workshop: Workshop, witness: Path
):
    commit = publish(hub, own_code)
    jobs(f"them/model@{commit}")
    assert workshop.carry_out() == 0
    for name in ("base", "chat"):
        for file, content in own_code.items():
            if not (there := workshop.run.path / name / "artifact" / file).exists():
                there.write_bytes(content)
    by_recipe, by_folder = run_of("chain.yaml", "runs"), run_of("runs/chain", "runs")
    assert cast(by_recipe).model("chat") == "chat"
    assert {folder.parent.name.partition("-")[0] for folder in by_recipe.may_run()} == {"base", "chat"}
    with pytest.raises(RecipeError, match=r"'chat' is code of its own \(auto_map\), which runs only where the recipe's"):
        cast(by_folder).model("chat")
    assert workshop.call("export", "runs/chain", "chat") == workshop.call("serve", "chain.yaml", "chat") == 2
    jobs()  # the same recipe without its trust
    with pytest.raises(RecipeError, match="is code of its own"):
        cast(run_of("chain.yaml", "runs")).model("chat")
    assert not witness.exists(), "none of this loads a model"


def test_the_process_that_holds_models_trusts_what_it_is_told_and_nothing_else(own_code, tmp_path: Path, witness: Path):
    from stages.core.talk import serve

    ask = Ask(model="chat", messages=[{"role": "user", "content": "yes"}], drawing=Drawing(max_new_tokens=2))
    for trusted, event in (((), "wrong"), ((tmp_path / "theirs",), "said")):
        opening = Opening(models={"chat": tmp_path / "theirs"}, hardware=CPU, trusted=trusted)
        serve(io.StringIO(f"{opening.model_dump_json()}\n{ask.model_dump_json()}\n"), out := io.StringIO(), lambda: False, lambda: None)
        assert json.loads(out.getvalue().splitlines()[-1])["event"] == event
        assert witness.exists() == bool(trusted)
    trust_folders(())


def test_trust_is_for_one_commit_and_not_for_what_comes_after_it(hub: Server, jobs, own_code, workshop: Workshop, witness: Path):
    first = publish(hub, own_code)
    second = publish(hub, own_code | {"code_of_own.py": b"raise SystemExit('they changed it')"})
    with pytest.raises(RecipeError, match=f"names commit {first} of them/model, and hub:them/model is {second}"):
        jobs(f"them/model@{first}")
    assert workshop.carry_out() == 2
    assert hub.requests("GET", "/resolve/") == [], "nothing is fetched"
    assert not witness.exists()


@pytest.mark.parametrize(
    ("trusted", "complaint"),
    [
        ("them/other@" + "a" * 40, "no stage takes hub:them/other; did you mean 'them/model'?"),
        ("them/model@main", "trust_remote_code"),
        ("them/model", "trust_remote_code"),
        ("'*@" + "a" * 40 + "'", "trust_remote_code"),
    ],
)
def test_trust_names_a_repository_that_a_stage_takes_and_a_whole_commit(mistakes, trusted: str, complaint: str):
    (found,) = mistakes(RECIPE + f"trust_remote_code: [{trusted}]\n")
    assert complaint in found
    assert found.startswith("recipe.yaml:5")


def test_trust_in_another_commit_than_the_one_that_is_taken_is_a_mistake(mistakes):
    recipe = RECIPE.replace("them/model", "them/model@" + "b" * 40)
    (found,) = mistakes(recipe + f"trust_remote_code: [them/model@{'a' * 40}]\n")
    assert f"a stage takes hub:them/model@{'b' * 40}, another commit" in found
    assert mistakes(recipe + f"trust_remote_code: [them/model@{'b' * 40}]\n") == []


def below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if not path.is_dir()}


NAMES = [
    "../../../../../escaped.json",
    "a/../../../../../../escaped.json",
    "/escaped.json",
    "..",
    "a/../../escaped.json",
    "..\\escaped.json",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_list_cannot_lead_out_of_the_repositorys_folder(hub: Server, workshop: Workshop, tmp_path: Path, name: str):
    """Such a repository is refused when it is first asked for; the client itself would write nothing outside of the repository's cache either."""
    commit, cache = publish(hub, PLAIN | {name: b"{}"}), tmp_path / "cache"
    workshop.write(RECIPE)
    with pytest.raises(
        RecipeError, match=r"stages.base.model: hub:them/model lists a file .* outside of its folder; nothing of it is fetched"
    ):
        settle(workshop.recipe(), workshop.run)
    assert not cache.exists()
    before = below(tmp_path)
    with suppress(RecipeError):
        fetch("hub:them/model", commit)
    written = [path.relative_to(cache) for path in below(tmp_path) - before]
    assert {path.parts[0] for path in written} <= {"models--them--model", ".locks", "CACHEDIR.TAG"}
    assert not Path("/escaped.json").exists()


def test_a_link_in_the_snapshot_that_leads_out_is_refused(hub: Server, tmp_path: Path):
    """A repository's own links come as plain files; this one was put there by somebody else."""
    commit = publish(hub, PLAIN | {"link.json": b"../../../../secret.json"})
    folder = fetch("hub:them/model", commit)
    assert (folder / "link.json").read_text() == "../../../../secret.json"
    (tmp_path / "secret.json").write_text("{}")
    (folder / "more.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(RecipeError, match=r"more.json leads out of the repository's folder .* nothing of it is loaded"):
        fetch("hub:them/model", commit)


def test_an_adapter_of_another_program_is_refused_in_a_sentence(hub: Server):
    commit = publish(hub, {"adapter_config.json": b"{}", "adapter_model.safetensors": b""})
    with pytest.raises(RecipeError, match=r"^hub:them/model: .* holds an adapter without its base; give the merged model$"):
        fetch("hub:them/model", commit)


def test_trusted_code_is_fetched_before_the_first_stage_starts(hub: Server, jobs, own_code, workshop: Workshop):
    commit = publish(hub, own_code)
    workshop.write(RECIPE + f"trust_remote_code: [them/model@{commit}]\n")
    settle(workshop.recipe(), workshop.run)
    fetch_all(workshop.plan())
    assert any(seen.path.endswith("code_of_own.py") for seen in hub.requests("GET", "/resolve/"))


def test_pickles_are_not_even_fetched(hub: Server):
    names = ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.pkl", "weights.ckpt", "model.h5", "run.sh", "code.py", "x.so")
    commit = publish(hub, PLAIN | dict.fromkeys(names, b"cos\nsystem\n"))
    assert sorted(path.name for path in fetch("hub:them/model", commit).iterdir()) == ["config.json"]
    assert [seen.path for seen in hub.requests("GET", "/resolve/") if not seen.path.endswith("config.json")] == []


def test_a_commit_that_is_none_is_refused(hub: Server, workshop: Workshop):
    """It becomes a folder's name."""
    publish(hub, PLAIN)
    workshop.write(RECIPE)
    repository = hub.repositories["model", "them/model"]
    oid = repository.branches["main"]
    repository.commits[oid] = type(repository.commits[oid])("../../../escaped", None, "", repository.commits[oid].files)
    with pytest.raises(RecipeError, match="names no commit of hub:them/model"):
        settle(workshop.recipe(), workshop.run)
