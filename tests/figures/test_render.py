import threading

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mlp_lightning.figures import confusion_figure, render, save_png, to_rgb


def red_over_white():
    """4 × 2 inches: the upper half red, the lower half white."""
    figure = Figure((4, 2), facecolor="white")
    figure.add_axes((0, 0.5, 1, 0.5), facecolor="red", xticks=[], yticks=[], frame_on=True)
    return figure


@pytest.mark.parametrize(("dpi", "shape"), [(100, (200, 400, 3)), (50, (100, 200, 3)), (200, (400, 800, 3))])
def test_pixels(dpi, shape):
    figure = red_over_white()
    pixels = to_rgb(figure, dpi)
    assert pixels.shape == shape
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels[shape[0] // 4, shape[1] // 2].tolist() == [255, 0, 0]
    assert pixels[3 * shape[0] // 4, shape[1] // 2].tolist() == [255, 255, 255]


def test_figure_keeps_its_resolution():
    figure = Figure((4, 2), dpi=72)
    to_rgb(figure, 200)
    assert figure.dpi == 72


def test_pixels_stay_when_the_figure_is_drawn_again():
    figure = red_over_white()
    pixels = to_rgb(figure)
    figure.axes[0].set_facecolor("blue")
    to_rgb(figure)
    assert pixels[50, 200].tolist() == [255, 0, 0]


@pytest.mark.parametrize("dpi", [100, 150])
def test_png_holds_the_same_pixels_and_nothing_else_is_left(tmp_path, dpi):
    figure = red_over_white()
    path = tmp_path / "figure.png"
    save_png(figure, path, dpi)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.size == (4 * dpi, 2 * dpi)
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), to_rgb(figure, dpi))
    assert list(tmp_path.iterdir()) == [path]


def test_png_replaces_an_older_one(tmp_path):
    path = tmp_path / "figure.png"
    path.write_text("old")
    save_png(red_over_white(), str(path))
    with Image.open(path) as picture:
        picture.verify()


def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_text("old")

    def full_disk(name, *args, **kwargs):
        name.write_text("half a pic")
        raise OSError("no space left on device")

    monkeypatch.setattr(render, "imsave", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_png(red_over_white(), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_png_is_as_readable_as_any_new_file(tmp_path):
    (tmp_path / "other").touch()
    save_png(red_over_white(), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        save_png(red_over_white(), tmp_path / "missing" / "figure.png")


def test_threads_draw_what_one_thread_draws():
    counts = [np.eye(4, dtype=int) * (i + 1) + i for i in range(4)]
    expected = [to_rgb(confusion_figure(matrix, "abcd", "t")) for matrix in counts]
    drawn = {}

    def draw(i):
        drawn[i] = to_rgb(confusion_figure(counts[i], "abcd", "t"))

    threads = [threading.Thread(target=draw, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        np.testing.assert_array_equal(drawn[i], expected[i])
