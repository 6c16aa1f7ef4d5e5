"""An OTLP/HTTP endpoint in a process of its own, which accepts everything, dies when told, and comes back."""

import http.server
import socket
import subprocess
import sys

from benchmarks import ROOT


class Endpoint:
    """The endpoint, dead at first. Always on the same port, so that it can come back."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self.deaths = 0

    @property
    def url(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Come to life; listens soon after this returns."""
        if self._process is None:
            command = [sys.executable, "-m", "benchmarks.soak.endpoint", str(self._port)]
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)

    def kill(self) -> None:
        """Die in the midst of whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.deaths += 1


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()
