"""A PostgreSQL server of the test's own, in a temporary folder, ended with it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FOLDERS = [
    *map(Path, sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)),
    Path("/usr/local/bin"),
]


def tool(name: str) -> str:
    """A program of PostgreSQL; the test is skipped where there is none."""
    found = shutil.which(name) or next((str(folder / name) for folder in FOLDERS if (folder / name).exists()), None)
    if found is None:
        pytest.skip(f"PostgreSQL's {name} is not installed: apt-get install postgresql")
    return found


def port() -> int:
    """One that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def postgresql() -> Iterator[str]:
    """The address of a new, empty database; its user has a password, as real ones do."""
    initdb, postgres = tool("initdb"), tool("postgres")
    as_other: list[str] = []
    if os.geteuid() == 0:  # which PostgreSQL refuses to be
        runuser = shutil.which("runuser")
        if runuser is None:
            pytest.skip("PostgreSQL does not run as root, and there is no runuser")
        as_other = [runuser, "-u", "nobody", "--"]
    folder = Path(tempfile.mkdtemp(prefix="luthier-postgresql-", dir="/tmp"))
    folder.chmod(0o777)
    (folder / "password").write_text("se:cr/et@1")
    (folder / "password").chmod(0o644)
    place, number = str(folder / "data"), port()
    try:
        subprocess.run(
            [
                *as_other,
                initdb,
                "-D",
                place,
                "-U",
                "tuner",
                "-A",
                "scram-sha-256",
                "--pwfile",
                str(folder / "password"),
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
            ],
            check=True,
            capture_output=True,
            cwd=folder,
        )
        options = [
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            f"port={number}",
            "-c",
            f"unix_socket_directories={folder}",
        ]
        server = subprocess.Popen(
            [*as_other, postgres, "-D", place, *options, "-c", "fsync=off"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
        )
        try:
            url = f"postgresql+psycopg://tuner:se%3Acr%2Fet%401@127.0.0.1:{number}/postgres"
            await_server(url, server)
            yield url
        finally:
            server.terminate()  # to runuser, which passes it on
            server.wait(timeout=30)
    finally:
        subprocess.run([*as_other, "rm", "-rf", place], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def await_server(url: str, server: subprocess.Popen[bytes]) -> None:
    """Until it answers."""
    import sqlalchemy as sa

    engine = sa.create_engine(url, connect_args={"connect_timeout": 2})
    while True:
        assert server.poll() is None, "the server ended at once"
        try:
            engine.connect().close()
            break
        except sa.exc.OperationalError:
            continue
    engine.dispose()
