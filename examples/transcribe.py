#!/usr/bin/env python3
"""Sends an audio file to Verbatim and prints its transcript. Needs Python 3.10, and nothing besides.

    transcribe.py talk.mp3
    transcribe.py talk.mp3 --format srt >talk.srt
    transcribe.py talk.mp3 --follow                 segments as they are decoded

The server and the key come from --server and --api-key, or from VERBATIM_SERVER and VERBATIM_API_KEY. `Verbatim` below can
be imported, too: it shows what a client of a busy service has to do, which is little.

* An upload carries an `Idempotency-Key`, so that it can be sent again when nobody knows whether it arrived.
* 429, 502, 503 and 504 say "later"; `Retry-After` says when.
* An event stream that breaks off goes on after the last event that was seen (`Last-Event-ID`).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

FORMATS = ("text", "srt", "vtt", "json", "verbose_json", "tsv")
ENDED = ("completed", "failed", "cancelled")
LATER = (429, 502, 503, 504)

Job = dict[str, Any]
Headers = dict[str, str]


class VerbatimError(Exception):
    """What went wrong, in a sentence for people."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a job: `queued`, `started`, `progress`, `segment`, then `completed` and the like."""

    id: str
    name: str
    data: dict[str, Any]


class Upload:
    """A form with options and one file, read from disk piece by piece whenever it is sent."""

    def __init__(self, path: Path, options: dict[str, str]) -> None:
        path.open("rb").close()  # Says now, rather than in the middle of a request, that it cannot be read.
        self.path = path
        boundary = uuid.uuid4().hex
        self.content_type = f"multipart/form-data; boundary={boundary}"
        # Options first, so that a wrong one is refused before the audio is sent.
        fields = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in options.items()
        )
        name = path.name.replace("\\", "_").replace('"', "_").replace("\r", "_").replace("\n", "_")
        file = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        self.head = (fields + file).encode()
        self.tail = f"\r\n--{boundary}--\r\n".encode()
        self.length = len(self.head) + path.stat().st_size + len(self.tail)

    def pieces(self) -> Iterator[bytes]:
        yield self.head
        with self.path.open("rb") as file:
            while piece := file.read(1 << 16):
                yield piece
        yield self.tail


class Verbatim:
    """A server. `patience` is how many seconds in a row it may be away or busy before that is an error."""

    def __init__(
        self,
        server: str,
        api_key: str | None = None,
        patience: float = 60.0,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        url = urlsplit(server)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise VerbatimError(f"{server} is no address of a server; it begins with http:// or https://")
        self.server = server.rstrip("/")
        self.patience = patience
        self.notice = notice
        self._secure = url.scheme == "https"
        self._host, self._port, self._path = url.hostname, url.port, url.path.rstrip("/")
        self._headers: Headers = {"Connection": "close", **({"Authorization": f"Bearer {api_key}"} if api_key else {})}

    def submit(self, path: Path, **options: str) -> Job:
        """Uploads a file as a job. Options are those of `POST /v1/jobs`: model, language, priority and so on."""
        try:
            upload = Upload(path, options)
        except OSError as error:
            raise VerbatimError(f"cannot read {path}: {error.strerror}") from None
        headers = {
            "Content-Type": upload.content_type,
            "Content-Length": str(upload.length),
            "Idempotency-Key": str(uuid.uuid4()),
        }
        return self._json("POST", "/v1/jobs", headers, upload.pieces)

    def wait(self, job: Job) -> Job:
        """The job, once it has ended."""
        while job["status"] not in ENDED:
            # The server holds its answer until the job has ended, or for as long as this.
            job = self._json("GET", f"/v1/jobs/{job['id']}?wait=30")
        return job

    def events(self, job_id: str) -> Iterator[Event]:
        """What happens to a job until it ends, from its beginning."""
        last = ""
        silent_since = time.monotonic()
        while True:
            # A stream is never silent for long: heartbeats come every fifteen seconds.
            headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
            with self._request("GET", f"/v1/jobs/{job_id}/events", headers) as answer:
                if answer.status == 204:
                    return
                try:
                    for event in _read_events(answer):
                        last, silent_since = event.id, time.monotonic()
                        yield event
                        if event.name in ENDED:
                            return
                except (OSError, http.client.HTTPException):
                    pass  # The connection broke; whatever was missed comes with the next one.
            if time.monotonic() - silent_since > self.patience:
                raise VerbatimError(f"the events of {job_id} break off again and again")
            self.notice("the stream of events broke off; going on where it was")
            time.sleep(min(1.0, self.patience / 10))

    def transcript(self, job_id: str, format: str = "text") -> str:
        """The transcript of a completed job."""
        with self._request("GET", f"/v1/jobs/{job_id}/transcript?format={format}") as answer:
            return answer.read().decode()

    def _json(
        self, method: str, path: str, headers: Headers | None = None, body: Callable[[], Iterable[bytes]] | None = None
    ) -> Job:
        with self._request(method, path, headers, body) as answer:
            document: Job = json.load(answer)
            return document

    def _request(
        self, method: str, path: str, headers: Headers | None = None, body: Callable[[], Iterable[bytes]] | None = None
    ) -> http.client.HTTPResponse:
        """Sends a request until it is answered with other than "later". All that this client sends can be repeated."""
        began = time.monotonic()
        pause = 0.5
        while True:
            trouble, wait = "", pause
            try:
                answer = self._send_once(method, path, headers or {}, body() if body else None)
                if answer.status < 400:
                    return answer
                trouble = _refusal(answer)
                if answer.status not in LATER:
                    raise VerbatimError(trouble)
                wait = _retry_after(answer) or pause
            except (OSError, http.client.HTTPException) as error:
                trouble = f"cannot reach {self.server}: {error}"
            if time.monotonic() - began + wait > self.patience:
                raise VerbatimError(trouble)
            self.notice(f"{trouble}; trying again in {wait:g} s")
            time.sleep(wait)
            pause = min(pause * 2, 10.0)

    def _send_once(
        self, method: str, path: str, headers: Headers, body: Iterable[bytes] | None
    ) -> http.client.HTTPResponse:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=90)
        try:
            connection.request(method, self._path + path, body, {**self._headers, **headers})
        except (BrokenPipeError, ConnectionResetError):
            # A server that refuses an upload need not hear its end; what it says is there to be read.
            pass
        return connection.getresponse()


