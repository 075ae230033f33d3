"""The picture of the layers is what import-linter checks."""

import itertools
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
(DIAGRAM,) = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
_NAMES: dict[str, str] = dict(re.findall(r"(\w+)\[(\w+)\]", DIAGRAM))
"""What a reader sees, by node: two packages have a `cli`."""

Edges = set[tuple[str, str]]


def edges(text: str) -> Edges:
    """The arrows in *text*; `a & b --> c` are two."""
    found: Edges = set()
    for arrow in re.findall(r"^\s*(.+?) --> (.+)$", text, re.MULTILINE):
        left, right = (
            [_NAMES.get(node, node) for node in re.findall(r"(\w+)(?:\[\w+\])?", side)] for side in arrow
        )
        found |= set(itertools.product(left, right))
    return found


def layers(package: str) -> list[list[str]]:
    (contract,) = (each for each in CONTRACTS if each.get("containers") == [package])
    return [[name.strip() for name in layer.split(":")] for layer in contract["layers"]]


@pytest.mark.parametrize("package", ["vectorizer_operator", "vectorizer_engine"])
def test_the_picture_has_the_layers_of_the_contract(package: str) -> None:
    (inside,) = re.findall(rf"subgraph {package}\n(.*?)\n  end", DIAGRAM, re.DOTALL)
    expected: Edges = set()
    for upper, lower in itertools.pairwise(layers(package)):
        expected |= set(itertools.product(upper, lower))
    assert edges(inside) == expected


def test_the_picture_crosses_to_the_engine_where_no_contract_forbids_it() -> None:
    outside = re.sub(r"subgraph.*?\n  end", "", DIAGRAM, flags=re.DOTALL)
    crossing = edges(outside)
    assert crossing == {("api", "config"), ("api", "cluster")}
    (forbidden,) = (each for each in CONTRACTS if each.get("source_modules") == ["vectorizer_operator"])
    closed = {name.removeprefix("vectorizer_engine.") for name in forbidden["forbidden_modules"]}
    everything = set(itertools.chain(*layers("vectorizer_engine")))
    assert everything - closed == {target for _, target in crossing}


@pytest.mark.parametrize("package", ["vectorizer_operator", "vectorizer_engine"])
def test_every_package_is_described(package: str) -> None:
    described = {
        name
        for cell in re.findall(r"^\| (`.*?`) \|", PAGE, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", cell)
    }
    assert set(itertools.chain(*layers(package))) <= described
