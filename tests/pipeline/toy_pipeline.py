"""`pipeline` with the toy stages, as a process of its own: for tests that kill it."""

import sys
from pathlib import Path

from pipeline.__main__ import main
from tests.pipeline.toy import register

if __name__ == "__main__":
    register()
    sys.exit(main(sys.argv[1:], worker=[str(Path(__file__).with_name("toy_worker.py"))]))
