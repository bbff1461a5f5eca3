"""The stage process of the toy stages: `python toy_worker.py job.json`, as `python -m stages job.json` for the real ones."""

import sys

from stages.__main__ import main
from tests.pipeline.toy import register

if __name__ == "__main__":
    register()
    sys.exit(main(sys.argv[1:]))
