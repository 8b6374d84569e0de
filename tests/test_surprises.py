"""docs/surprises.md names tests and findings that are there."""

import re

import pytest
from conftest import ROOT

TABLE = (ROOT / "docs" / "surprises.md").read_text().partition("\n## ")[0]
ROWS = [line.split("|")[1:-1] for line in TABLE.splitlines() if line.startswith("|")][2:]
TESTS = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}


def test_the_table_has_its_rows():
    assert len(ROWS) >= 25 and sum("●" in row[0] for row in ROWS) >= 10
    assert all(len(row) == 6 and all(cell.strip() for cell in row[1:]) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1].strip()[:40])
def test_a_row_names_a_file_of_tests_and_a_script_that_exist(row):
    named = re.findall(r"`(test_\w+)`", row[5])
    assert named and set(named) <= TESTS, row[5]
    if re.fullmatch(r" `\w+` ", row[3]):
        assert (ROOT / "findings" / f"{row[3].strip(' `')}.sh").is_file(), row[3]
