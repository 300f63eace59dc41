from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist


class Sdist(sdist):
    """Put the tests into the sdist, for those who package it further."""

    def make_release_tree(self, base_dir, files):
        tests = [str(path) for path in Path("tests").rglob("*")
                 if path.is_file() and "__pycache__" not in path.parts]
        super().make_release_tree(base_dir, [*files, "tox.ini", *tests])


setup(cmdclass={"sdist": Sdist})
