"""`vectorizerctl validate`, as its users run it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from vectorizer_operator.cli import ctl_main

GOOD = """\
apiVersion: vectorizer.io/v1
kind: VectorizerCluster
metadata:
  name: good
spec:
  cluster: {maxCacheMemory: 256Mi}
"""
BAD = """\
apiVersion: vectorizer.io/v1
kind: VectorizerCluster
metadata:
  name: bad
  namespace: search
spec:
  storage:
    type: memory
    sise: 2Gi
  cluster:
    maxCacheMemory: 2Gi
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: web}
"""


def validate(*arguments: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(ctl_main, ["validate", *arguments], input=stdin)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str | bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return name

    return write


def test_a_good_file_is_valid(write: Any) -> None:
    result = validate(write("a.yaml", GOOD))
    assert (result.exit_code, result.output) == (0, "a.yaml:1: good: valid\n")


def test_everything_wrong_is_said_at_once_with_file_and_line(write: Any) -> None:
    result = validate(write("a.yaml", BAD))
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        'a.yaml:8: bad: CLUSTER_001: spec.storage.type is "memory", but a cluster keeps its vectors in memory-mapped '
        "files: set spec.storage.type to mmap",
        "a.yaml:9: bad: spec.storage.sise: unknown field; did you mean size?",
        'a.yaml:11: bad: CLUSTER_003: spec.cluster.maxCacheMemory is "2Gi", but all caches of a cluster share one '
        "limit above 0 and up to 1 GiB: set spec.cluster.maxCacheMemory to a size above 0 and up to 1Gi "
        "(1073741824 bytes)",
    ]
    assert result.stderr == "1 of 1 clusters: not valid\n"


def test_several_documents_and_other_kinds_in_a_file(write: Any) -> None:
    result = validate(write("a.yaml", f"---\n{GOOD}---\n---\n{SERVICE}---\n{BAD}"))
    assert result.exit_code == 1
    assert "a.yaml:2: good: valid" in result.stdout
    assert "a.yaml:10: Service web: skipped, no VectorizerCluster" in result.stdout
    assert "a.yaml:21: bad: CLUSTER_001" in result.stdout


def test_a_list_is_its_items(write: Any) -> None:
    items = [yaml.safe_load(GOOD), yaml.safe_load(BAD)]
    document = {"apiVersion": "v1", "kind": "List", "items": items}
    result = validate(write("a.json", json.dumps(document, indent=1)))
    assert result.exit_code == 1
    assert ": good: valid" in result.stdout
    assert ": bad: CLUSTER_003" in result.stdout


def test_a_folder_is_its_yaml_and_json_files(write: Any) -> None:
    write("d/b.yml", GOOD)
    write("d/a.json", json.dumps(yaml.safe_load(GOOD)))
    write("d/notes.txt", "nothing")
    result = validate("d")
    assert result.exit_code == 0
    assert result.output.splitlines() == ["d/a.json:1: good: valid", "d/b.yml:1: good: valid"]


def test_a_folder_without_such_files_is_unreadable_input(write: Any) -> None:
    write("d/notes.txt", "nothing")
    result = validate("d")
    assert (result.exit_code, result.stderr) == (2, "d: holds no file that ends in .yaml, .yml, .json\n")


def test_standard_input_is_a_dash() -> None:
    assert validate("-", stdin=GOOD).output == "<stdin>:1: good: valid\n"
    assert validate("-f", "-", stdin=BAD).exit_code == 1


def test_malformed_yaml_is_told_with_line_and_column_and_the_rest_is_checked(write: Any) -> None:
    result = validate(write("a.yaml", f"{BAD}---\na: [1\nb: 2\n"), write("b.yaml", GOOD))
    assert result.exit_code == 2
    assert "a.yaml:14:2: not YAML: expected ',' or ']', but got ':'" in result.stderr
    assert "bad: CLUSTER_001" in result.stdout
    assert "b.yaml:1: good: valid" in result.stdout


@pytest.mark.parametrize("text", ["", "---\n", "# nothing\n"])
def test_an_empty_file_is_named(write: Any, text: str) -> None:
    result = validate(write("a.yaml", text))
    assert (result.exit_code, result.stderr) == (2, "a.yaml: is empty: it holds no object\n")


def test_what_is_no_text_is_told_with_its_line(write: Any) -> None:
    result = validate(write("a.yaml", b"# one\n\n# caf\xe9\n"), write("b.yaml", "# größe\n\n\x00\n"))
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "a.yaml:3: not text: invalid continuation byte",
        "b.yaml:3: not text: special characters are not allowed",
    ]


@pytest.mark.parametrize(
    ("text", "found"), [("- 1\n- 2\n", "a list"), ("x\n", "a text"), ("1\n", "a number")]
)
def test_a_document_that_is_no_object_is_named(write: Any, text: str, found: str) -> None:
    result = validate(write("a.yaml", text))
    assert (result.exit_code, result.stderr) == (2, f"a.yaml:1:1: expected an object, found {found}\n")


ALIASES = "".join(f"    a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}, z: *a{n - 1}}}\n" for n in range(1, 30))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{a: " * 5000, "a.yaml:4: not YAML: nested too deeply"),
        ("{a: " * 200 + "}" * 200, "a.yaml:1:1: not YAML: an object of more than 100 levels"),
        ("&spec {scheduling: {affinity: *spec}}", "a.yaml:1:1: not YAML: an object of more than 100 levels"),
        (
            f"\n  scheduling:\n    a0: &a0 {{x: 1}}\n{ALIASES}",
            "a.yaml:1:1: not YAML: an object of more than 200000 values, aliases written out",
        ),
        (
            "{replicas: " + "9" * 5000 + "}",
            "a.yaml:1:1: an object with a whole number of more than 4300 digits",
        ),
    ],
    ids=["open", "deep", "recursive", "aliases", "digits"],
)
def test_what_would_read_without_an_end_is_named(write: Any, spec: str, message: str) -> None:
    header = "apiVersion: vectorizer.io/v1\nkind: VectorizerCluster\nmetadata: {name: odd}\n"
    result = validate(write("a.yaml", f"{header}spec: {spec}\n"))
    assert (result.exit_code, result.stderr) == (2, f"{message}\n")


def test_an_exponent_of_any_length_breaks_the_cache_rule(write: Any) -> None:
    result = validate(write("a.yaml", GOOD.replace("256Mi", "1e" + "9" * 5000)))
    assert result.exit_code == 1
    assert "CLUSTER_003" in result.stdout


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_merged_key_may_be_overridden(write: Any, wrapped: bool) -> None:
    cluster = (
        f"{GOOD}  podTemplate:\n    labels: &common {{team: a}}\n    annotations: {{<<: *common, team: b}}\n"
    )
    items = "".join(f"    {line}\n" for line in cluster.splitlines())
    result = validate(write("a.yaml", f"kind: List\nitems:\n  -\n{items}" if wrapped else cluster))
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_missing_file_is_named() -> None:
    result = validate("nowhere.yaml")
    assert (result.exit_code, result.stderr) == (
        2,
        "nowhere.yaml: cannot be read: No such file or directory\n",
    )


def test_no_file_at_all_is_wrong_usage() -> None:
    result = validate()
    assert result.exit_code == 2
    assert "name files or folders to check, or - for standard input" in result.stderr


def test_a_key_that_is_set_twice_is_an_error(write: Any) -> None:
    result = validate(write("a.yaml", GOOD + "  cluster: {maxCacheMemory: 128Mi}\n"))
    assert result.exit_code == 1
    assert result.stdout == "a.yaml:7: good: spec.cluster: set twice; remove one\n"


def test_a_line_is_found_inside_of_lists(write: Any) -> None:
    text = f"{GOOD}  podTemplate:\n    env:\n      - name: A\n      - [x]\n"
    assert (
        "a.yaml:10: good: spec.podTemplate.env[1]: expected a mapping"
        in validate(write("a.yaml", text)).stdout
    )


def test_a_missing_field_is_told_at_what_lacks_it(write: Any) -> None:
    text = f"{GOOD}  auth:\n    apiKeySecretRef: {{}}\n"
    assert (
        "a.yaml:8: good: spec.auth.apiKeySecretRef.name: required" in validate(write("a.yaml", text)).stdout
    )


def test_a_warning_does_not_make_a_cluster_invalid(write: Any) -> None:
    result = validate(write("a.yaml", GOOD.replace("256Mi", "16Mi")))
    assert result.exit_code == 0
    assert 'a.yaml:6: good: warning: spec.cluster.maxCacheMemory is "16Mi", under 64Mi' in result.stdout


def test_a_cluster_of_another_version_is_not_skipped(write: Any) -> None:
    result = validate(write("a.yaml", GOOD.replace("vectorizer.io/v1", "vectorizer.io/v2")))
    assert result.exit_code == 1
    assert "apiVersion: input should be 'vectorizer.io/v1', found \"vectorizer.io/v2\"" in result.stdout


def test_a_kind_of_the_same_name_of_somebody_else_is_skipped(write: Any) -> None:
    result = validate(write("a.yaml", GOOD.replace("vectorizer.io/v1", "example.com/v1")))
    assert result.exit_code == 0
    assert (
        result.stdout == "a.yaml:1: VectorizerCluster good: skipped, its apiVersion is not vectorizer.io's\n"
    )


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("kind: Vectorizercluster", "kind: input should be 'VectorizerCluster', found \"Vectorizercluster\""),
        ("# none", "kind: required and not set"),
    ],
)
def test_a_misspelt_kind_is_not_skipped(write: Any, kind: str, problem: str) -> None:
    result = validate(write("a.yaml", GOOD.replace("kind: VectorizerCluster", kind)))
    assert result.exit_code == 1
    assert problem in result.stdout


def test_a_cluster_without_a_name_is_told_apart(write: Any) -> None:
    result = validate(write("a.yaml", GOOD.replace("  name: good\n", "")))
    assert result.stdout == "a.yaml:3: (no name): metadata: required and not set\n"


@pytest.mark.parametrize(("output", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_a_program_reads_the_same_report(write: Any, output: str, load: Any) -> None:
    result = validate("-o", output, write("a.yaml", f"{BAD}---\n{SERVICE}---\n[1"))
    report = load(result.stdout)
    assert result.exit_code == 2
    [cluster] = report["clusters"]
    assert (cluster["source"], cluster["namespace"], cluster["name"], cluster["valid"]) == (
        "a.yaml",
        "search",
        "bad",
        False,
    )
    [first] = [f for f in cluster["findings"] if f["path"] == "spec.storage.type"]
    assert first["line"] == 8
    assert first["violation"]["code"] == "CLUSTER_001"
    assert first["violation"]["fix"] == "set spec.storage.type to mmap"
    assert report["skipped"] == [{"source": "a.yaml", "line": 13, "kind": "Service", "name": "web"}]
    assert report["errors"][0]["line"] == 17


def test_dates_and_times_are_texts_as_in_kubernetes(write: Any) -> None:
    text = f"{GOOD}  podTemplate: {{annotations: {{made: 2026-01-01, at: 12:30}}}}\n"
    assert validate(write("a.yaml", text)).exit_code == 0


def test_it_starts_without_the_operators_libraries(write: Any) -> None:
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom vectorizer_operator.cli import ctl_main\n"
        "assert CliRunner().invoke(ctl_main, ['validate', sys.argv[1]]).exit_code == 0\n"
        "heavy = {'kopf', 'aiohttp', 'kubernetes', 'numpy', 'cryptography'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, write("a.yaml", GOOD)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_installed_command_ends_with_the_exit_status(write: Any) -> None:
    command = Path(sys.executable).with_name("vectorizerctl")
    done = subprocess.run([command, "validate", write("a.yaml", BAD)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "CLUSTER_003" in done.stdout
