"""The list of planted faults still speaks of the code as it is: a fault whose text has gone would be tried no more, and nobody would be told."""

import re
from pathlib import Path

from tests.stages.ppo.faults import FAULTS, ROOT


def test_every_fault_finds_its_place_in_the_sources_once():
    misplaced = {fault.name: count for fault in FAULTS if (count := (ROOT / fault.file).read_text().count(fault.right)) != 1}
    assert not misplaced


def test_every_fault_has_its_row_and_its_tests_are_there():
    table = Path(__file__).with_name("FAULTS.md").read_text()
    rows = re.findall(r"^\| (.+?) \| `(stages/.+?)` \|", table, re.MULTILINE)
    assert sorted(rows) == sorted((fault.name, fault.file) for fault in FAULTS)
    assert f"each of the {len(FAULTS)} faults" in table
    for fault in FAULTS:
        assert all((ROOT / "tests" / test.partition("::")[0]).is_file() for test in fault.tests), fault.name
