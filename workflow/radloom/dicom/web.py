"""A series from a DICOMweb server: listed by QIDO-RS, fetched image by image by WADO-RS (DICOM PS3.18, 10.4 and 10.6).

No message holds a URL, a UID or what a server wrote: they are, or may carry, the patient's. Credentials come from the
environment alone, and go to the one host that it names:

    RADLOOM_DICOMWEB_HOST       host[:port]
    RADLOOM_DICOMWEB_TOKEN      bearer token, or
    RADLOOM_DICOMWEB_USER, RADLOOM_DICOMWEB_PASSWORD
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import requests

from radloom.dicom.files import Header, quiet, read_header
from radloom.errors import CaseError, CohortError, LimitError

ENVIRONMENT = "RADLOOM_DICOMWEB_"
_SERIES = re.compile(r"(?P<root>/.*?)/?studies/(?P<study>[0-9.]{1,64})/series/(?P<series>[0-9.]{1,64})/?")
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_SOP_UID, _SERIES_UID, _NUMBER_OF_INSTANCES = "00080018", "0020000E", "00201209"
_JSON = "application/dicom+json"
_DICOM = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_PAGE = 1000
_MOST_INSTANCES = 100_000
_LARGEST_ANSWER = 64 << 20  # of JSON
_LARGEST_PART_HEADER = 1 << 16
_CHUNK = 1 << 18
_MOST_REDIRECTS = 3
_CONNECT_S = 10
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_BUSY = (408, 425, 429, 500, 502, 503, 504)  # worth another try
_LOGIN_ADVICE = f"Set {ENVIRONMENT}HOST and {ENVIRONMENT}TOKEN, or _USER and _PASSWORD (docs/dicom.md)."
_reading = threading.Lock()  # `quiet` is for one thread at a time
_down: dict[str, str] = {}  # hosts that this process found out of order, so that each further case doesn't wait again


@dataclass(frozen=True)
class WebSettings:
    """How a server is asked (ingest.dicomweb): never what of an image is read.

    `timeout_s` is how long an answer may pause, `retries` how often a request is made again, `connections` how many
    are made at once, `max_gb` the GiB of a series. `allow_http` allows connections without encryption to other
    computers than this one.
    """

    timeout_s: float = 60
    retries: int = 4
    connections: int = 4
    max_gb: float = 8
    allow_http: bool = False


@dataclass(frozen=True)
class _Place:
    """A series' URL in its parts; `host` is host[:port]."""

    scheme: str
    host: str
    root: str
    study: str
    series: str

    def url(self, path: str) -> str:
        return f"{self.scheme}://{self.host}{self.root}/{path}"

    @property
    def path(self) -> str:
        return f"studies/{self.study}/series/{self.series}"


class _Again(Exception):
    """A request that may succeed when it is made again; its text says what happened, and holds no value."""

    def __init__(self, cause: str, after: float = 0.0) -> None:
        super().__init__(cause)
        self.cause = cause
        self.after = after


def fetch_series(url: str, folder: Path, settings: WebSettings = WebSettings()) -> list[Path]:
    """Fetch every image of a series into a folder, and return the files, sorted by the images' UIDs.

    Files are named by a hash of the UID. Those that are in the folder already and whole are not fetched again, others
    are removed: so a fetch that was stopped goes on where it was. Raises CaseError where the series or an image of it
    can't be had, LimitError where it is too large, CohortError where the server is out of order or wants a login.
    """
    place = _place(url, settings.allow_http)
    if place.host in _down:
        raise CohortError(_down[place.host])
    asked = _Asked(place, settings)
    uids = asked.instances()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = {uid: folder / f"{hashlib.sha256(uid.encode()).hexdigest()[:32]}.dcm" for uid in uids}
    for path in set(folder.iterdir()) - set(files.values()):
        path.unlink()
    have = {uid: path for uid, path in files.items() if path.exists()}
    budget = _Budget(int(settings.max_gb * 2**30))
    for path in have.values():
        budget.spend(path.stat().st_size)
    missing = [(uid, path) for uid, path in files.items() if uid not in have]

    def fetch(uid: str, path: Path) -> None:
        try:
            asked.fetch(uid, path, budget)
        except BaseException:
            budget.stop()
            raise

    with ThreadPoolExecutor(settings.connections) as pool:
        jobs = [pool.submit(fetch, uid, path) for uid, path in missing]
        try:
            errors = [error for job in jobs if (error := job.exception()) and not isinstance(error, _Stopped)]
        except BaseException:
            budget.stop()
            raise
    if errors:
        raise errors[0]
    return [files[uid] for uid in uids]


