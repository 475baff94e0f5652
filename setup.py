"""Puts the configs of the repository into the package; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies ``configs/`` to ``nectargan/configs/``; an editable installation needs no copy."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib, "nectargan", "configs")
            self.mkpath(str(folder))
            for file in sorted(Path("configs").iterdir()):
                self.copy_file(str(file), str(folder / file.name))


setup(cmdclass={"build_py": BuildWithConfigs})
