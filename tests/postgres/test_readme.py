"""Every Python block of the README runs, in order, as its reader would run it."""

import re
import socket
import threading
from pathlib import Path

import pytest

from queuepool import Pool

README = Path(__file__).parents[2] / "README.md"


def blocks():
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture
def echoPort():
    """Accept connections and read what comes, until the end of the test."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        def serve():
            while True:
                try:
                    line, _ = server.accept()
                except OSError:
                    return
                with line:
                    while line.recv(100):
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_every_python_block_of_the_readme_runs(dsn, echoPort, tmp_path, monkeypatch, capsys):
    pytest.importorskip("flask", reason="the README's recipe for Flask needs it")
    monkeypatch.setenv("DSN", dsn)
    password = tmp_path / "password"
    password.write_text("secret\n")
    namespace = {"PORT": echoPort, "PASSWORD_FILE": str(password), "__name__": "readme"}
    pools = {}
    try:
        for number, block in enumerate(blocks()):
            exec(compile(block, f"README.md, Python block {number}", "exec"), namespace)
            pools.update((id(value), value) for value in namespace.values()
                         if isinstance(value, Pool))
        answer = namespace["app"].test_client().get("/answer")
        assert answer.json == {"answer": 42}
    finally:
        for pool in pools.values():
            pool.close()
    assert capsys.readouterr().out == "42\n"
    assert len(pools) == 4


def test_every_test_that_the_readme_names_is_there():
    named = set(re.findall(r"`(test_\w+)`", README.read_text(encoding="utf-8")))
    there = {name for path in README.parent.glob("tests/**/test_*.py")
             for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M)}
    assert named
    assert sorted(named - there) == []
