"""`python -m stages.adapters task.json`: an export or a comparison, in a process of its own. Exit codes as in `stages.contract`."""

import os
import sys
from pathlib import Path

from pydantic import TypeAdapter

from data.errors import DataError
from stages.adapters.tasks import Comparison, Export
from stages.contract import DONE, FAILED, WRONG_INPUT, StageError


def main(arguments: list[str]) -> int:
    task: Export | Comparison = TypeAdapter(Export | Comparison).validate_json(Path(arguments[0]).read_bytes())
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1")
    from stages.adapters.exporting import compare, export
    from stages.core.trust import trust_folders

    trust_folders(task.trusted)
    try:
        done = export(task) if isinstance(task, Export) else compare(task)
    except (DataError, StageError) as error:
        print(error, file=sys.stderr)
        return WRONG_INPUT if isinstance(error, DataError) else FAILED
    print(done.model_dump_json())
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