def _read_events(lines: Iterable[bytes]) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for raw in lines:
        line = raw.decode().rstrip("\r\n")
        if line and not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif not line and "data" in fields:
            yield Event(fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"]))
            fields = {}


def _refusal(answer: http.client.HTTPResponse) -> str:
    """What the server says about why not: problem documents (RFC 9457) have a `detail`."""
    said = answer.read(1 << 16)
    try:
        detail = json.loads(said)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = said.decode(errors="replace").strip()
    return f"the server answers {answer.status}: {detail or answer.reason}"


def _retry_after(answer: http.client.HTTPResponse) -> float:
    value = answer.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0


def _follow(service: Verbatim, job: Job) -> None:
    """Prints each segment when it is decoded; at once, when the work had been done before."""
    attempt = 0
    for event in service.events(job["id"]):
        if event.name == "segment":
            if attempt and event.data["attempt"] > attempt:
                service.notice("a worker was lost; another one begins again")
            attempt = event.data["attempt"]
            _show(event.data["segment"])
    if not attempt and service.wait(job)["status"] == "completed":
        for segment in json.loads(service.transcript(job["id"], "json"))["segments"]:
            _show(segment)


def _show(segment: dict[str, Any]) -> None:
    print(f"[{segment['start']:8.2f} -> {segment['end']:8.2f}] {segment['text']}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Sends an audio file to Verbatim and prints its transcript.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument("--follow", action="store_true", help="print segments as they are decoded")
    parser.add_argument("--model", help="default: the server's")
    parser.add_argument("--language", help="as a code (de) or a name (german); default: found out")
    parser.add_argument("--priority", choices=("high", "normal", "low"))
    parser.add_argument("--server", default=os.environ.get("VERBATIM_SERVER", "http://127.0.0.1:8080"))
    parser.add_argument("--api-key", default=os.environ.get("VERBATIM_API_KEY"))
    parser.add_argument("--patience", type=float, default=60.0, help="seconds that the server may be away or busy")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    wanted = {name: getattr(arguments, name) for name in ("model", "language", "priority")}
    options = {name: value for name, value in wanted.items() if value}

    def notice(text: str) -> None:
        print(text, file=sys.stderr)

    try:
        service = Verbatim(arguments.server, arguments.api_key, arguments.patience, notice)
        job = service.submit(arguments.file, **options)
        if arguments.follow:
            _follow(service, job)
        job = service.wait(job)
        if job["status"] != "completed":
            reason = (job.get("error") or {}).get("message", "somebody cancelled it")
            raise VerbatimError(f"{arguments.file}: the job {job['status']}: {reason}")
        if not arguments.follow:
            print(service.transcript(job["id"], arguments.format).rstrip("\n"))
    except VerbatimError as error:
        raise SystemExit(f"transcribe.py: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
