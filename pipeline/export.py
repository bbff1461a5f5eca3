"""The command `pipeline export`: whole models of what stages left, at any time; adapters listed, compared and combined. Torch works in a child."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.arguments import Parser
from pipeline.errors import PipelineError, RecipeError, suggestion

if TYPE_CHECKING:
    from pipeline.store import Run

DONE, WRONG_INPUT = 0, 2
HOME = Path(__file__).resolve().parents[1]
"""Where our packages lie."""
SUMMARY = (
    "Write the whole model of a stage, its adapters merged; or several adapters as one. Without a stage: list what a run holds. "
    "With --compare: set adapters side by side."
)


def main(arguments: list[str]) -> int:
    """Export what stages of a run left."""
    options = _parser().read(arguments)
    from pipeline.own import run_of, tell_others

    run = run_of(options.run, options.runs)
    stages = options.stages
    if not stages:
        tell_others(run)
        return _list(run, as_json=options.json)
    parts = [_part(run, stage) for stage in stages]
    if options.compare:
        return _shown(_child({"parts": parts, "trusted": run.may_run()}), as_json=options.json)
    out = Path(options.out or Path("exports") / "-".join([run.path.resolve().name, *(part["name"] for part in parts)]))
    if out.exists():
        raise RecipeError(f"{out} is there already; nothing was written. Name another folder with --out")
    merge = options.merge or (len(parts) == 1 and not options.adapter)
    given = {"combine": options.combine, "density": options.density, "rank": options.rank, "dtype": options.dtype}
    given |= {"shard_size": options.shard_size}
    task = {
        "parts": parts,
        "out": str(out.resolve()),
        "merge": merge,
        "trusted": run.may_run(),
        **{k: v for k, v in given.items() if v is not None},
    }
    if options.gguf or options.converter:
        _can_write_gguf(parts, options.converter, merge=merge)
    out.parent.mkdir(parents=True, exist_ok=True)
    done = _child(task)
    if options.gguf or options.converter:
        done["sentences"] += _gguf(out.resolve(), out.name, options.converter)
    if options.json:
        print(json.dumps({"out": str(out), **done}, indent=1))
    else:
        print(*done["sentences"], out, sep="\n")
    return DONE


def _parser() -> Parser:
    parser = Parser("export", SUMMARY)
    parser.add_argument("run", metavar="RUN", help="a recipe, for its own results; or a run's folder, for those it holds")
    parser.add_argument(
        "stages", metavar="STAGE[:WEIGHT]", nargs="*", help="stage to export; several adapters become one, with these weights"
    )
    parser.add_argument("--runs", metavar="DIR", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument("--out", metavar="DIR", help="folder to write (default: exports/RUN-STAGE)")
    whole = parser.add_mutually_exclusive_group()
    whole.add_argument("--merge", action="store_true", help="write a whole model (the default for one stage)")
    whole.add_argument("--adapter", action="store_true", help="write an adapter on its base (the default for several)")
    parser.add_argument("--compare", action="store_true", help="write nothing; show the adapters' updates side by side")
    parser.add_argument(
        "--combine", choices=("linear", "ties", "dare-linear", "dare-ties"), help="how several become one (default: linear)"
    )
    parser.add_argument("--density", metavar="D", type=float, help="share of each update that TIES and DARE keep (default: 0.5)")
    parser.add_argument("--rank", metavar="R", type=int, help="rank of what TIES and DARE give (default: the sum of the parts')")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="of the weights written (default: fp32)")
    parser.add_argument("--gguf", action="store_true", help="also write model.gguf and a Modelfile, for llama.cpp and Ollama")
    parser.add_argument("--converter", metavar="FILE", help="llama.cpp's convert_hf_to_gguf.py, for models that are not LLaMA-style")
    parser.add_argument("--shard-size", metavar="SIZE", help="largest weights file, such as 5GB (the default)")
    return parser.json()


def _part(run: "Run", written: str) -> dict[str, Any]:
    """A stage's artifact, and its weight."""
    from pipeline.artifacts import untrusted_code

    name, _, weight = written.partition(":")
    folder = run.current(name)
    if folder is None or folder.manifest() is None:
        done = run.named()
        raise RecipeError(
            run.lacks(name) or f"{run.path}: no stage '{name}' is done (done: {', '.join(done) or 'none'}){suggestion(name, done)}"
        )
    if (complaint := untrusted_code(name, folder.artifact, run.may_run())) is not None:
        raise RecipeError(complaint)
    try:
        return {"name": name, "folder": str(folder.artifact.resolve()), "weight": float(weight) if weight else 1.0}
    except ValueError as error:
        raise RecipeError(f"{written}: found weight '{weight}', wanted a number, as in {name}:0.5") from error


