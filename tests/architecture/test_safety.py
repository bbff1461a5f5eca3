"""Nothing unsafe is loaded, nothing secret is kept, everything installed is pinned: read from the sources, so it works without a network."""

import ast
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from data.secrets import findings
from tests.architecture.imports import ROOT

PICKLES = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
OURS = ("pipeline", "stages", "data", "benchmarks")
PLANTED = {
    "tests/pipeline/publish/test_what_is_sent.py": "plants a pickle that must never be sent",
    "tests/pipeline/publish/test_strangers.py": "runs the code of a model card, as its reader does",
    "tests/pipeline/chat/test_serve.py": "gives a shell the line that users are told to paste",
}
"""Tests that need what they guard against."""
TRUST = "stages/core/trust.py"
"""The one file that may say yes to code of a model: for what a recipe names, by commit."""
ADVISORIES = {
    # first safe version, and the advisory: what this project would be hurt by, from the public lists as of late 2025
    "torch": ("2.6.0", "CVE-2025-32434: torch.load ran code even with weights_only"),
    "transformers": ("4.53.0", "CVE-2025-6921 and others: regular expressions that never end"),
    "deepspeed": ("0.15.1", "CVE-2024-43497: code from a crafted file"),
    "jinja2": ("3.1.6", "CVE-2025-27516: out of the sandbox"),
    "pyyaml": ("5.4", "CVE-2020-14343: code from YAML"),
    "h11": ("0.16.0", "CVE-2025-43859: request smuggling"),
    "setuptools": ("78.1.1", "CVE-2025-47273: path traversal"),
    "filelock": ("3.20.1", "CVE-2025-68146: a link swapped in"),
    "pyarrow": ("14.0.1", "CVE-2023-47248: code from a file"),
    "idna": ("3.7", "CVE-2024-3651: time without end"),
    "tqdm": ("4.66.3", "CVE-2024-34062: code from an argument"),
    "virtualenv": ("20.26.6", "CVE-2024-53899: code from a path"),
    "pygments": ("2.15.0", "CVE-2022-40896: regular expressions that never end"),
    "numpy": ("1.22.0", "CVE-2021-41496: buffer overflow"),
}


