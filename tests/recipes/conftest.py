"""What runs a recipe: in this process as a module, or as a file in one of its own."""

import contextlib
import os
import subprocess
import sys
from types import ModuleType

import pytest

from queuepool import Pool
from queuepool.psycopg2 import ConnectionPool
from tests.helpers import PATIENCE
from tests.postgres.conftest import admin, dsn, parameters
from tests.postgres.test_failover import pair
from tests.recipes import pythonBlocks
from tests.smtp.conftest import authority, serve, serverContext, tlsServer

__all__ = ["admin", "authority", "dsn", "pair", "parameters", "serve", "serverContext",
           "tlsServer"]


@pytest.fixture
def recipe(dsn, monkeypatch):
    """Run the Python block under a heading of the README as a module, and return that.

    What the first example imports and ``names`` are there before. ``instead`` maps parts of its
    text to what is run instead of them. The pools that it made are closed at the test's end.
    """
    monkeypatch.setenv("DSN", dsn)
    with contextlib.ExitStack() as stack:
        def run(heading, instead={}, **names):
            [block] = pythonBlocks()[heading]
            for part, other in instead.items():
                assert part in block
                block = block.replace(part, other)
            module = ModuleType("recipe")
            module.__dict__.update(names, os=os, ConnectionPool=ConnectionPool)
            exec(compile(block, f"README.md, {heading}", "exec"), module.__dict__)
            for value in vars(module).values():
                if isinstance(value, Pool) and value not in names.values():
                    stack.callback(value.close)
            return module

        yield run


@pytest.fixture
def program(dsn, tmp_path):
    """Start ``python`` with these arguments in a folder of its own, where files may be written.

    Returns the process; it is killed at the test's end.
    """
    with contextlib.ExitStack() as stack:
        def launch(*args, **files):
            for name, text in files.items():
                (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
            process = stack.enter_context(subprocess.Popen(
                [sys.executable, *args], cwd=tmp_path, text=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env={**os.environ, "DSN": dsn, "PYTHONUNBUFFERED": "1",
                     "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}))
            stack.callback(process.kill)
            return process

        yield launch


@pytest.fixture
def output(program):
    """Run ``python`` to its end, check that it succeeded, and return what it printed."""
    def run(*args, **files):
        process = program(*args, **files)
        printed, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, printed
        return printed

    return run
