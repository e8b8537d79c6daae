import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from mlp_lightning.commands.draw import server as draw_server
from mlp_lightning.commands.draw.answers import SIDE, Answers
from mlp_lightning.commands.draw.server import DrawServer
from mlp_lightning.predicting.model import Model

MakeModel = Callable[..., Model]
TYPE = {"Content-Type": "application/octet-stream"}


@pytest.fixture
def server(make_model: MakeModel) -> Iterator[DrawServer]:
    with DrawServer(0, Answers(make_model())) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def request(
    server: DrawServer, method: str, path: str, body: bytes | None = None, headers: dict[str, str] = TYPE
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    is_json = response.headers["Content-Type"] == "application/json"
    return response.status, json.loads(content) if is_json else content.decode()


def raw(server: DrawServer, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


def test_page_asks_nobody_else(server: DrawServer) -> None:
    status, page = request(server, "GET", "/")
    assert status == 200
    assert page.startswith("<!doctype html>")
    # But for the names of namespaces, which are never fetched.
    assert "//" not in page.replace("http://www.w3.org/2000/svg", "").replace("\n//", "").replace(" //", "")
    assert "src=" not in page.replace("img-src", "")


def test_headers_confine_the_page(server: DrawServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request("GET", "/")
    headers = connection.getresponse().headers
    connection.close()
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Access-Control-Allow-Origin"] is None


def test_questions_reach_the_model(server: DrawServer, drawing: np.ndarray) -> None:
    answers = server.answers
    assert request(server, "GET", "/model") == (200, answers.description())
    assert request(server, "GET", "/weights/2/3") == (200, {"weights": answers.weights(2, 3)})
    sent = drawing.tobytes()
    assert request(server, "POST", "/predict", sent) == (200, answers.predict(sent))
    assert request(server, "POST", "/predict?towards=4", sent) == (200, answers.predict(sent, 4))


WHOLE = bytes(SIDE**2)


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "said"),
    [
        ("GET", "/predict", None, {}, 404, "there is no /predict"),
        ("GET", "/../page.html", None, {}, 404, "there is no /../page.html"),
        ("GET", "/[?", None, {}, 404, "there is no /["),
        ("GET", "/weights/1/30", None, {}, 400, "unit: got 30, must be in 0 … 29"),
        ("GET", "/weights/9/0", None, {}, 400, "layer: got 9, must be in 1 … 3"),
        ("GET", "/weights/1/x", None, {}, 404, "there is no /weights/1/x"),
        ("POST", "/", WHOLE, TYPE, 404, "there is no / to post to"),
        ("POST", "/predict", WHOLE, {}, 400, "Content-Type: got nothing, must be application/octet-stream"),
        ("POST", "/predict", WHOLE, {"Content-Type": "text/plain"}, 400, "Content-Type: got text/plain"),
        ("POST", "/predict", WHOLE[1:], TYPE, 400, "drawing: got 19599 bytes, must be 19600"),
        ("POST", "/predict", b"", TYPE, 400, "drawing: got 0 bytes, must be 19600"),
        ("POST", "/predict", WHOLE, TYPE, 400, "the drawing: nothing stands out"),
        ("POST", "/predict", WHOLE + b"\0", TYPE, 413, "drawing: got 19601 bytes, must be 19600"),
        ("POST", "/predict", b"x", {**TYPE, "Content-Length": "-1"}, 400, "Content-Length: got -1"),
        ("POST", "/predict", b"x", {**TYPE, "Content-Length": "9" * 17}, 413, "drawing: got 9"),
        ("POST", "/predict?towards=10", WHOLE, TYPE, 400, "towards: got 10, must be in 0 … 9"),
        ("POST", "/predict?towards=x", WHOLE, TYPE, 400, "towards: got 'x', must be the number of a class"),
        ("POST", "/predict?towards=", WHOLE, TYPE, 400, "towards: got '', must be the number of a class"),
        ("PUT", "/predict", WHOLE, TYPE, 501, "PUT"),
        ("OPTIONS", "/predict", None, {}, 501, "OPTIONS"),
        ("GET", "/model", None, {"Host": "evil.example"}, 403, "Host: got evil.example, must be 127.0.0.1:"),
        ("GET", "/model", None, {"Host": "127.0.0.1"}, 403, "Host: got 127.0.0.1, must be"),
        ("POST", "/predict", WHOLE, {**TYPE, "Host": "evil.example:80"}, 403, "Host: got evil.example:80"),
        ("POST", "/predict", WHOLE, {**TYPE, "Origin": "http://evil.example"}, 403, "Origin: got http://evil.example"),
        ("POST", "/predict", WHOLE, {**TYPE, "Origin": "null"}, 403, "Origin: got null"),
    ],
)
def test_refused(
    method: str,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    status: int,
    said: str,
    server: DrawServer,
    drawing: np.ndarray,
) -> None:
    answered, content = request(server, method, path, body, headers)
    assert answered == status
    assert list(content) == ["error"]
    assert content["error"].count("\n") == 0
    assert said in content["error"]
    assert request(server, "POST", "/predict", drawing.tobytes())[0] == 200


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST"])
def test_own_names_are_let_in(name: str, server: DrawServer) -> None:
    headers = {"Host": f"{name}:{server.server_port}", "Origin": f"http://{name}:{server.server_port}"}
    assert request(server, "GET", "/model", headers=headers)[0] == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b""),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"505"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\n\r\n", b"403"),
        (b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nContent-Type: application/octet-stream\r\n\r\n", b"400"),
        (
            b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nContent-Type: application/octet-stream\r\n"
            b"Content-Length: 19600\r\n\r\ntoo few",
            b"400",
        ),
        (
            b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nContent-Type: application/octet-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"400",
        ),
    ],
    ids=["nothing", "nonsense", "version", "long", "no host", "no length", "cut off", "chunked"],
)
def test_broken_requests_stop_nothing(sent: bytes, status: bytes, server: DrawServer) -> None:
    received = raw(server, sent.replace(b"PORT", str(server.server_port).encode()))
    if status:
        first, _, _ = received.partition(b"\r\n")
        assert first.split()[1] == status
        assert "error" in json.loads(received.rpartition(b"\r\n\r\n")[2])
    else:
        assert received == b""
    assert request(server, "GET", "/model")[0] == 200


