"""What the documents refer to is there: other pages, their sections, files of the repository, metrics."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FILE = re.compile(r"`((?:engine|operator|tests|tools|docs|examples|helm|benchmarks|crds)/[\w./-]*)`")
_METRIC = re.compile(r"\bvectorizer_[a-z_]+\b")


def anchors(page: Path) -> Iterator[str]:
    """The names that GitHub and GitLab give to the headings."""
    for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_of_a_page_are_there(page: Path) -> None:
    text = page.read_text()
    for link in _LINK.findall(text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"
    for file in _FILE.findall(text):
        assert (ROOT / file).exists(), f"{page.name} names {file}"


def test_every_metric_that_a_page_names_is_exported() -> None:
    sources = [file.read_text() for part in ("engine", "operator") for file in (ROOT / part).rglob("*.py")]
    known = {name for source in sources for name in _METRIC.findall(source)}
    for file in (ROOT / "operator/vectorizer_operator/controller").glob("*.py"):  # it puts the prefix there
        known |= {f"vectorizer_operator_{name}" for name in re.findall(r"[a-z][a-z_]*", file.read_text())}
    packages = {"vectorizer_engine", "vectorizer_operator"}
    for page in PAGES:
        for name in set(_METRIC.findall(page.read_text())) - packages:
            plain = re.sub(r"_(total|count|bucket|sum)$", "", name)
            assert {name, plain, name.removesuffix("_")} & known, f"{page.name} names {name}"
