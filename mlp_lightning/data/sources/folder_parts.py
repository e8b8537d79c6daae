"""Which folders hold the training, validation and test pictures, and which are classes."""

from pathlib import Path
from typing import NamedTuple

from mlp_lightning.data.images.picture_files import SUFFIXES, visible
from mlp_lightning.data.notes import note
from mlp_lightning.data.sources.part_names import PartName, part_of
from mlp_lightning.errors import UserError


class FolderParts(NamedTuple):
    """Folders of classes: of the whole set, or of its parts."""

    train: Path
    val: Path | None = None
    test: Path | None = None


def folder_parts(root: Path, option: str = "root") -> FolderParts:
    """The parts of a set by the names of its folders; ``root`` alone where these are classes.

    They are parts if two of them are named so, such as ``train`` and ``test``, or if one is named ``train`` and holds
    folders. Others beside them are left out, with a note.

    Raises:
        UserError: there are two folders for a part, or none for the training part.
    """
    parts: dict[PartName, list[Path]] = {}
    others = []
    for folder in folders_in(root):
        part = part_of(folder.name)
        if part is None:
            others.append(folder)
        else:
            parts.setdefault(part, []).append(folder)
    trains = parts.get("train", [])
    if len(parts) < 2 and not any(folders_in(folder) for folder in trains):
        return FolderParts(root)
    for part, folders in parts.items():
        if len(folders) > 1:
            names = " and ".join(folder.name for folder in folders)
            raise UserError(f"data.{option}: {root} has {names}, must have one folder for the {part} part")
    if not trains:
        names = " and ".join(folder.name for folders in parts.values() for folder in folders)
        raise UserError(f"data.{option}: {root} has {names}, but no folder train; must have one, or folders of classes")
    if others:
        names = ", ".join(folder.name for folder in others)
        note(f"{root}: folders left out, since they are neither train, val nor test: {names}")
    found = {part: folders[0] for part, folders in parts.items()}
    return FolderParts(found["train"], found.get("val"), found.get("test"))


def class_folders(folder: Path) -> list[Path]:
    """The folders of the classes; a note says how many pictures lie beside them.

    Raises:
        UserError: there are none, or they hold the parts of the set, which must hold the classes instead.
    """
    classes = folders_in(folder)
    if not classes:
        raise UserError(f"data.root: {folder} has no folders, must have a folder of pictures for each class")
    for each in classes:
        parts = {part: inner.name for inner in folders_in(each) if (part := part_of(inner.name)) is not None}
        if len(parts) > 1:
            raise UserError(
                f"data.root: {each} holds {' and '.join(sorted(parts.values()))}; train, val and test must hold a "
                "folder for each class, and not each class these"
            )
    loose = sum(path.suffix.lower() in SUFFIXES and path.is_file() for path in visible(folder.iterdir()))
    if loose:
        note(f"{folder}: pictures left out, since they lie in no class's folder: {loose}")
    return classes


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, in order; hidden ones are left out."""
    try:
        return [path for path in visible(folder.iterdir()) if path.is_dir()]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