def _place(url: str, allow_http: bool) -> _Place:
    """Take a series' URL apart; what stands after a # doesn't count. Raises CaseError for one that may not be used."""
    advice = "In the cohort sheet give https://HOST/.../studies/UID/series/UID."
    try:
        parts = urlsplit(url)
        found = _SERIES.fullmatch(parts.path)
        name, port = parts.hostname or "", parts.port
    except ValueError:
        raise CaseError("the URL is not one of a DICOMweb series", advice) from None
    if parts.username is not None or parts.password is not None or parts.query:
        reason = "the URL has a user, a password or parameters in it"
        raise CaseError(reason, f"Take them out. {_LOGIN_ADVICE}")
    scheme = parts.scheme.lower()
    if (
        not found
        or not name
        or scheme not in ("http", "https")
        or not all(map(_is_uid, found.group("study", "series")))
    ):
        raise CaseError("the URL is not one of a DICOMweb series", advice)
    if scheme == "http" and not allow_http and not _is_this_computer(name):
        raise CaseError(
            "the URL is http, without encryption", "Use https, or allow it: ingest.dicomweb.allow_http: true."
        )
    shown = f"[{name}]" if ":" in name else name
    host = f"{shown}:{port}" if port is not None else shown
    return _Place(scheme, host, found["root"].rstrip("/"), found["study"], found["series"])


def _is_uid(text: str) -> bool:
    return _UID.fullmatch(text) is not None


