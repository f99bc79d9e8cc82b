"""Images of annotations: looked up by the names in a record, and measured."""

import functools
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tinygptv.data.annotations.fields import RejectedError
from tinygptv.data.pictures.formats import PictureError
from tinygptv.data.pictures.frames import read_size
from tinygptv.sample import ImageReference

_REMEMBERED = 2**16  # images; annotations of one image are mostly consecutive
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif")


class ImageFolder:
    """Finds images by the names in a record; lookups are cached."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._find = functools.lru_cache(_REMEMBERED)(self._look_up)
        self._size = functools.lru_cache(_REMEMBERED)(_size_of)

    def find(self, *names: str) -> ImageReference:
        """The first of `names` that exists, else the first with another extension. Raises RejectedError."""
        if image := self._find(names):
            return image
        raise RejectedError("missing_image", f"no image {names[0]!r} in {self._folder}")

    def find_coco(self, image_id: int, *names: str) -> ImageReference:
        """A COCO image by `names`, or by its id under the names of COCO 2014 and 2017. Raises RejectedError."""
        digits = f"{image_id:012d}.jpg"
        return self.find(*names, f"COCO_train2014_{digits}", f"COCO_val2014_{digits}", digits)

    def check_size(self, image: ImageReference, width: float, height: float) -> None:
        """Raise RejectedError unless the picture has the aspect of `width` x `height` px, possibly scaled."""
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
            except OSError:  # the name is too long
                continue
        return None


def with_folder(name: str) -> tuple[str, str]:
    """A name with its folder, and without, for folders that hold only one of the published subfolders."""
    return name, name.rpartition("/")[2]


def _other_endings(name: str) -> Iterator[str]:
    """The name with other extensions: book covers and web pictures are often stored in another format than listed."""
    stem, dot, ending = name.rpartition(".")
    if f"{dot}{ending}".lower() not in _ENDINGS:
        stem = name
    for each in _ENDINGS:
        yield from (stem + each, stem + each.upper())


def _size_of(image: ImageReference) -> tuple[int, int]:
    """Size as coded, before orientation, because boxes refer to coded pixels."""
    try:
        return read_size(Path(image.path))
    except (OSError, PictureError):
        raise RejectedError("unreadable_image", f"{image.path} cannot be read") from None