def test_fault_within_is_one_line(
    server: DrawServer, drawing: np.ndarray, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("it broke")

    with monkeypatch.context() as patch:
        patch.setattr(server.answers, "predict", fail)
        said = request(server, "POST", "/predict", drawing.tobytes())
    assert said == (500, {"error": "RuntimeError: it broke"})
    assert request(server, "POST", "/predict", drawing.tobytes())[0] == 200
    assert capfd.readouterr() == ("", "")


def test_slow_and_idle_clients_keep_nobody_waiting(server: DrawServer) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port)) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.")
        assert request(server, "GET", "/model")[0] == 200


def test_drawings_at_the_same_time_do_not_mix(server: DrawServer, drawing: np.ndarray) -> None:
    expected = {k: server.answers.predict(drawing.tobytes(), k) for k in range(10)}
    got: dict[int, Any] = {}
    threads = [
        threading.Thread(
            target=lambda k=k: got.update({k: request(server, "POST", f"/predict?towards={k}", drawing.tobytes())})
        )
        for k in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {k: (200, answer) for k, answer in expected.items()}


def test_second_server_on_the_same_port(server: DrawServer) -> None:
    with pytest.raises(OSError, match="in use"):
        DrawServer(server.server_port, server.answers)


def status_of(server: DrawServer, *lines: str, host: str | None = "127.0.0.1:{port}", body: bytes = b"") -> int:
    """Of a request of these lines as they stand."""
    first, *headers = lines
    if host is not None:
        headers.insert(0, f"Host: {host.format(port=server.server_port)}")
    sent = "\r\n".join([first, *headers, "", ""]).encode("latin1") + body
    return int(raw(server, sent).split()[1])


POST = "POST /predict HTTP/1.1"
SIZE = SIDE**2


@pytest.mark.parametrize(
    "lines",
    [
        ("GET / HTTP/1.1", "Host: 127.0.0.1:{port}"),
        ("GET / HTTP/1.1", "Host: evil.example"),
        ("GET / HTTP/1.1", "Origin: http://127.0.0.1:{port}", "Origin: http://evil.example"),
        ("GET / HTTP/1.1", "Content-Length: 5"),
        ("GET / HTTP/1.1", "Transfer-Encoding: chunked"),
        (POST, "Content-Type: application/octet-stream", f"Content-Length: {SIZE}", "Transfer-Encoding: chunked"),
        (POST, "Content-Type: application/octet-stream", f"Content-Length: {SIZE}", "Content-Length: 0"),
        (POST, "Content-Type: application/octet-stream", "Content-Length: -1"),
        (POST, "Content-Type: application/octet-stream", "Content-Length: +5"),
        (POST, "Content-Type: application/octet-stream", "Content-Length: 99999999999999999999"),
        (POST, "Content-Type: application/octet-stream", "Content-Length: 1_0"),
        (POST, "Content-Type: application/octet-stream", "Content-Length: 5, 5"),
        (POST, "Content-Type: application/octet-stream", "Content-Type: text/plain", "Content-Length: 0"),
        ("GET /../../etc/passwd HTTP/1.1",),
        ("GET /%2e%2e/etc/passwd HTTP/1.1",),
        ("GET http://127.0.0.1/ HTTP/1.1",),
        ("GET /weights/1/999999999 HTTP/1.1",),
        ("GET /weights/1/٣ HTTP/1.1".encode().decode("latin1"),),
        ("TRACE / HTTP/1.1",),
        ("GET / HTTP/9.9",),
        ("GET /" + "a" * 70_000 + " HTTP/1.1",),
        ("GET / HTTP/1.1", *(f"X-{k}: y" for k in range(200))),
    ],
    ids=lambda lines: " ".join(lines)[:60],
)
def test_odd_requests_are_refused(server: DrawServer, lines: tuple[str, ...]) -> None:
    given = [line.replace("{port}", str(server.server_port)) for line in lines]
    assert 400 <= status_of(server, *given) < 600
    assert status_of(server, "GET /model HTTP/1.1", "Connection: close") == 200


@pytest.mark.parametrize("host", [None, "", "127.0.0.1", "localhost", "evil.example:{port}", "127.0.0.1:{port}.evil"])
def test_another_host_is_refused(server: DrawServer, host: str | None) -> None:
    assert status_of(server, "GET / HTTP/1.1", host=host) == 403


@pytest.mark.parametrize(
    ("host", "status"), [("127.0.0.1", 200), ("localhost", 200), ("localhost:80", 200), ("x", 403)]
)
def test_browsers_leave_port_80_out(server: DrawServer, host: str, status: int) -> None:
    port, server.server_port = server.server_port, 80
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.putrequest("GET", "/model", skip_host=True)
        connection.putheader("Host", host)
        connection.endheaders()
        assert connection.getresponse().status == status
        connection.close()
    finally:
        server.server_port = port


def test_answers_do_not_wait_for_one_another(server: DrawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[tuple[int, ...]] = []
    setsockopt = socket.socket.setsockopt
    monkeypatch.setattr(socket.socket, "setsockopt", lambda *given: (options.append(given[1:]), setsockopt(*given))[1])
    assert request(server, "GET", "/model")[0] == 200
    assert (socket.IPPROTO_TCP, socket.TCP_NODELAY, True) in options


def test_a_body_that_drips_is_given_up(server: DrawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw_server._Handler, "timeout", 0.3)
    head = f"{POST}\r\nHost: 127.0.0.1:{server.server_port}\r\nContent-Type: application/octet-stream\r\n"
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        connection.sendall(f"{head}Content-Length: {SIZE}\r\n\r\n".encode())
        with pytest.raises((ConnectionResetError, BrokenPipeError)):  # noqa: PT012 (at any of them)
            for _ in range(200):
                connection.sendall(b"x")
                time.sleep(0.05)
    assert request(server, "GET", "/model")[0] == 200
