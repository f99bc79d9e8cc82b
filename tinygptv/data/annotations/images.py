"""The pictures that annotations are about: found under the names a record gives them, and measured."""

import functools
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tinygptv.data.annotations.fields import RejectedError
from tinygptv.data.pictures.formats import PictureError
from tinygptv.data.pictures.frames import read_size
from tinygptv.sample import ImageReference

_REMEMBERED = 2**16  # images; annotations of one image mostly follow each other
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif")


class ImageFolder:
    """Finds images by the names a record may give them; hardly ever asks the disk twice about one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._find = functools.lru_cache(_REMEMBERED)(self._look_up)
        self._size = functools.lru_cache(_REMEMBERED)(_size_of)

    def find(self, *names: str) -> ImageReference:
        """The first of `names` that is there; if none is, the first with another ending. Raises RejectedError."""
        if image := self._find(names):
            return image
        raise RejectedError("missing_image", f"no image {names[0]!r} in {self._folder}")

    def find_coco(self, image_id: int, *names: str) -> ImageReference:
        """A COCO image by `names` or its id, as COCO 2014 and 2017 call it. Raises RejectedError."""
        digits = f"{image_id:012d}.jpg"
        return self.find(*names, f"COCO_train2014_{digits}", f"COCO_val2014_{digits}", digits)

    def check_size(self, image: ImageReference, width: float, height: float) -> None:
        """Raises RejectedError unless the picture is `width` x `height` px, or a scaled copy of one that is."""
        across, down = self._size(image)
        if abs(width * down - height * across) > max(width, height, across, down):
            raise RejectedError("wrong_image_size", f"{image.path} is {across} x {down} px, not {width} x {height}")

    def _look_up(self, names: tuple[str, ...]) -> ImageReference | None:
        if any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in names):
            raise RejectedError("image_outside_folder", f"the image {names[0]!r} lies outside {self._folder}")
        others = (other for name in names for other in _other_endings(name))
        for name in (*names, *others):
            path = self._folder / name
            try:
                if path.is_file():
                    return ImageReference(str(path))
            except OSError:  # a name longer than names can be
                continue
        return None


def with_folder(name: str) -> tuple[str, str]:
    """Lists name images with folders that people who keep only one of them leave out."""
    return name, name.rpartition("/")[2]


def _other_endings(name: str) -> Iterator[str]:
    """Covers and web pictures are often stored in another format than their list says."""
    stem, dot, ending = name.rpartition(".")
    if f"{dot}{ending}".lower() not in _ENDINGS:
        stem = name
    for each in _ENDINGS:
        yield from (stem + each, stem + each.upper())


def _size_of(image: ImageReference) -> tuple[int, int]:
    """As coded: boxes count on pixels that no orientation has turned."""
    try:
        return read_size(Path(image.path))
    except (OSError, PictureError):
        raise RejectedError("unreadable_image", f"{image.path} cannot be read") from None
