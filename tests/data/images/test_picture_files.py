"""Which files of a folder are read as pictures, and that nothing is left out without a word."""

import os

import numpy as np
import pytest
from PIL import Image

from mlp_lightning.data.images import picture_files as ours
from mlp_lightning.data.images.picture_files import SUFFIXES, find_pictures, note_left_out
from mlp_lightning.data.images.pictures import FORMATS, open_picture
from mlp_lightning.data.module import DataModule
from mlp_lightning.errors import UserError

GREY = np.arange(24, dtype="u1").reshape(4, 6) * 10


def save(path, kind=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(GREY).save(path, kind)
    return path


def names(folder):
    return [path.relative_to(folder).as_posix() for path in find_pictures(folder).files]


def test_suffixes_are_those_that_pillow_has_for_these_formats():
    Image.init()
    assert {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS} == SUFFIXES


def test_pictures_of_a_folder(tmp_path):
    for name in ("b.PNG", "a.jpeg", "d.JfIf", "deep/c.tif", ".hidden.png", ".git/d.png", "notes.txt", "Thumbs.db", "e"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert names(tmp_path) == ["a.jpeg", "b.PNG", "d.JfIf", "deep/c.tif"]
    assert find_pictures(tmp_path).left_out == {".txt": 1, "no suffix": 1}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "MPO"])
def test_a_picture_without_a_suffix_is_known_by_its_bytes(tmp_path, kind):
    save(tmp_path / "picture", kind)
    (tmp_path / "README").write_text("P2 is a format, BMW a car")
    (tmp_path / "BM").write_text("PNG")
    assert names(tmp_path) == ["picture"]
    assert open_picture(tmp_path / "picture").size == (6, 4)


def test_links_are_followed_but_not_in_circles(tmp_path):
    save(tmp_path / "cat" / "a.png")
    save(tmp_path / "elsewhere" / "deep" / "b.png")
    save(tmp_path / "dog" / "c.png")
    (tmp_path / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "elsewhere" / "deep")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "cat" / "file.png").symlink_to(tmp_path / "elsewhere" / "deep" / "b.png")
    # All classes lie above: their pictures are no cats.
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    assert names(tmp_path / "cat") == ["a.png", "again/b.png", "file.png"]
    (tmp_path / "lone").symlink_to(tmp_path / "cat")
    assert len(names(tmp_path / "lone")) == 3


def test_links_to_nothing_and_pipes_are_told(tmp_path):
    save(tmp_path / "c.png")
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    os.mkfifo(tmp_path / "b.png")
    assert names(tmp_path) == ["c.png"]
    assert find_pictures(tmp_path).left_out == {"links to nothing": 2, "not regular files": 1}


def test_what_is_left_out_is_told(tmp_path, capsys):
    for k in range(3):
        save(tmp_path / f"{k}.png")
        (tmp_path / f"{k}.HEIC").touch()
    for name in ("a.xml", "b.xml", "c.png.bak", "d.1", "e.2", "f.3", "g.4", "h.5"):
        (tmp_path / name).touch()
    found = find_pictures(tmp_path)
    assert len(found.files) == 3
    note_left_out(tmp_path, found.left_out)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {tmp_path}: files left out, since they are no pictures: 11 (.heic 3, .xml 2, ")
    assert line.endswith(", …)")


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def scandir(place):
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr(ours.os, "scandir", scandir)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        find_pictures(tmp_path)


def module(root, **options):
    return DataModule(**{"dataset": "image_folder", "root": str(root), **options})


def counts(module):
    return [int(count.sum()) for count in module.part_counts.values()]


def fill(folder, n, classes=("cat", "dog")):
    for name in classes:
        for k in range(n):
            save(folder / name / f"{k:02}.png")
    return folder


PARTS = [
    ("training", None, "testing"),
    ("Train", None, "Test"),
    ("TRAIN", "VAL", "TEST"),
    ("trainingSet", None, "testSet"),
    ("train", "valid", "test"),
    ("Training", "Validation", None),
    ("train_images", "val_images", "test_images"),
    ("train", None, None),
]


@pytest.mark.parametrize("names", PARTS, ids=str)
def test_folders_of_parts_are_no_classes(tmp_path, capsys, names):
    train, val, test = names
    fill(tmp_path / train, 20)
    if val:
        fill(tmp_path / val, 3)
    if test:
        fill(tmp_path / test, 5)
    it = module(tmp_path)
    assert it.data.class_names == ("cat", "dog")
    # A fifth of forty tests, and a tenth of those left validates, where there is no part for it.
    n = 40 if test else 32
    n_val = 6 if val else round(n / 10)
    assert counts(it) == [n - (0 if val else n_val), n_val, 10 if test else 8]
    assert capsys.readouterr().err == ""


def test_validation_pictures_are_those_of_their_folder(tmp_path):
    fill(tmp_path / "train", 12)
    for name in ("cat", "dog"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.fromarray(255 - GREY).save(tmp_path / "val" / name / "a.png")
    it = module(tmp_path)
    assert np.array_equal(it.data.val_x.numpy()[0], ((255 - GREY) / np.float32(255)).reshape(-1))
    with pytest.raises(UserError, match=r"data\.validation_size: got 4, but .* has 2 validation samples"):
        module(tmp_path, validation_size=4).data  # noqa: B018


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train/cat", "training/cat", "test/cat"), "has train and training, must have one folder for the train part"),
        (("test/cat", "val/cat"), "has test and val, but no folder train"),
        (("cat/train", "cat/test", "dog/train", "dog/test"), "cat holds test and train; train, val and test must hold"),
        (("train", "test"), "train has no folders, must have a folder of pictures for each class"),
    ],
)
def test_folders_that_are_neither_parts_nor_classes_are_refused(tmp_path, folders, expected):
    for folder in folders:
        save(tmp_path / folder / "a.png")
    with pytest.raises(UserError, match=expected):
        module(tmp_path).data  # noqa: B018