def tracked() -> list[Path]:
    """Files of the repository."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def sources(*folders: str) -> list[Path]:
    return [file for file in tracked() if file.suffix == ".py" and file.relative_to(ROOT).parts[0] in folders]


def unsafe(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every call or import that runs what a file says, or code that a file names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from ((node.lineno, f"import {name}") for name in names if name.partition(".")[0] in PICKLES)
        if isinstance(node, ast.Call):
            yield from ((node.lineno, fault) for fault in call_faults(node))
        # `{"trust_remote_code": True}` and the like
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "trust_remote_code" and not is_false(value):
                    yield node.lineno, "trust_remote_code"


def call_faults(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    given = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    if name == "torch.load" and not is_true(given.get("weights_only")):
        yield "torch.load without weights_only=True"
    if name in ("yaml.unsafe_load", "yaml.full_load") or (name == "yaml.load" and not safe_loader(node)):
        yield f"{name} without a safe loader"
    if name in ("YAML", "ruamel.yaml.YAML") and any(
        isinstance(value, ast.Constant) and value.value == "unsafe" for value in given.values()
    ):
        yield "an unsafe YAML loader"
    if name in ("np.load", "numpy.load") and "allow_pickle" in given and not is_false(given["allow_pickle"]):
        yield "np.load with allow_pickle"
    if name in ("eval", "exec", "os.system", "os.popen") or ("shell" in given and not is_false(given["shell"])):
        yield f"{name} runs a text"
    if "trust_remote_code" in given and not is_false(given["trust_remote_code"]):
        yield "trust_remote_code"
    if name.endswith("extractall") and "filter" not in given:
        yield "an archive that may write anywhere"


def is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def is_false(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


def safe_loader(node: ast.Call) -> bool:
    """ruamel's `YAML().load` is safe by default and takes no loader; `yaml` is then a variable of the file's own."""
    return not node.keywords and len(node.args) == 1


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from cloudpickle import load",
        "torch.load('x')",
        "torch.load('x', weights_only=False)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "np.load('x', allow_pickle=True)",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "options = {'trust_remote_code': True}",
        "subprocess.run('ls', shell=True)",
        "eval('1')",
        "archive.extractall('x')",
    ],
)
def test_the_scan_sees_what_is_planted(line: str):
    assert list(unsafe(ast.parse(line)))


@pytest.mark.parametrize("line", ["torch.load('x', weights_only=True)", "f(trust_remote_code=False)", "yaml.load(text)", "np.load('x')"])
def test_the_scan_lets_safe_ways_pass(line: str):
    assert list(unsafe(ast.parse(line))) == []


def test_nothing_is_loaded_that_could_run_code():
    files = [file for file in sources(*OURS) if str(file.relative_to(ROOT)) != TRUST]
    found = [f"{file.relative_to(ROOT)}:{line}: {what}" for file in files for line, what in unsafe(ast.parse(file.read_text()))]
    assert found == []
    assert [what for _, what in unsafe(ast.parse((ROOT / TRUST).read_text()))] == ["trust_remote_code"]


def test_tests_load_safely_too_but_where_they_plant_what_they_guard_against():
    files = [file for file in sources("tests") if str(file.relative_to(ROOT)) not in PLANTED]
    found = [f"{file.relative_to(ROOT)}:{line}: {what}" for file in files for line, what in unsafe(ast.parse(file.read_text()))]
    assert found == []


def test_models_are_loaded_without_remote_code_and_from_safetensors():
    from stages.core.trust import strict

    assert strict(ROOT) == {"local_files_only": True, "trust_remote_code": False}, (
        "unless a job says otherwise: tests/pipeline/test_trust.py"
    )
    loose = []
    for file in sources("pipeline", "stages", "data"):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func).startswith("Auto")
                and ast.unparse(node.func).endswith(".from_pretrained")
            ):
                text = ast.unparse(node)
                if "**strict(" not in text and "trust_remote_code=False" not in text:
                    loose.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert loose == []


def test_no_file_of_the_repository_holds_a_secret():
    """The tests of secrets plant some, all of them made up."""
    found = []
    for file in tracked():
        if file.relative_to(ROOT).parts[0] == "tests":
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{file.relative_to(ROOT)}: {finding}" for finding in findings(text)]
    assert found == []


def test_no_file_of_the_repository_is_a_pickle_or_a_key():
    wrong = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".pem", ".key", ".env", ".p12")
    assert [str(file.relative_to(ROOT)) for file in tracked() if file.suffix in wrong or file.name in (".env", ".netrc", "id_rsa")] == []


# The lock --------------------------------------------------------------------------------------------------------------------------------


def lock() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return {normal(pin.name): pin for pin in pins}


def normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def test_every_line_of_the_lock_is_one_exact_version_from_the_index():
    for pin in lock().values():
        assert [spec.operator for spec in pin.specifier] == ["=="], pin
        assert pin.url is None, pin
        assert "*" not in str(pin.specifier), pin


def test_the_lock_holds_all_that_the_project_asks_for_in_the_ranges_that_it_states():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [Requirement(text) for text in [*project["dependencies"], *extras["dev"], *extras["deepspeed"]]]
    asked += [Requirement(text) for own in asked if own.name == project["name"] for extra in own.extras for text in extras[extra]]
    pins = lock()
    for wanted in [each for each in asked if each.name != project["name"]]:
        pin = pins[normal(wanted.name)]
        assert wanted.specifier.contains(version_of(pin)), f"{pin} is not within {wanted}"


@pytest.mark.parametrize("name", sorted(ADVISORIES))
def test_no_version_of_the_lock_is_known_to_be_hurtful(name: str):
    """A list of our own, for machines without a network; `make audit` asks the public one."""
    safe, why = ADVISORIES[name]
    if name in lock():
        assert version_of(lock()[name]) >= Version(safe), why


def version_of(pin: Requirement) -> Version:
    return Version(next(iter(pin.specifier)).version)
