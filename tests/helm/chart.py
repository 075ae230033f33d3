"""The chart as helm renders it, without a cluster."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.kube import binaries

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "vectorizer-operator"
RELEASE = "vectorizer-operator"
NAMESPACE = "vectorizer-system"

Object = dict[str, Any]


class HelmError(Exception):
    """Helm refused; the message is what it said."""


def helm(*arguments: str) -> str:
    """What helm prints. Raises HelmError."""
    done = subprocess.run([binaries.find("helm"), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise HelmError(done.stderr)
    return done.stdout


def rendered(*arguments: str) -> dict[tuple[str, str], Object]:
    """What `helm template` renders, by kind and name."""
    text = helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *arguments)
    objects = [each for each in yaml.safe_load_all(text) if each]
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}


def only(objects: Mapping[tuple[str, str], Object], kind: str) -> Object:
    """The one object of that kind."""
    (found,) = (each for (its_kind, _), each in objects.items() if its_kind == kind)
    return found
