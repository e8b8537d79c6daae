"""The server of ``draw``: one page and three questions, for this machine alone, from the standard library."""

import json
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

from mlp_lightning.commands.draw.answers import SIDE, Answers
from mlp_lightning.errors import UserError

ADDRESS = "127.0.0.1"
DRAWING_TYPE = "application/octet-stream"
LENGTH = "Content-Length"
# Headers of which a second one could say something else to another reader.
SINGLE = ("Host", "Origin", LENGTH, "Content-Type")
HTTP_PORT = 80
PAGE_TYPE, JSON_TYPE = "text/html; charset=utf-8", "application/json"
# The page may run its own script and ask this server, and nothing else.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Refused(Exception):
    """A request that is answered with a status and one line."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class DrawServer(ThreadingHTTPServer):
    """Serves the page on a port of 127.0.0.1; 0 takes a free one, which ``server_port`` tells.

    Raises:
        OSError: the port cannot be had.
    """

    # A second server on the same port would take turns with the first.
    allow_reuse_port = False
    daemon_threads = True

    def __init__(self, port: int, answers: Answers) -> None:
        self.answers = answers
        self.page = files("mlp_lightning.commands.draw").joinpath("page.html").read_bytes()
        super().__init__((ADDRESS, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: DrawServer
    server_version, sys_version = "mlp_lightning", ""
    # Of broken requests too, which would otherwise be answered in a version without a status.
    protocol_version, default_request_version = "HTTP/1.1", "HTTP/1.0"
    # Seconds that a client may take for each line of a request, and for all of a drawing.
    timeout = 10
    # With Nagle's algorithm an answer's body waits 40 ms for the browser to acknowledge its head.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, method: Callable[[str, str], bytes | dict[str, Any]]) -> None:
        path, _, query = self.path.partition("?")
        try:
            self._check_origin()
            content = method(path, query)
            page = content if isinstance(content, bytes) else _json(content)
        except Refused as refused:
            self._refuse(refused.status, str(refused))
        except UserError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except TimeoutError:
            self.close_connection = True
        except Exception as error:
            # Whatever a drawing brings about, the next one shall be answered.
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")
        else:
            self._send(HTTPStatus.OK, page, PAGE_TYPE if isinstance(content, bytes) else JSON_TYPE)

    def _check_origin(self) -> None:
        """Refuse what does not come from this page: a site elsewhere may have its name point to this machine."""
        port = self.server.server_port
        hosts = [f"{name}:{port}" for name in (ADDRESS, "localhost")]
        if port == HTTP_PORT:
            # Browsers leave it out.
            hosts += [ADDRESS, "localhost"]
        for name in SINGLE:
            if len(self.headers.get_all(name, ())) > 1:
                raise Refused(HTTPStatus.BAD_REQUEST, f"{name}: came twice, must come once")
        if "Transfer-Encoding" in self.headers:
            raise Refused(HTTPStatus.BAD_REQUEST, f"Transfer-Encoding: must not be given, but {LENGTH}")
        host = (self.headers.get("Host") or "").lower()
        if host not in hosts:
            raise Refused(HTTPStatus.FORBIDDEN, f"Host: got {host or 'nothing'}, must be {' or '.join(hosts)}")
        origin = self.headers.get("Origin")
        if origin is not None and origin.lower() not in [f"http://{name}" for name in hosts]:
            raise Refused(HTTPStatus.FORBIDDEN, f"Origin: got {origin}, must be http://{hosts[0]}")

    def _get(self, path: str, _: str) -> bytes | dict[str, Any]:
        if self.headers.get(LENGTH, "0") != "0":
            # What is not read would be taken for the next request.
            raise Refused(HTTPStatus.BAD_REQUEST, f"{LENGTH}: must not be given with GET")
        if path == "/":
            return self.server.page
        if path == "/model":
            return self.server.answers.description()
        unit = re.fullmatch(r"/weights/([0-9]{1,9})/([0-9]{1,9})", path)
        if unit:
            return {"weights": self.server.answers.weights(int(unit[1]), int(unit[2]))}
        raise Refused(HTTPStatus.NOT_FOUND, f"there is no {path}, but /, /model, /weights/LAYER/UNIT and /predict")

    def _post(self, path: str, query: str) -> dict[str, Any]:
        if path != "/predict":
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no {path} to post to, but /predict")
        kind = self.headers.get_content_type() if "Content-Type" in self.headers else "nothing"
        if kind != DRAWING_TYPE:
            raise Refused(HTTPStatus.BAD_REQUEST, f"Content-Type: got {kind}, must be {DRAWING_TYPE}")
        towards = parse_qs(query, keep_blank_values=True).get("towards", [None])[-1]
        if towards is not None and not re.fullmatch("[0-9]{1,9}", towards):
            raise Refused(HTTPStatus.BAD_REQUEST, f"towards: got {towards!r}, must be the number of a class")
        return self.server.answers.predict(self._body(), None if towards is None else int(towards))

    def _body(self) -> bytes:
        length = self.headers.get(LENGTH) or "nothing"
        if not re.fullmatch("[0-9]{1,18}", length):
            raise Refused(HTTPStatus.BAD_REQUEST, f"{LENGTH}: got {length}, must be {SIDE**2}")
        if int(length) > SIDE**2:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"drawing: got {length} bytes, must be {SIDE**2}")
        body, ends = b"", time.monotonic() + self.timeout
        while len(body) < int(length):
            part = self.rfile.read1(int(length) - len(body))
            if time.monotonic() > ends:
                raise TimeoutError
            if not part:
                break
            body += part
        return body

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        # A body that was not read would be taken for the next request.
        self.close_connection = True
        self._send(status, _json({"error": message}), JSON_TYPE)

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library refuses, such as an unknown method or a broken first line, as JSON too."""
        self._refuse(HTTPStatus(code), message or HTTPStatus(code).phrase)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for every stroke would bury the address."""


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, allow_nan=False).encode()
