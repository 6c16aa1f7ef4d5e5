"""OTLP over HTTP with protobuf bodies, on the standard library."""

import http.client
import io
import os
import select
import socket
import ssl
import urllib.request
import zlib
from contextlib import suppress
from time import monotonic
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from common_telemetry.errors import describe
from common_telemetry.senders.answers import Answer, accepted, retry_after
from common_telemetry.senders.delivery import Body, Sender
from common_telemetry.senders.settings import OtlpSettings

_RETRYABLE: Final = frozenset({429, 502, 503, 504})  # OTLP specification, "Retryable Response Codes"
_MAX_ANSWER_BYTES: Final = 64 * 1024
_USER_AGENT: Final = "common-telemetry-otlp"
_GZIP_WINDOW: Final = 31  # zlib's word for the gzip format with the largest window
# Level 1 takes a third of the time of zlib's own choice, 6, for requests a fifth larger.
_LEVEL: Final = 1
_CAN_WAIT: Final = hasattr(select, "poll") and hasattr(socket.socket, "sendmsg")  # not on Windows


class HttpSender(Sender):
    """Posts to one URL over a connection that is kept open.

    Raises OSError or ssl.SSLError when it is made if a certificate or key cannot be read.
    """

    def __init__(self, settings: OtlpSettings) -> None:
        self._url = urlsplit(settings.endpoint)
        self._compression = settings.compression
        self._tls = _tls(settings) if self._url.scheme == "https" else None
        self._proxy = _proxy(self._url)
        self._target = self._request_target()
        self._headers = {
            "content-type": "application/x-protobuf",
            "user-agent": _USER_AGENT,
            **self._proxy_headers(),
            **settings.headers,
            **_authorization(self._url),
        }
        if self._compression != "none":
            self._headers["content-encoding"] = self._compression
        self._connection: http.client.HTTPConnection | None = None
        self._broken_off = False

    def prepare(self, body: Body) -> Body:
        """Part of Sender."""
        if self._compression == "gzip":
            return _gzipped(body)
        return zlib.compress(body, _LEVEL) if self._compression == "deflate" else body

    def attempt(self, prepared: Body, end: float) -> Answer:
        """Part of Sender."""
        reused = self._connection is not None
        answer = self._post(prepared, end)
        if answer.outcome == "retry" and reused and self._connection is None and not self._broken_off:
            # Most often the backend has closed an idle connection; a new one shows whether it is there.
            return self._post(prepared, end)
        return answer

    def break_off(self) -> None:
        """Part of Sender."""
        self._broken_off = True
        connection = self._connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            with suppress(OSError):  # closed in the meantime
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Part of Sender."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError):
                connection.close()

    def forget_connection(self) -> None:
        """Part of Sender."""
        self.close()  # closes this process's handle only; nothing is said on the wire

    def _post(self, prepared: Body, end: float) -> Answer:
        if self._broken_off:
            return Answer("refused", "given up at shutdown")
        try:
            connection = self._connected(end)
            connection.request("POST", self._target, prepared, self._headers)
            if isinstance(connection, _PlainConnection):
                connection.flush(end)
            response = connection.getresponse()
            with response:
                body = response.read(_MAX_ANSWER_BYTES)
                if response.will_close or response.read(1):  # told to, or an answer without end
                    self.close()
                return _judge(response, body)
        except ssl.SSLCertVerificationError as error:
            self.close()
            return Answer("refused", describe(error))
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            outcome: Any = "refused" if self._broken_off else "retry"
            return Answer(outcome, describe(error))

    def _connected(self, end: float) -> http.client.HTTPConnection:
        left = end - monotonic()
        if left <= 0:
            raise TimeoutError("no time left")
        connection = self._connection
        if connection is None:
            connection = self._connection = self._new_connection(left)
            connection.connect()
            left = max(end - monotonic(), 0.001)  # 0 would mean: do not block
        if not isinstance(connection, _PlainConnection):
            connection.sock.settimeout(left)
        # http.client reads by its own means; this is the place to hold them to the deadline.
        connection.response_class = lambda sock, **kwargs: http.client.HTTPResponse(  # type: ignore[assignment]
            _Timed(sock, end),  # type: ignore[arg-type]
            **kwargs,
        )
        return connection

    def _new_connection(self, timeout_s: float) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        at, at_port = (self._proxy.hostname or "", self._proxy.port) if self._proxy else (host, port)
        if self._tls is None:
            plain = _PlainConnection if _CAN_WAIT else http.client.HTTPConnection
            return plain(at, at_port, timeout=timeout_s)
        connection = http.client.HTTPSConnection(at, at_port, timeout=timeout_s, context=self._tls)
        if self._proxy:
            connection.set_tunnel(host, port or 443, _authorization(self._proxy, "proxy-authorization"))
        return connection

    def _request_target(self) -> str:
        path = self._url.path or "/"
        if self._url.query:
            path = f"{path}?{self._url.query}"
        if self._proxy and self._tls is None:
            return f"http://{self._url.netloc.rpartition('@')[2]}{path}"
        return path

    def _proxy_headers(self) -> dict[str, str]:
        if self._proxy is None or self._tls is not None:
            return {}
        return _authorization(self._proxy, "proxy-authorization")


