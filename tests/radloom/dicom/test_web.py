"""DICOMweb: a series from a real server, and servers that misbehave; nothing of an URL or UID in what is said."""

import errno
import io
import itertools
import json
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom_files import phantom, write_series
from dicomweb_server import Answer, Change, Server, multipart, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from orthanc import running_orthanc
from pydicom import dcmread

from radloom.config import complete
from radloom.dicom import web
from radloom.dicom.ct import read_ct
from radloom.dicom.series import find_series
from radloom.dicom.web import WebSettings, fetch_series
from radloom.errors import CaseError, CohortError, LimitError
from radloom.ingest import ingest_case
from radloom.source_cells import Sources

STUDY, SERIES = "1.2.826.0.1.4711", "1.2.826.0.1.4711.1"
ONE_TRY = WebSettings(retries=0, timeout_s=5)
TWO_TRIES = WebSettings(retries=1, timeout_s=5)
Make = Callable[..., Server]


@pytest.fixture(autouse=True)
def _no_waits_and_no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(web, "_down", {})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HOST", "TOKEN", "USER", "PASSWORD"):
        monkeypatch.delenv(web.ENVIRONMENT + name, raising=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_series(tmp_path_factory.mktemp("series"), phantom((5, 8, 8)), study=STUDY, series=SERIES)


@pytest.fixture
def serve(files: list[Path]) -> Iterator[Make]:
    """Make a server of the series that is changed in some way."""
    with ExitStack() as held:

        def make(change: Change = lambda _path, _before: None, **attributes: object) -> Server:
            uids = {header.text("SOPInstanceUID"): header.path for header in find_series(files).series[0].headers}
            server = Server(STUDY, SERIES, {uid: path.read_bytes() for uid, path in uids.items()}, change)
            for name, value in attributes.items():
                setattr(server, name, value)
            return held.enter_context(serving(server))

        yield make


def refused(kind: type[Exception], url: str, folder: Path, settings: WebSettings = ONE_TRY) -> str:
    """The message with which a fetch is refused: it has nothing of the URL in it."""
    with pytest.raises(kind) as caught:
        fetch_series(url, folder, settings)
    assert type(caught.value) is kind
    text = str(caught.value)
    assert not any(part in text for part in ("4711", "127.0.0.1", "dicom-web", "secret", str(folder)))
    assert caught.value.__cause__ is None
    return text


def content(paths: list[Path]) -> list[bytes]:
    return sorted(path.read_bytes() for path in paths)


def image(number: int) -> Callable[[Answer], Change]:
    """Answer the requests for the images in another way, from the `number`th on."""

    def make(answer: Answer) -> Change:
        seen: list[str] = []

        def change(path: str, _before: int) -> Answer | None:
            if "/instances/" not in path:
                return None
            seen.append(path)
            return answer if len(seen) > number else None

        return change

    return make


every_image = image(0)


def everything(answer: Answer) -> Change:
    return lambda _path, _before: answer


def test_a_series_is_fetched_as_it_is(serve: Make, files: list[Path], tmp_path: Path) -> None:
    server = serve()
    fetched = fetch_series(server.url, tmp_path / "out", ONE_TRY)
    assert content(fetched) == content(files)
    assert sorted((tmp_path / "out").iterdir()) == sorted(fetched)
    assert not any(part in path.name for path in fetched for part in ("4711", "1.2"))
    assert set(server.logins) == {None}
    assert [path.name for path in fetch_series(f"{server.url}/#2", tmp_path / "again", ONE_TRY)] == [
        path.name for path in fetched
    ]


def test_what_is_there_already_is_not_fetched_again(serve: Make, files: list[Path], tmp_path: Path) -> None:
    stubborn = image(2)(Answer(status=404))
    server = serve(stubborn)
    settings = WebSettings(retries=0, connections=1)
    assert "not found" in refused(CaseError, server.url, tmp_path, settings)
    assert len(list(tmp_path.glob("*.dcm"))) == 2
    (tmp_path / "left-over.part").write_bytes(b"half")
    server.change = lambda _path, _before: None
    asked = server.asked_for_images()
    assert content(fetch_series(server.url, tmp_path, settings)) == content(files)
    assert server.asked_for_images() - asked == 3
    assert len(list(tmp_path.iterdir())) == 5


def test_an_image_that_the_server_dropped_goes(serve: Make, tmp_path: Path) -> None:
    server = serve()
    fetch_series(server.url, tmp_path, ONE_TRY)
    server.images.popitem()
    assert len(fetch_series(server.url, tmp_path, ONE_TRY)) == len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(
    "bad",
    [
        Answer(status=500),
        Answer(status=503, headers={"Retry-After": "0"}),
        Answer(b"half an answ", length=100),
        Answer(b"{no JSON"),
    ],
)
def test_a_list_that_fails_once_is_asked_for_again(serve: Make, files: list[Path], tmp_path: Path, bad: Answer) -> None:
    server = serve(lambda path, before: bad if path.endswith("/instances") and not before else None)
    assert content(fetch_series(server.url, tmp_path, TWO_TRIES)) == content(files)


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (Answer(status=500), "HTTP 500"),
        (multipart(b"x" * 300, close=False), "broke off"),
        (Answer(multipart(b"x" * 300).body, kind=multipart().kind, length=5000), "broke off"),
        (multipart(b"x" * 300), "not DICOM"),
        (multipart(b"x" * 300, b"y"), "several parts"),
        (Answer(b"x" * 300, kind="application/dicom"), "not DICOM"),
        (Answer(b"x" * 300, kind="image/jpeg"), "not DICOM"),
        (Answer(b"x" * 300, kind="multipart/related"), "not DICOM"),
    ],
)
def test_an_image_that_fails_once_is_fetched_again_and_else_excludes_the_case(
    serve: Make, files: list[Path], tmp_path: Path, bad: Answer, cause: str
) -> None:
    server = serve(lambda path, before: bad if "/instances/" in path and not before else None)
    assert content(fetch_series(server.url, tmp_path / "a", TWO_TRIES)) == content(files)
    server = serve(every_image(bad))
    text = refused(CaseError, server.url, tmp_path / "b", TWO_TRIES)
    assert f"fetching an image: {cause}" in text or ("fetching an image" in text and cause in text)
    assert "(tries: 2), while the DICOMweb server answers otherwise" in text
    assert not any((tmp_path / "b").iterdir())


