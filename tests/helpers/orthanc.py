"""A DICOMweb server of one's own: Debian's Orthanc with its DICOMweb plugin, on a free port of this computer."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass(frozen=True)
class Orthanc:
    """A running server; `login` is its user and password."""

    root: str
    host: str
    login: tuple[str, str] | None

    def store(self, files: Iterable[Path]) -> None:
        """Store DICOM files by its own REST interface."""
        for file in files:
            answer = requests.post(f"{self.root}/instances", data=file.read_bytes(), auth=self.login, timeout=30)
            answer.raise_for_status()

    def series_url(self, study: str, series: str) -> str:
        return f"{self.root}/dicom-web/studies/{study}/series/{series}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_orthanc(folder: Path, login: tuple[str, str] | None = None) -> Iterator[Orthanc]:
    """Start a server with its files in a folder, and stop it; skip the test where it is not installed."""
    program = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if program is None or not PLUGIN.exists():
        pytest.skip("Orthanc with its DICOMweb plugin is not installed (Debian: orthanc, orthanc-dicomweb)")
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    config = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "Plugins": [str(PLUGIN)],
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "DicomServerEnabled": False,
        "AuthenticationEnabled": login is not None,
        "RegisteredUsers": dict([login]) if login else {},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
        "HttpThreadsCount": 8,
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder)
    try:
        root = f"http://127.0.0.1:{port}"
        _wait(process, f"{root}/dicom-web/studies?limit=1", login)
        yield Orthanc(root, f"127.0.0.1:{port}", login)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, login: tuple[str, str] | None) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        assert process.poll() is None, "Orthanc ended by itself"
        try:
            if requests.get(url, auth=login, timeout=2).status_code == 200:
                return
        except requests.exceptions.RequestException:
            pass
        time.sleep(0.1)
    raise AssertionError("Orthanc did not answer within 30 s")