class _PlainConnection(http.client.HTTPConnection):
    """One that sends a request with as few calls of the system as it can.

    After each of them the thread waits for the interpreter's lock, for 5 ms while the others are busy.
    """

    def connect(self) -> None:
        super().connect()
        self.sock.setblocking(False)  # once: that is such a call, too
        self._gathered: list[memoryview] = []

    def send(self, data: Any) -> None:
        """Called by `request` for each part of it."""
        self._gathered.append(memoryview(data))

    def flush(self, end: float) -> None:
        """Send what was gathered; raises TimeoutError when time.monotonic() is `end`."""
        parts, self._gathered = self._gathered, []
        while parts:
            try:
                sent = self.sock.sendmsg(parts)
            except BlockingIOError:
                _wait(self.sock, select.POLLOUT, end)
                continue
            while parts and sent >= len(parts[0]):
                sent -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][sent:]


def _wait(sock: socket.socket, event: int, end: float) -> None:
    waiting = select.poll()
    waiting.register(sock, event)
    left = end - monotonic()
    if left <= 0 or not waiting.poll(left * 1e3):
        raise TimeoutError("the backend did not take or answer the request in time")


class _Timed:
    """A socket for reading, with one deadline for all reads together."""

    def __init__(self, sock: socket.socket, end: float) -> None:
        self._sock = sock
        self._end = end

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReads(self._sock, self._end))


class _TimedReads(io.RawIOBase):
    def __init__(self, sock: socket.socket, end: float) -> None:
        self._sock = sock
        self._stream = sock.makefile("rb", buffering=0)  # keeps the socket open until the answer is read
        self._end = end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._sock.gettimeout() == 0:
            read = None
            while read is None:
                _wait(self._sock, select.POLLIN, self._end)
                read = self._stream.readinto(buffer)
            return read
        left = self._end - monotonic()
        if left <= 0:
            raise TimeoutError("the answer did not end in time")
        self._sock.settimeout(left)
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _judge(response: http.client.HTTPResponse, body: bytes) -> Answer:
    if 200 <= response.status < 300:
        return accepted(body)
    said = f"HTTP {response.status} {response.reason}".strip()
    if response.status in _RETRYABLE:
        return Answer("retry", said, retry_after_s=retry_after(response.getheader("retry-after")))
    return Answer("refused", said)


def _gzipped(body: Body) -> bytes:
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return stream.compress(body) + stream.flush()


def _tls(settings: OtlpSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.certificate or os.environ.get("REQUESTS_CA_BUNDLE"))
    if settings.certificate is None:
        # Where the system has no certificates of authorities, as in small containers, certifi may have.
        with suppress(ImportError):
            import certifi

            context.load_verify_locations(certifi.where())
    if settings.client_certificate is not None:
        context.load_cert_chain(settings.client_certificate, settings.client_key)
    return context


def _proxy(url: SplitResult) -> SplitResult | None:
    """The proxy of HTTP_PROXY, HTTPS_PROXY and NO_PROXY for `url`."""
    found = urllib.request.getproxies_environment().get(url.scheme)
    if not found or urllib.request.proxy_bypass_environment(url.hostname or ""):  # type: ignore[attr-defined]
        return None
    return urlsplit(found if "://" in found else f"http://{found}")


def _authorization(url: SplitResult, header: str = "authorization") -> dict[str, str]:
    """The header for a user and password that stand in a URL."""
    if url.username is None:
        return {}
    from base64 import b64encode

    user = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return {header: f"Basic {b64encode(user.encode()).decode()}"}