def test_another_image_than_the_one_that_was_asked_for(serve: Make, files: list[Path], tmp_path: Path) -> None:
    server = serve(every_image(multipart(files[0].read_bytes())))
    assert "not the one that was asked for" in refused(CaseError, server.url, tmp_path)


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (404, CaseError, "not found"),
        (410, CaseError, "not found"),
        (403, CaseError, "HTTP 403"),
        (418, CaseError, "HTTP 418"),
        (401, CohortError, "HTTP 401"),
        (503, CohortError, "out of order: listing the series: HTTP 503"),
    ],
)
def test_what_a_status_means(serve: Make, tmp_path: Path, status: int, kind: type[Exception], told: str) -> None:
    server = serve(everything(Answer(b"secret page", status=status)))
    assert told in refused(kind, server.url, tmp_path).replace("counting the series' images", "listing the series")


def test_an_empty_list_is_a_series_that_is_not_there(serve: Make, tmp_path: Path) -> None:
    for answer in (Answer(b"[]"), Answer(status=204), Answer(b"")):
        assert "no such series" in refused(CaseError, serve(everything(answer)).url, tmp_path)
    assert "no list" in refused(CaseError, serve(everything(Answer(b'{"secret": 1}'))).url, tmp_path)


def test_a_login_page_stops_the_run_and_is_asked_for_once(serve: Make, tmp_path: Path) -> None:
    server = serve(everything(Answer(b"<html>secret login</html>", kind="text/html; charset=utf-8")))
    assert "web page, as those that want a login" in refused(CohortError, server.url, tmp_path)
    asked = len(server.asked)
    refused(CohortError, server.url, tmp_path)
    assert len(server.asked) == asked


def test_a_server_that_hangs(serve: Make, tmp_path: Path) -> None:
    settings = WebSettings(retries=0, timeout_s=0.7)
    hangs = replace(multipart(b"x"), hang=5)
    assert "fetching an image: timeout" in refused(CaseError, serve(every_image(hangs)).url, tmp_path, settings)
    assert "timeout" in refused(CohortError, serve(everything(hangs)).url, tmp_path, settings)