def _is_this_computer(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


class _NoLogin(requests.auth.AuthBase):
    """Send nothing, also where a .netrc of the machine has something for the host."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class _Bearer(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _login(host: str) -> requests.auth.AuthBase:
    """What the environment has for a host. Raises CohortError where it doesn't say for which host it is."""
    values = {name: os.environ.get(ENVIRONMENT + name, "") for name in ("HOST", "TOKEN", "USER", "PASSWORD")}
    if (values["TOKEN"] or values["USER"]) and not values["HOST"]:
        raise CohortError(f"{ENVIRONMENT}HOST must name the host (host[:port]) that the DICOMweb login is for")
    if values["HOST"].lower() != host.lower():
        return _NoLogin()
    if values["TOKEN"]:
        return _Bearer(values["TOKEN"])
    return requests.auth.HTTPBasicAuth(values["USER"], values["PASSWORD"]) if values["USER"] else _NoLogin()


class _Budget:
    """Bytes that a series may have, spent by several threads; `stop` ends them all."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def spend(self, count: int) -> None:
        """Raise LimitError where there is no such number of bytes left."""
        with self._lock:
            self._left -= count
            if self._left < 0:
                raise LimitError(
                    "the series on the DICOMweb server is larger than allowed",
                    "If it is the one that is meant, raise ingest.dicomweb.max_gb.",
                )
        if self._stopped.is_set():
            raise _Stopped

    def give_back(self, count: int) -> None:
        with self._lock:
            self._left += count

    def stop(self) -> None:
        self._stopped.set()

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than until the others were stopped."""
        if self._stopped.wait(seconds):
            raise _Stopped


class _Stopped(Exception):
    """Another image of the series failed."""


class _Asked:
    """A server that is asked for one series."""

    def __init__(self, place: _Place, settings: WebSettings) -> None:
        self._place = place
        self._settings = settings
        self._auth = _login(place.host)
        self._own = threading.local()

    # ------------------------------------------------------------- questions

    def instances(self) -> list[str]:
        """The UIDs of the series' images, sorted. Raises CaseError where there are none, or not all are listed."""
        expected = self._number_of_instances()
        found: set[str] = set()
        while len(found) <= _MOST_INSTANCES and len(found) != expected:
            # A server may have a limit of its own, which is below ours.
            path = f"{self._place.path}/instances?includefield={_SOP_UID}&limit={_PAGE}&offset={len(found)}"
            page = set(_texts(self._json(path, "listing the series"), _SOP_UID))
            if page <= found:
                break
            found |= page
        if not found:
            raise self._not_found()
        if len(found) > _MOST_INSTANCES or not all(map(_is_uid, found)) or expected not in (None, len(found)):
            raise CaseError(
                "listing the series: the DICOMweb server doesn't list all images of the series that it says there are",
                "Ask its administrator, or export the series to a folder.",
            )
        return sorted(found)

    def _number_of_instances(self) -> int | None:
        """How many images the server says that the series has; None where it doesn't say."""
        query = f"SeriesInstanceUID={self._place.series}&includefield={_NUMBER_OF_INSTANCES}"
        try:
            told = self._json(f"studies/{self._place.study}/series?{query}", "counting the series' images")
        except CaseError:
            return None  # a server that lists images but no series; or there is none, which the list tells
        own = [one for one in told if self._place.series in _texts([one], _SERIES_UID)]
        counts = _texts(own, _NUMBER_OF_INSTANCES)
        return int(counts[0]) if counts and re.fullmatch(r"[1-9][0-9]{0,8}", counts[0]) else None

    def _json(self, path: str, step: str) -> list[Any]:
        def read(answer: requests.Response) -> list[Any]:
            if answer.status_code == 204:
                return []
            text = b"".join(_within(answer.iter_content(_CHUNK), _LARGEST_ANSWER, step))
            try:
                content = json.loads(text) if text.strip() else []
            except (ValueError, RecursionError):
                raise _Again("the answer is no JSON") from None
            if not isinstance(content, list):
                raise CaseError(
                    f"{step}: the DICOMweb server's answer is no list", "Is it the URL of a DICOMweb server?"
                )
            return content

        return self._patiently(path, _JSON, step, read)

    def fetch(self, uid: str, path: Path, budget: _Budget) -> None:
        """Fetch one image into a file, whole or not at all."""
        step = "fetching an image"
        budget.spend(0)
        temporary = path.with_suffix(".part")

        def read(answer: requests.Response) -> None:
            spent = 0

            def counted() -> Iterator[bytes]:
                nonlocal spent
                for chunk in answer.iter_content(_CHUNK):
                    budget.spend(len(chunk))
                    spent += len(chunk)
                    yield chunk

            try:
                with open(temporary, "wb") as file:
                    _first_part(answer.headers.get("Content-Type", ""), counted(), file)
                self._check(temporary, uid)
                os.replace(temporary, path)
            except BaseException:
                budget.give_back(spent)
                temporary.unlink(missing_ok=True)
                raise

        self._patiently(f"{self._place.path}/instances/{uid}", _DICOM, step, read, budget.pause)

    def _check(self, path: Path, uid: str) -> None:
        with _reading, quiet():
            header = read_header(path)
        if not isinstance(header, Header):
            raise _Again("the image is not DICOM, or damaged")
        if header.text("SOPInstanceUID") != uid or header.text("SeriesInstanceUID") != self._place.series:
            raise _Again("the image is not the one that was asked for")

    # ------------------------------------------------------------- requests

    def _patiently(
        self,
        path: str,
        accept: str,
        step: str,
        read: Callable[[requests.Response], Any],
        pause: Callable[[float], None] = time.sleep,
    ) -> Any:
        """Make a request and read its answer, again after a while where that may help."""
        for attempt in range(self._settings.retries + 1):
            try:
                return self._once(path, accept, step, read)
            except _Again as again:
                if attempt == self._settings.retries:
                    raise self._given_up(step, again.cause) from None
                pause(min(_LONGEST_WAIT_S, max(again.after, _FIRST_WAIT_S * 2**attempt)))
        raise AssertionError

    def _once(self, path: str, accept: str, step: str, read: Callable[[requests.Response], Any]) -> Any:
        with _plain_errors():
            url = self._place.url(path)
            for _ in range(_MOST_REDIRECTS + 1):
                with self._session().get(
                    url,
                    # No compression: what counts against the limit is what comes over the line.
                    headers={"Accept": accept, "Accept-Encoding": "identity"},
                    auth=self._auth,
                    timeout=(min(_CONNECT_S, self._settings.timeout_s), self._settings.timeout_s),
                    stream=True,
                    allow_redirects=False,
                ) as answer:
                    if not answer.is_redirect:
                        self._judge(answer, step)
                        return read(answer)
                    url = self._redirected(url, answer.headers.get("Location", ""), step)
        raise CaseError(f"{step}: the DICOMweb server redirects in a circle", "Ask its administrator.")

    def _session(self) -> requests.Session:
        if not hasattr(self._own, "session"):
            self._own.session = requests.Session()
        session: requests.Session = self._own.session
        return session

    def _redirected(self, url: str, location: str, step: str) -> str:
        target = requests.compat.urljoin(url, location)
        if _origin(target) != _origin(self._place.url("")):
            raise CaseError(
                f"{step}: the DICOMweb server redirects to another host, or from https to http",
                f"If that host is the right one, name it in the URL; if it asks for a login: {_LOGIN_ADVICE}",
            )
        return target

    def _judge(self, answer: requests.Response, step: str) -> None:
        """Raise what an answer's status and type mean, unless it may be read."""
        status = answer.status_code
        if status == 401:
            raise self._out_of_order(f"the DICOMweb server wants a login, or refuses it (HTTP 401). {_LOGIN_ADVICE}")
        if status == 403:
            raise CaseError(f"{step}: the DICOMweb server refuses access (HTTP 403)", "Ask for the right to read it.")
        if status in (404, 410):
            raise self._not_found(f"{step}: ")
        if status in _BUSY:
            seconds = answer.headers.get("Retry-After", "")
            raise _Again(f"HTTP {status}", float(seconds) if re.fullmatch(r"[0-9]{1,6}", seconds) else 0.0)
        if status not in (200, 204, 206):
            raise CaseError(
                f"{step}: the DICOMweb server answers with HTTP {status}",
                "Look whether the URL is that of the server's DICOMweb service.",
            )
        if answer.headers.get("Content-Type", "").lower().startswith("text/html"):
            raise self._out_of_order(
                f"the DICOMweb server answers with a web page, as those that want a login do. {_LOGIN_ADVICE}"
            )

    def _not_found(self, step: str = "") -> CaseError:
        return CaseError(
            f"{step}the DICOMweb server has no such series, or an image of it is gone (not found)",
            "Correct the URL in the cohort sheet; when the series is there, add #2 to the URL to have it fetched.",
        )

    def _given_up(self, step: str, cause: str) -> Exception:
        """A case's error where the server works otherwise, else one of the run's."""
        tries = self._settings.retries + 1

        def to_the_end(answer: requests.Response) -> None:
            for _ in _within(answer.iter_content(_CHUNK), _LARGEST_ANSWER, step):
                pass

        try:
            self._once("studies?limit=1", _JSON, step, to_the_end)
        except CohortError as error:
            return error
        except _Again:
            return self._out_of_order(f"the DICOMweb server is out of order: {step}: {cause} (tries: {tries})")
        except CaseError:
            pass  # it answers
        return CaseError(
            f"{step}: {cause} (tries: {tries}), while the DICOMweb server answers otherwise",
            "Ask its administrator, or export the series to a folder; add #2 to the URL to have it fetched anew.",
        )

    def _out_of_order(self, reason: str) -> CohortError:
        _down[self._place.host] = reason
        return CohortError(reason)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn what requests and urllib3 raise, with URLs in it, into plain words."""
    try:
        yield
    except (_Again, _Stopped, CaseError, CohortError):
        raise
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError):
        raise CaseError("the URL's host is no possible one", "Correct it in the cohort sheet.") from None
    except requests.exceptions.SSLError:
        raise _Again("its certificate can't be verified, or TLS fails") from None
    except requests.exceptions.Timeout:
        raise _Again("timeout") from None
    except requests.exceptions.ConnectionError as error:
        # A pause in the middle of an answer comes as this.
        raise _Again("timeout" if "timed out" in str(error) else "no connection, or it broke off") from None
    except requests.exceptions.ChunkedEncodingError:
        raise _Again("the answer broke off") from None
    except requests.exceptions.RequestException:
        raise _Again("the answer can't be read") from None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of a URL; None for what is no possible port."""
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        port = None
    return parts.scheme, parts.hostname, port


def _texts(content: list[Any], tag: str) -> list[str]:
    """The first value of an element of each item of a DICOM JSON list, where it has one (PS3.18, F.2)."""
    found = []
    for item in content:
        element = item.get(tag) if isinstance(item, dict) else None
        values = element.get("Value") if isinstance(element, dict) else None
        if isinstance(values, list) and values:
            found.append(str(values[0]).strip(" \0"))
    return found


def _within(chunks: Iterator[bytes], most: int, step: str) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > most:
            raise CaseError(f"{step}: the DICOMweb server's answer is too large", "Ask its administrator.")
        yield chunk


def _first_part(content_type: str, chunks: Iterator[bytes], out: IO[bytes]) -> None:
    """Write the one part of a multipart answer, or a plain application/dicom one, to a file as it comes.

    Raises _Again where it is neither, or ends before its closing boundary (RFC 2046, section 5.1.1).
    """
    kind = content_type.split(";")[0].strip().lower()
    if kind == "application/dicom":
        for chunk in chunks:
            out.write(chunk)
        return
    named = re.search(r'boundary="?([^";]{1,200})"?', content_type, re.IGNORECASE)
    if kind != "multipart/related" or not named:
        raise _Again("the answer is not DICOM")
    boundary = b"--" + named[1].strip().encode("latin-1", "replace")
    end = b"\r\n" + boundary
    held = b"\r\n"  # the first boundary may stand at the very beginning
    state = "before"
    for chunk in chunks:
        held += chunk
        if state == "before":
            at = held.find(end)
            body = held.find(b"\r\n\r\n", at + len(end)) if at >= 0 else -1
            if body < 0:
                if len(held) > _LARGEST_PART_HEADER:
                    raise _Again("the answer is not DICOM")
                continue
            held, state = held[body + 4 :], "within"
        if state == "within":
            at = held.find(end)
            if at >= 0:
                out.write(held[:at])
                held, state = held[at + len(end) :], "after"
            elif len(held) > len(end):
                # What may be the beginning of the boundary waits for the next chunk.
                out.write(held[: -len(end)])
                held = held[-len(end) :]
        if state == "after" and len(held) > len(end):
            if held[:2] != b"--":
                raise _Again("the answer has several parts")
            held = held[:2]
    if state != "after" or held[:2] != b"--":
        raise _Again("the answer broke off")
