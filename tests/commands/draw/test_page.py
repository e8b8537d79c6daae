"""The page in a browser: what it sends, and what it says of the answer."""

import html
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_lightning.commands.draw.answers import SIDE, Answers
from mlp_lightning.commands.draw.server import DrawServer
from mlp_lightning.data.images.digit_pictures import mnist_picture
from mlp_lightning.predicting.model import Model

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")


class Recorded(Answers):
    """Keeps the drawings and the answers."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.drawings: list[np.ndarray] = []
        self.answers: list[dict[str, Any]] = []

    def predict(self, drawing: bytes, towards: int | None = None) -> dict[str, Any]:
        answer = super().predict(drawing, towards)
        self.drawings.append(np.frombuffer(drawing, np.uint8).reshape(SIDE, SIDE))
        self.answers.append(answer)
        return answer


@pytest.fixture
def server(make_model: Callable[..., Model]) -> Iterator[DrawServer]:
    with DrawServer(0, Recorded(make_model())) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def visit(server: DrawServer, tmp_path: Path) -> Callable[..., str]:
    """The page's elements after twelve seconds of the browser's clock, which waits for answers and for nothing else."""

    def open_page(query: str = "", script: str = "", *, size: str = "1280,900") -> str:
        server.page = server.page.replace(b"</body>", f"<script>{script}</script></body>".encode())
        flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        flags += "--disable-component-update --disable-sync --force-prefers-reduced-motion --enable-logging=stderr "
        flags += f"--user-data-dir={tmp_path / 'profile'} --window-size={size} --virtual-time-budget=12000 --dump-dom"
        command = [str(BROWSER), *flags.split(), f"http://127.0.0.1:{server.server_port}/{query}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert "CONSOLE" not in done.stderr
        return done.stdout

    return open_page


def text_of(page: str, name: str) -> str:
    """The words in an element that has no other of its kind in it."""
    element = re.search(rf'<(\w+)[^>]*\bid="{name}".*?</\1>', page, re.DOTALL)
    assert element is not None, name
    return html.unescape(re.sub("<.*?>", "", element[0])).strip()


def test_before_anything_is_drawn(server: DrawServer, visit: Callable[..., str]) -> None:
    page = visit()
    assert not server.answers.drawings
    assert text_of(page, "title") == "Draw a digit"
    assert text_of(page, "network") == "784 → 30 → 12 → 10 · 24,052 parameters · relu/version_0/best.ckpt"
    assert text_of(page, "answer") == "–nothing drawn yet"
    assert text_of(page, "trouble") == ""
    assert 'id="clear" type="button" disabled' in page


@pytest.mark.parametrize(("digit", "size"), [(3, "1280,900"), (7, "390,844")])
def test_shows_a_digit(digit: int, size: str, server: DrawServer, visit: Callable[..., str], mnist_means) -> None:
    page = visit(f"?demo={digit}", size=size)
    drawing, answer = server.answers.drawings[-1], server.answers.answers[-1]
    picture = mnist_picture(drawing.astype(np.float32) / 255, invert="never").flatten()
    correlations = [np.corrcoef(picture, mean)[0, 1] for mean in mnist_means]
    assert int(np.argmax(correlations)) == digit
    p = answer["probabilities"]
    best = int(np.argmax(p))
    assert f'data-answer="{best}"' in page
    assert text_of(page, "answer").startswith(f"{best}with probability")
    said = re.search(r"([\d.]+) %", text_of(page, "answer"))
    assert said is not None
    assert float(said[1]) == pytest.approx(100 * p[best], abs=0.06)
    assert text_of(page, "spoken").startswith(f"{best}, ")
    lit = sum(a > 0 for a in answer["hidden"][0])
    assert f"{lit} of 30 units lit" in page
    assert text_of(page, "trouble") == ""


@pytest.fixture(scope="module")
def mnist_means(cache_home: Path, command_line_environment: Any) -> np.ndarray:
    """The mean image of each digit in MNIST's test set."""
    from mlp_lightning.data import load_dataset

    with command_line_environment():
        data = load_dataset("mnist", None)
    return np.stack([data.test_x[data.test_y == k].mean(0).numpy() for k in range(10)])


# A hand: a line from the upper left to the lower right, and then a tap. Events of a script have no pen to capture.
HAND = """
const pad = document.getElementById("pad");
pad.setPointerCapture = () => {};
const box = () => pad.getBoundingClientRect();
const event = (name, x, y) => pad.dispatchEvent(new PointerEvent(name, { pointerId: 1, button: 0, bubbles: true,
  clientX: box().left + x * box().width, clientY: box().top + y * box().height }));
const key = (name, ctrlKey) => dispatchEvent(new KeyboardEvent("keydown", { key: name, ctrlKey }));
function line() { event("pointerdown", 0.25, 0.25); event("pointermove", 0.5, 0.5); event("pointermove", 0.75, 0.75);
  event("pointerup", 0.75, 0.75); event("pointermove", 0.75, 0.1); }
function tap() { event("pointerdown", 0.75, 0.25); event("pointerup", 0.75, 0.25); }
const press = (name) => document.getElementById(name).click();
%s.forEach((act, i) => setTimeout(act, 2000 + 500 * i));
"""
PLACES = {"start": (35, 35), "middle": (70, 70), "end": (105, 105), "tap": (35, 105), "untouched": (105, 35)}


def test_draws_by_hand(server: DrawServer, visit: Callable[..., str]) -> None:
    line, tap = {"start", "middle", "end"}, {"tap"}
    acts = {
        "line": line,
        "tap": line | tap,
        "() => key('z', true)": line,
        "() => tap()": line | tap,
        "() => press('undo')": line,
        "() => { key('Escape'); tap(); }": tap,
        "() => { press('clear'); line(); }": line,
        "() => key('Escape')": None,
    }
    page = visit(script=HAND % f"[{', '.join(acts)}]")
    seen = [{name for name, place in PLACES.items() if drawing[place] > 200} for drawing in server.answers.drawings]
    # A line may have been asked about before it was done, and a drawing twice.
    whole = [inked for inked in seen if inked not in ({"start"}, {"start", "middle"})]
    in_turn = [inked for inked, last in zip(whole, [None, *whole], strict=False) if inked != last]
    assert in_turn == [inked for inked in acts.values() if inked]
    assert all((drawing > 0).mean() < 0.15 for drawing in server.answers.drawings)
    # Cleared at last, as it was before.
    assert text_of(page, "answer") == "–nothing drawn yet"
    assert "data-answer" not in page
    assert text_of(page, "trouble") == ""


def test_thickness_is_that_of_the_next_stroke(server: DrawServer, visit: Callable[..., str]) -> None:
    thicker = "() => { key('Escape'); document.getElementById('thickness').value = 14; tap(); }"
    visit(script=HAND % f"[tap, {thicker}]")
    thin, thick = server.answers.drawings[0], server.answers.drawings[-1]
    areas = [float(drawing.sum()) / 255 for drawing in (thin, thick)]
    assert areas == pytest.approx([np.pi / 4 * (side * SIDE) ** 2 for side in (0.07, 0.14)], rel=0.05)


def test_points_towards_a_class(server: DrawServer, visit: Callable[..., str]) -> None:
    page = visit("?demo=4&towards=9")
    assert server.answers.answers[-1]["towards"]["class"] == 9
    assert "∂ log p9 / ∂x" in text_of(page, "x-note")
    assert page.count('aria-pressed="true"') == 1