def test_no_server_at_all(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/dicom-web/studies/{STUDY}/series/{SERIES}"
        assert "out of order" in refused(CohortError, url, tmp_path)


def test_redirects_to_another_host_are_refused_and_others_followed(
    serve: Make, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = serve()
    away = Answer(status=302, headers={"Location": f"{other.url}/instances"})
    server = serve(everything(away))
    monkeypatch.setenv("RADLOOM_DICOMWEB_HOST", server.host)
    monkeypatch.setenv("RADLOOM_DICOMWEB_TOKEN", "secret")
    assert "redirects to another host" in refused(CaseError, server.url, tmp_path)
    assert other.asked == []

    def moved(path: str, _before: int) -> Answer | None:
        return None if path.startswith("/dicom-web/") else Answer(status=307, headers={"Location": f"/dicom-web{path}"})

    server = serve(moved)
    url = server.url.replace("/dicom-web", "")
    location = WebSettings(retries=0)
    # The query is lost by this redirect, so the list comes in pages of the server's own.
    assert content(fetch_series(url, tmp_path, location)) == content(files)
    circle = serve(lambda path, _before: Answer(status=302, headers={"Location": path}))
    assert "in a circle" in refused(CaseError, circle.url, tmp_path)


def test_more_bytes_than_allowed(serve: Make, tmp_path: Path) -> None:
    server = serve(every_image(multipart(bytes(32 << 20))))
    settings = WebSettings(retries=3, connections=1, max_gb=1 / 1024)
    assert "larger than allowed" in refused(LimitError, server.url, tmp_path, settings)
    assert not any(tmp_path.iterdir())
    assert server.asked_for_images() == 1
    assert server.sent < 16 << 20


def test_a_list_without_end(serve: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_LARGEST_ANSWER", 1000)
    monkeypatch.setattr(web, "_CHUNK", 100)
    server = serve(everything(Answer(b"[" + b" " * (32 << 20) + b"]")))
    assert "too large" in refused(CaseError, server.url, tmp_path)
    assert server.sent < 32 << 20


def test_a_full_disk_is_nothing_of_the_case(serve: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/scans/4711")

    server = serve()
    monkeypatch.setattr(web, "_first_part", full)
    with Sources(tmp_path, 1, {"retries": 3}) as sources, pytest.raises(OSError, match="No space left") as caught:
        sources.open(server.url, "image")
    assert "4711" not in str(caught.value)
    assert server.asked_for_images() <= WebSettings().connections
    assert not any(tmp_path.iterdir())


def test_lists_in_pages(serve: Make, files: list[Path], tmp_path: Path) -> None:
    for counts in (True, False):
        server = serve(page=2, counts=counts)
        assert content(fetch_series(server.url, tmp_path / str(counts), ONE_TRY)) == content(files)
    # One that gives the first page only is found out by its own count.
    assert "doesn't list all" in refused(CaseError, serve(page=2, pages=False).url, tmp_path / "c")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://pacs/dicom-web/studies/1.2", "not one of a DICOMweb series"),
        ("https://pacs/studies/1.2/series/4711.x", "not one of a DICOMweb series"),
        ("https://pacs/studies/1.2/series/../../4711", "not one of a DICOMweb series"),
        ("https:///studies/1.2/series/4711", "not one of a DICOMweb series"),
        ("https://pacs:port/studies/1.2/series/4711", "not one of a DICOMweb series"),
        ("https://[pacs/studies/1.2/series/4711", "not one of a DICOMweb series"),
        ("ftp://pacs/studies/1.2/series/4711", "not one of a DICOMweb series"),
        ("https://me:secret@pacs/studies/1.2/series/4711", "a user, a password or parameters"),
        ("https://pacs/studies/1.2/series/4711?token=secret", "a user, a password or parameters"),
        ("http://pacs.example/studies/1.2/series/4711", "without encryption"),
        ("http://10.0.0.1/studies/1.2/series/4711", "without encryption"),
    ],
)
def test_urls_that_are_refused(url: str, told: str, tmp_path: Path) -> None:
    assert told in refused(CaseError, url, tmp_path)


def test_by_hand_and_in_the_workflow_the_settings_are_the_same() -> None:
    own = dict(complete({"results": "results"})["ingest"]["dicomweb"])
    assert own.pop("keep") is False
    assert WebSettings(**own) == WebSettings()


def test_this_computer_and_what_is_allowed_may_be_asked_without_encryption() -> None:
    for host in ("localhost:8042", "127.0.0.1", "[::1]:80"):
        assert web._place(f"http://{host}/studies/1.2/series/1.3", False).host == host
    assert web._place("http://pacs/a/b/studies/1.2/series/1.3/", True).root == "/a/b"


def test_a_login_goes_to_its_host_alone(serve: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = serve(), serve()
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("RADLOOM_DICOMWEB_TOKEN", "secret")
    assert "RADLOOM_DICOMWEB_HOST must name the host" in refused(CohortError, own.url, tmp_path / "a")
    monkeypatch.setenv("RADLOOM_DICOMWEB_HOST", own.host)
    for server in (own, other):
        fetch_series(server.url, tmp_path / server.host, ONE_TRY)
    assert set(own.logins) == {"Bearer secret"}
    assert set(other.logins) == {None}
    monkeypatch.delenv("RADLOOM_DICOMWEB_TOKEN")
    monkeypatch.setenv("RADLOOM_DICOMWEB_USER", "me")
    monkeypatch.setenv("RADLOOM_DICOMWEB_PASSWORD", "secret")
    own.logins.clear()
    fetch_series(own.url, tmp_path / "b", ONE_TRY)
    assert set(own.logins) == {"Basic bWU6c2VjcmV0"}


def test_a_certificate_that_nobody_vouches_for_is_refused(files: list[Path], tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    made = [*command, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = Server(STUDY, SERIES, {"1.2.3": files[0].read_bytes()})
    with serving(server, lambda plain: context.wrap_socket(plain, server_side=True)):
        url = server.url.replace("http:", "https:")
        assert "certificate can't be verified" in refused(CohortError, url, tmp_path / "out")
    assert server.asked == []


@given(st.binary(max_size=200), st.lists(st.integers(1, 40), max_size=40), st.booleans())
def test_a_part_is_cut_out_whatever_the_chunks(body: bytes, sizes: list[int], preamble: bool) -> None:
    body = body.replace(b"--a-boundary", b"")
    sent = (b"preamble\r\n" if preamble else b"") + multipart(body).body
    chunks = []
    for size in [*sizes, len(sent)]:
        chunks.append(sent[:size])
        sent = sent[size:]
    out = io.BytesIO()
    web._first_part(multipart().kind, iter(chunks), out)
    assert out.getvalue() == body


KINDS = ["application/dicom+json", "application/dicom", "text/plain", multipart().kind, multipart().kind[:-3], ""]
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["00080018", "00201209", "0020000E", "Value", "vr"]), inner, max_size=3)
    ),
    max_leaves=12,
)
BODIES = st.binary(max_size=200) | st.binary(max_size=100).map(lambda body: multipart(body).body)


ANSWERS = st.builds(
    Answer,
    BODIES | JSONS.map(lambda value: json.dumps(value).encode()),
    st.sampled_from([200, 200, 200, 206, 302, 400]),
    st.sampled_from(KINDS),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ANSWERS, min_size=1, max_size=5), st.booleans())
