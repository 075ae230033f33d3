"""Those who judge a VectorizerCluster for GitOps tools: the kstatus library, and our Lua script as Argo CD runs it."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lupa
import yaml

from tests.kube import binaries

ROOT = Path(__file__).parents[2]
GITOPS = ROOT / "examples" / "gitops"
_HEALTH = "resource.customizations.health.vectorizer.io_VectorizerCluster"


def kstatus(objects: Sequence[Mapping[str, Any]]) -> list[str]:
    """Current, InProgress, Failed or Terminating for each object."""
    lines = "".join(f"{json.dumps(each)}\n" for each in objects)
    program = binaries.find("kstatus")
    done = subprocess.run([program], input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line)["status"] for line in done.stdout.splitlines()]


class ArgoCD:
    """Runs the health script of `examples/gitops` as Argo CD does: `obj` is global, the chunk's result the answer."""

    def __init__(self) -> None:
        config_map = yaml.safe_load((GITOPS / "argo-cd" / "argocd-cm.yaml").read_text())
        # Argo CD opens few of Lua's libraries: what the script needs of others would fail there.
        self._lua = lupa.LuaRuntime(register_eval=False, register_builtins=False)
        self._lua.execute("os, io, package, require, debug = nil, nil, nil, nil, nil")
        script = config_map["data"][_HEALTH]
        self._check = self._lua.execute(f"return function(obj)\n{script}\nend")

    def __call__(self, cluster: Mapping[str, Any]) -> tuple[str, str]:
        """The health status, and its message."""
        answer = self._check(self._lua.table_from(cluster, recursive=True))
        return answer["status"], answer["message"]
