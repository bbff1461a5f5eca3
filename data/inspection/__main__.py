"""`python -m data.inspection task.json` prints a report as JSON. Exit codes: 0 done; 2 the data cannot be read (one sentence on stderr)."""

import sys
from pathlib import Path

from data.errors import DataError

WRONG_INPUT = 2


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m data.inspection task.json", file=sys.stderr)
        return WRONG_INPUT
    from data.inspection.looking import inspect
    from data.inspection.report import Task

    try:
        report = inspect(Task.model_validate_json(Path(arguments[0]).read_bytes()))
    except (DataError, OSError, ValueError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return WRONG_INPUT
    print(report.model_dump_json())
    return 0


if __name__ == "__main__":
    # Tokenizers need no torch, and transformers would import it for nothing: 4 seconds of CPU against 1.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    sys.exit(main(sys.argv[1:]))