def test_whatever_a_server_answers_is_an_exclusion_or_stops_the_run(
    serve: Make, answers: list[Answer], listed: bool
) -> None:
    turn = itertools.cycle(answers)

    def odd(path: str, _before: int) -> Answer | None:
        return None if listed and "/instances/" not in path else next(turn)

    web._down.clear()
    server = serve(odd)
    quick = WebSettings(retries=0, connections=1, timeout_s=5)
    with tempfile.TemporaryDirectory() as folder:
        # A list of other UIDs can't make it write anywhere else, nor ask for anything but images of the series.
        with pytest.raises((CaseError, CohortError)) as caught:
            fetch_series(server.url, Path(folder) / "out", quick)
        assert "4711" not in str(caught.value)
        assert not list(Path(folder).rglob("*.*"))
    assert all(path.startswith("/dicom-web/studies") for path in server.asked)


def test_orthanc(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_orthanc(tmp_path / "orthanc", ("me", "secret")) as orthanc:
        orthanc.store(files)
        url = orthanc.series_url(STUDY, SERIES)
        assert "HTTP 401" in refused(CohortError, url, tmp_path / "a")
        web._down.clear()
        monkeypatch.setenv("RADLOOM_DICOMWEB_HOST", orthanc.host)
        monkeypatch.setenv("RADLOOM_DICOMWEB_USER", "me")
        monkeypatch.setenv("RADLOOM_DICOMWEB_PASSWORD", "secret")
        fetched = fetch_series(url, tmp_path / "b", ONE_TRY)
        assert "not found" in refused(CaseError, orthanc.series_url(STUDY, f"{SERIES}.9"), tmp_path / "c")
    assert content(fetched) == content(files)
    there, here = (read_ct(find_series(paths).series[0]) for paths in (fetched, files))
    np.testing.assert_array_equal(there.volume.array, here.volume.array)
    assert there.volume.geometry == here.volume.geometry
    assert there.sop_uids == here.sop_uids


def test_a_real_scan_and_its_contours_from_orthanc_are_those_of_the_files(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "sts" / "dicom" / "STS_025"
    contours = folder / "rtstruct.dcm"
    names = ("StudyInstanceUID", "SeriesInstanceUID")
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        orthanc.store([*(folder / "ct").iterdir(), contours])
        image, mask = (
            orthanc.series_url(*(str(header[name].value) for name in names))
            for header in (dcmread(next((folder / "ct").iterdir())), dcmread(contours))
        )
        there = ingest_case(image, mask, work=tmp_path)
    here = ingest_case(folder / "ct", contours)
    assert there.mask is not None
    assert here.mask is not None
    np.testing.assert_array_equal(there.image.array, here.image.array)
    np.testing.assert_array_equal(there.mask.array, here.mask.array)
    assert there.facts == here.facts
    assert {path.name for path in tmp_path.iterdir()} == {"orthanc"}
