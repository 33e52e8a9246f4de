"""A Google Cloud Storage of the tests' own: the part of its XML and JSON APIs that vaults use, as Google documents it.

No emulator from the registries keeps what a vault relies on: fake-gcs-server refuses uploads by the XML API (HTTP 400),
gcp-storage-emulator ignores their condition (`x-goog-if-generation-match`), and neither knows retention. This one
verifies the token of each request (RS256, service, times), creates conditionally, lists in pages, and keeps retention
policies, object retention and holds. Sources: "XML API reference" (PUT, GET, DELETE Object, GET
Bucket), "JSON API: Buckets, Objects", "Retention policies", "Object holds", "Object Retention Lock"; AIP-4111 (tokens).
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hashlib
import itertools
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from backup_pipeline.stores.objects.options import PlaceOptions
from backup_pipeline_tests.support.object_servers import LIMITS

_AUDIENCE = "https://storage.googleapis.com/"
_SCOPE = "https://www.googleapis.com/auth/"
_PAGE = 1000


@dataclass
class StoredObject:
    """An object; `said` is what its resource says beside name, size and times (retention, temporaryHold, …)."""

    data: bytes
    generation: int
    created: datetime
    said: dict[str, Any] = field(default_factory=dict)


@dataclass
class GoogleStorage:
    """The service: its address, its buckets' resources, its objects by bucket and name, the right to read buckets."""

    address: str = ""
    buckets: dict[str, dict[str, Any]] = field(default_factory=dict)
    objects: dict[tuple[str, str], StoredObject] = field(default_factory=dict)
    may_read_buckets: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)
    generations: Iterator[int] = field(default_factory=lambda: itertools.count(1_700_000_000_000_000))
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))

    def options(self, **account: str) -> PlaceOptions:
        """Return the options of a place there, for a service account whose key the service knows."""
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        made = {
            "type": "service_account",
            "client_email": "writer@site.iam.gserviceaccount.com",
            "private_key": pem,
            "private_key_id": "k1",
        }
        return PlaceOptions(
            credentials_env={"service_account": "TEST_GOOGLE_ACCOUNT"},
            endpoint_env="TEST_GOOGLE_ENDPOINT",
            limits=LIMITS,
            environment={
                "TEST_GOOGLE_ACCOUNT": json.dumps(made | account),
                "TEST_GOOGLE_ENDPOINT": self.address,
            },
        )

    def expiration(self, bucket: str, found: StoredObject) -> datetime | None:
        """Return until when an object is retained: by the bucket's policy or its own retention, whichever is later."""
        ends = []
        if period := self.buckets[bucket].get("retentionPolicy", {}).get("retentionPeriod"):
            ends.append(found.created + timedelta(seconds=int(period)))
        if until := found.said.get("retention", {}).get("retainUntilTime"):
            ends.append(datetime.fromisoformat(until))
        return max(ends, default=None)

    def forbids(self, bucket: str, found: StoredObject) -> str:
        """Return the code with which deleting or replacing an object is refused now; "" where it is not."""
        if found.said.get("temporaryHold") or found.said.get("eventBasedHold"):
            return "ObjectUnderActiveHold"
        until = self.expiration(bucket, found)
        return "RetentionPolicyNotMet" if until is not None and until > datetime.now(UTC) else ""

    def resource(self, bucket: str, name: str) -> dict[str, Any]:
        """Return an object's resource; the expiration is not given under an event-based hold."""
        found = self.objects[bucket, name]
        until = self.expiration(bucket, found)
        shown = (
            {"retentionExpirationTime": f"{until:%Y-%m-%dT%H:%M:%S}.{until.microsecond // 1000:03}Z"} if until else {}
        )
        if found.said.get("eventBasedHold"):
            shown = {}
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": bucket,
            "generation": str(found.generation),
            "size": str(len(found.data)),
            **shown,
            **found.said,
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    storage: GoogleStorage

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if parts.path in ("", "/"):
            self._answer(400)
        elif not self._authorized():
            self._refuse(401, "AuthenticationRequired")
        elif parts.path.startswith("/storage/v1/b/"):
            self._json(parts.path.removeprefix("/storage/v1/b/"), query)
        else:
            bucket, _, name = unquote(parts.path[1:]).partition("/")
            if bucket not in self.storage.buckets:
                self._refuse(404, "NoSuchBucket")
            elif not name:
                self._list(bucket, query)
            else:
                self._object(bucket, name, body)

    def _authorized(self) -> bool:
        try:
            signed, _, signature = self.headers["Authorization"].removeprefix("Bearer ").rpartition(".")
            public = self.storage.key.public_key()
            public.verify(_from_base64(signature), signed.encode(), PKCS1v15(), SHA256())
            claims = json.loads(_from_base64(signed.split(".")[1]))
        except (InvalidSignature, ValueError, KeyError, AttributeError, TypeError):
            return False
        # A service account names the service or the scope of what it may (AIP-4111).
        service = claims.get("aud") == _AUDIENCE or _SCOPE in claims.get("scope", "")
        return service and claims["iat"] - 60 < time.time() < claims["exp"]

    def _object(self, bucket: str, name: str, body: bytes) -> None:
        storage = self.storage
        with storage.lock:
            found = storage.objects.get((bucket, name))
            refused = storage.forbids(bucket, found) if found and self.command in ("PUT", "DELETE") else ""
            if self.command == "PUT":
                condition = self.headers.get("x-goog-if-generation-match")
                if condition is not None and int(condition) != (found.generation if found else 0):
                    self._refuse(412, "PreconditionFailed")
                elif refused:
                    self._refuse(403, refused)
                else:
                    made = StoredObject(body, next(storage.generations), datetime.now(UTC))
                    if storage.buckets[bucket].get("defaultEventBasedHold"):
                        made.said["eventBasedHold"] = True
                    storage.objects[bucket, name] = made
                    self._answer(200, headers=_headers_of(made))
            elif found is None:
                self._refuse(404, "NoSuchKey")
            elif self.command == "DELETE":
                if refused:
                    self._refuse(403, refused)
                else:
                    del storage.objects[bucket, name]
                    self._answer(204)
            else:
                self._read(found)

    def _read(self, found: StoredObject) -> None:
        data, asked = found.data, self.headers.get("Range")
        if asked is None:
            self._answer(200, data, _headers_of(found))
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) + 1 if last else len(data), len(data))
        if start >= len(data):
            self._refuse(416, "InvalidRange")
            return
        shown = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
        self._answer(206, data[start:end], _headers_of(found) | shown)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token") or query.get("start-after", "")
        with self.storage.lock:
            names = sorted((name for home, name in self.storage.objects if home == bucket), key=str.encode)
            found = {name: self.storage.objects[bucket, name] for name in names}
        entries: list[str] = []
        folders: list[str] = []
        token = last = ""
        for name in names:
            folder = prefix + name[len(prefix) :].partition(delimiter)[0] + delimiter if delimiter else ""
            inside = bool(delimiter) and delimiter in name[len(prefix) :]
            if not name.startswith(prefix) or name <= after or (inside and folder in folders):
                continue
            if len(entries) + len(folders) >= int(query.get("max-keys", _PAGE)):
                token = last
                break
            last = name
            if inside:
                folders.append(folder)
                continue
            one = found[name]
            entries.append(
                f"<Contents><Key>{escape(name)}</Key><Generation>{one.generation}</Generation>"
                f"<LastModified>{one.created:%Y-%m-%dT%H:%M:%S}.000Z</LastModified>"
                f'<ETag>"{hashlib.md5(one.data).hexdigest()}"</ETag><Size>{len(one.data)}</Size></Contents>'
            )
        more = f"<NextContinuationToken>{escape(token)}</NextContinuationToken>" if token else ""
        text = (
            "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'>"
            f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><IsTruncated>{str(bool(token)).lower()}"
            f"</IsTruncated>{more}{''.join(entries)}"
            + "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in folders)
            + "</ListBucketResult>"
        )
        self._answer(200, text.encode(), {"Content-Type": "application/xml; charset=UTF-8"})

    def _json(self, path: str, query: dict[str, str]) -> None:
        bucket, _, rest = path.partition("/o/")
        bucket, name = unquote(bucket), unquote(rest)
        storage = self.storage
        if not name and not storage.may_read_buckets:
            self._refuse_json(403, "forbidden")
        elif bucket not in storage.buckets or (name and (bucket, name) not in storage.objects):
            self._refuse_json(404, "notFound")
        else:
            whole = storage.resource(bucket, name) if name else {"kind": "storage#bucket", **storage.buckets[bucket]}
            wanted = query["fields"].split(",") if "fields" in query else list(whole)
            shown = {key: value for key, value in whole.items() if key in wanted}
            self._answer(200, json.dumps(shown).encode(), {"Content-Type": "application/json; charset=UTF-8"})

    def _refuse_json(self, status: int, reason: str) -> None:
        error = {"code": status, "message": reason, "errors": [{"domain": "global", "reason": reason}]}
        self._answer(status, json.dumps({"error": error}).encode())

    def _refuse(self, status: int, code: str) -> None:
        text = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>Refused.</Message></Error>"
        self._answer(status, text.encode(), {"Content-Type": "application/xml; charset=UTF-8"})

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response_only(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Date", email.utils.formatdate(usegmt=True))
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_DELETE = _handle  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


def _headers_of(found: StoredObject) -> dict[str, str]:
    return {
        "ETag": f'"{hashlib.md5(found.data).hexdigest()}"',
        "Last-Modified": email.utils.format_datetime(found.created, usegmt=True),
        "x-goog-generation": str(found.generation),
        "x-goog-stored-content-length": str(len(found.data)),
    }


def _from_base64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@contextlib.contextmanager
def google_storage() -> Iterator[GoogleStorage]:
    """Run the service for the block."""
    storage = GoogleStorage()
    handler = type("Handler", (_Handler,), {"storage": storage})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    storage.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield storage
    finally:
        server.shutdown()
        server.server_close()