def _list(run: "Run", *, as_json: bool) -> int:
    """What can be exported, without loading any of it."""
    from pipeline.artifacts import inspect
    from pipeline.show import columns
    from stages.adapters.config import settings_of
    from stages.contract import Artifact

    found = []
    for name in run.named():
        folder = run.current(name)
        says = inspect(folder.artifact) if folder and folder.manifest() is not None else None
        if not isinstance(says, Artifact) or says.kind not in ("causal-lm", "reward-model"):
            continue
        held = [settings_of(one) for one in says.adapters.settings] if says.adapters else []
        what = " on ".join([*(one.label for one in reversed(held)), "its base"]) if held else "whole model"
        base = says.adapters.base_digest[:12] if says.adapters else ""
        found.append({"stage": name, "kind": says.kind, "holds": what, "base": base, "trained": says.trainable_parameters or 0})
    if as_json:
        print(json.dumps(found, indent=1))
    elif not found:
        raise RecipeError(f"{run.path}: no model is done that could be exported")
    else:
        rows = [(one["stage"], one["kind"], one["holds"], one["base"], f"{one['trained']:,} parameters trained") for one in found]
        print(columns(tuple(map(str, row)) for row in rows))
    return DONE


def _shown(done: dict[str, Any], *, as_json: bool) -> int:
    from pipeline.show import columns

    rows = [done["columns"], *done["rows"]]
    print(json.dumps(done, indent=1) if as_json else columns(tuple(map(str, row)) for row in rows))
    return DONE


def _child(task: dict[str, Any]) -> dict[str, Any]:
    """What `python -m stages.adapters` says to a task. Raises RecipeError if the task cannot be done."""
    from pydantic import TypeAdapter, ValidationError

    from stages.adapters.tasks import Comparison, Export

    try:
        checked = TypeAdapter(Export | Comparison).validate_python(task)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(f"--{first['loc'][-1]}: found {first['input']}; {first['msg']}") from error
    with tempfile.TemporaryDirectory(prefix="export-") as folder:
        file = Path(folder) / "task.json"
        file.write_text(checked.model_dump_json(), encoding="utf-8")
        return dict(_asked("stages.adapters", str(file)))


def _can_write_gguf(parts: Sequence[dict[str, Any]], converter: str | None, *, merge: bool) -> None:
    """Raises RecipeError with what is missing, before anything is written."""
    from pipeline.artifacts import inspect
    from stages.contract import Artifact

    for part in parts:
        says = inspect(Path(part["folder"]))
        if isinstance(says, Artifact) and says.kind != "causal-lm":
            raise RecipeError(f"'{part['name']}' is a {says.kind}; GGUF is for models that answer")
    if not merge:
        raise RecipeError("--gguf wants a whole model; add --merge")
    if converter and not Path(converter).is_file():
        raise RecipeError(f"--converter: there is no file {converter}; it is convert_hf_to_gguf.py of a checkout of llama.cpp")
    if not converter and find_spec("gguf") is None:
        raise RecipeError("gguf is not installed: pip install 'recipe-pipeline[gguf]'")


def _gguf(folder: Path, name: str, converter: str | None) -> list[str]:
    """GGUF weights beside a whole model that was just written; the sentences that tell of it."""
    more = [str(Path(converter).resolve())] if converter else []
    return [str(sentence) for sentence in _asked("stages.core.gguf_export", str(folder), name, *more)]


def _asked(module: str, *arguments: str) -> Any:
    """What a module in a process of its own prints as JSON. Raises RecipeError if it cannot be done."""
    # Our packages are found by the working directory, so that no file of the user's directory takes their place.
    argv = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(argv, cwd=HOME, capture_output=True, text=True, check=False)
    last = ((done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["it said nothing"])[-1]
    if done.returncode == WRONG_INPUT:
        raise RecipeError(last)
    if done.returncode:
        raise PipelineError(f"the export failed: {last}")
    return json.loads(last)
