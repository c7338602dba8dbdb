"""The repository that this project is a clone of: the one source of its public address."""

import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

# The forms in which git names a GitHub repository; a name or token before the @ is left out.
_GITHUB = re.compile(
    r"(?:https://(?:[^@/]+@)?github\.com/|(?:ssh://)?git@github\.com[:/])"
    r"([\w.-]+/[\w.-]+?)(?:\.git)?/?"
)


@dataclass(frozen=True)
class Repository:
    """Where readers find the project: an https address, and the branch to read it at."""

    url: str
    branch: str

    @property
    def colab(self) -> str:
        """Where Colab opens the repository's files."""
        place = self.url.replace("https://github.com/", "https://colab.research.google.com/github/")
        return f"{place}/blob/{self.branch}"


def find_repository(root: Path) -> Repository | None:
    """The GitHub repository that the clone at `root` names as `origin`, so a fork names itself.

    Else the address under `[project.urls] Repository` in pyproject.toml, else None. The branch is
    the default one of `origin` as git knows it, else the current one, else "main".
    """
    project = root / "pyproject.toml"
    if origin := _GITHUB.fullmatch(_git(root, "remote", "get-url", "origin")):
        url = f"https://github.com/{origin[1]}"
    else:
        declared = tomllib.loads(project.read_text(encoding="utf-8")) if project.is_file() else {}
        url = declared.get("project", {}).get("urls", {}).get("Repository")
    default = _git(root, "symbolic-ref", "--short", "refs/remotes/origin/HEAD")
    branch = default.removeprefix("origin/") or _git(root, "branch", "--show-current")
    return Repository(url, branch or "main") if url else None


def _git(root: Path, *arguments: str) -> str:
    """What git answers at `root`, or "" if it cannot or if `root` is not itself a clone."""
    if shutil.which("git") is None or not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
