"""The page on how to develop: no layer of tests is left out. That the places it names are there: `test_references`."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "DEVELOPING.md").read_text()


def test_every_folder_of_tests_is_one_of_the_layers() -> None:
    cells = re.findall(r"^\| (`tests/.*?`) \|", PAGE, re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`tests/(\w+)/`", cell)}
    assert named == {package.parent.name for package in (ROOT / "tests").glob("*/__init__.py")}
