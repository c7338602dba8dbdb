"""What publishes the book, and what it carries from elsewhere."""

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
VENDOR = ROOT / "book" / "vendor"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_needs_no_secret_and_calls_commands_that_exist(path: Path) -> None:
    text = path.read_text()
    workflow: dict[Any, Any] = yaml.safe_load(text)
    assert workflow[True], "YAML reads the key `on` as true"
    assert workflow["permissions"] and "secrets." not in text
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for job in workflow["jobs"].values():
        assert job["runs-on"] and set([job["needs"]] if "needs" in job else []) <= set(
            workflow["jobs"]
        )
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/checkout@v4"))
            command = step.get("run", "")
            for script in re.findall(r"bash (\S+)", command):
                assert (ROOT / script).is_file(), script
            assert set(re.findall(r"make (\w+)", command)) <= targets


def test_the_workflows_build_weekly_deploy_and_release() -> None:
    text = "".join(path.read_text() for path in WORKFLOWS)
    for part in ("actions/deploy-pages@", "schedule:", "gh release upload", "pull_request:"):
        assert part in text


def test_vendored_files_are_those_whose_checksums_are_recorded() -> None:
    recorded = {
        name: checksum
        for checksum, name in map(str.split, (VENDOR / "SHA256SUMS").read_text().splitlines())
    }
    there = {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("mathjax", "scripts")
        for path in (VENDOR / folder).rglob("*")
        if path.is_file()
    }
    assert there == recorded