def test_a_class_may_be_named_like_a_part(tmp_path):
    fill(tmp_path, 10, ("train", "plane", "car"))
    assert module(tmp_path).data.class_names == ("car", "plane", "train")


def test_folders_and_pictures_beside_parts_and_classes_are_told(tmp_path, capsys):
    fill(tmp_path / "train", 10)
    fill(tmp_path / "test", 3)
    fill(tmp_path / "unlabelled", 3)
    save(tmp_path / "train" / "loose.png")
    assert counts(module(tmp_path))[2] == 6
    assert capsys.readouterr().err.splitlines() == [
        f"note: {tmp_path}: folders left out, since they are neither train, val nor test: unlabelled",
        f"note: {tmp_path / 'train'}: pictures left out, since they lie in no class's folder: 1",
    ]


def test_a_test_path_of_parts_gives_its_test_part(tmp_path, capsys):
    fill(tmp_path / "it" / "train", 10)
    fill(tmp_path / "it" / "test", 3)
    fill(tmp_path / "other" / "Testing", 4)
    fill(tmp_path / "other" / "Training", 9)
    assert counts(module(tmp_path / "it", test_path=str(tmp_path / "other")))[2] == 8
    assert "its pictures are left out, since data.test_path is the test set" in capsys.readouterr().err
    fill(tmp_path / "more" / "train", 4)
    with pytest.raises(UserError, match=r"data\.test_path: .* has train, but no folder test"):
        module(tmp_path / "it", test_path=str(tmp_path / "more")).data  # noqa: B018


def test_names_of_classes_stay_as_they_are(tmp_path):
    fill(tmp_path, 5, ("1", "01", "007", "1E3"))
    it = module(tmp_path)
    assert set(it.data.class_names) == {"1", "01", "007", "1E3"}
    assert sum(it.part_counts.values()).tolist() == [5] * 4


def test_a_name_composed_and_decomposed_is_one_class(tmp_path):
    fill(tmp_path / "train", 5, ("caf\u00e9", "bar"))
    fill(tmp_path / "train", 7, ("cafe\u0301",))
    fill(tmp_path / "test", 4, ("cafe\u0301", "bar"))
    data = module(tmp_path).data
    assert data.class_names == ("bar", "caf\u00e9")
    assert (data.train_y.bincount().tolist(), data.test_y.bincount().tolist()) == ([5, 12], [4, 4])


def test_pictures_that_would_fill_the_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    fill(tmp_path, 6)
    needed = 12 * 24 * 4
    monkeypatch.setattr("mlp_lightning.data.sources.options.SHARE_OF_MEMORY", 1.0)
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PHYS_PAGES": needed, "SC_PAGE_SIZE": 1}[name])
    assert module(tmp_path).data.n_features == 24
    held = []
    monkeypatch.setattr(
        "mlp_lightning.data.sources.image_folder.open_picture", lambda file: held.append(file) or open_picture(file)
    )
    for options, opened in (({"image_size": [4, 7]}, 0), ({"channels": "rgb"}, 12)):
        held.clear()
        with pytest.raises(
            UserError, match=r"data\.image_size: 12 pictures of \d × \d pixels take 0 MB, must be at most"
        ):
            module(tmp_path, **options).data  # noqa: B018
        assert len(held) == opened
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PHYS_PAGES": needed - 1, "SC_PAGE_SIZE": 1}[name])
    held.clear()
    with pytest.raises(UserError, match="12 pictures of 4 × 6 pixels"):
        module(tmp_path).data  # noqa: B018
    assert len(held) == 1
