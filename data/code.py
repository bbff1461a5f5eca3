"""Functions in a file of the user's, `file.py:name`: a format of their own."""

import importlib.util
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from data.errors import DataError

CODE = re.compile(r"([^:\n]+\.py):([A-Za-z_]\w*)\Z")


@cache
def load_function(file: str, name: str) -> Callable[[Any], Any]:
    """The function of that name in a Python file. Raises DataError if there is none, or if the file cannot be run."""
    path = Path(file)
    if not path.is_file():
        raise DataError(f"'{file}:{name}': there is no file {path.absolute()}")
    spec = importlib.util.spec_from_file_location(f"format_{path.stem}", path)
    assert spec is not None  # noqa: S101 - the name ends with .py
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's file may raise anything
        raise DataError(f"'{file}:{name}': the file cannot be run: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise DataError(f"'{file}:{name}': the file has no function '{name}'")
    return function  # type: ignore[no-any-return]
