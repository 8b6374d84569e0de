"""docs/surprises.md names tests and findings that are there."""

import re

import pytest
from conftest import ROOT

ROWS = [line.split("|")[1:-1] for line in (ROOT / "docs" / "surprises.md").read_text().splitlines() if "`test_" in line]


def test_the_table_has_its_rows():
    assert len(ROWS) >= 25 and sum("●" in row[0] for row in ROWS) >= 10
    assert all(len(row) == 6 and all(cell.strip() for cell in row[1:]) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1].strip()[:40])
def test_a_row_names_a_file_of_tests_and_a_script_that_exist(row):
    for name in re.findall(r"`(test_\w+)`", row[5]):
        assert (ROOT / "tests" / f"{name}.py").is_file(), name
    if re.fullmatch(r" `\w+` ", row[3]):
        assert (ROOT / "findings" / f"{row[3].strip(' `')}.sh").is_file(), row[3]
