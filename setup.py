"""The wheel carries the folder `data/`, in the package; all else stands in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithData(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "saerepgeo_lib", "data")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree("data", target)


setup(cmdclass={"build_py": WithData})
