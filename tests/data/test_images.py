"""The image transform equals the published one to the last bit, whatever the file."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from tinygptv.data.batching import Batch
from tinygptv.data.images import ImageReader, decode
from tinygptv.data.normalising import normalise
from tinygptv.definitions.recipe import Decoding
from tinygptv.errors import DataError
from tinygptv.sample import ImageReference


def published_transform(image: Image.Image, side: int) -> torch.Tensor:
    """`Resize((s, s), BICUBIC)`, `ToTensor`, `Normalize` of torchvision, restated in torch."""
    resized = np.array(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))
    values = torch.from_numpy(resized).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    return values.sub_(mean).div_(torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1))


def encoded(mode: str, format_name: str, size: tuple[int, int] = (50, 31)) -> bytes:
    pixels = np.random.default_rng(7).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, format_name)
    return stream.getvalue()


@pytest.mark.parametrize("side", [28, 48, 224])
@pytest.mark.parametrize(
    ("mode", "format_name"),
    [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "GIF"), ("1", "PNG"), ("RGB", "WEBP")],
)
def test_every_kind_of_file_is_seen_as_the_reference_sees_it(mode: str, format_name: str, side: int) -> None:
    data = encoded(mode, format_name)
    ours = normalise(torch.from_numpy(decode(data, side, "here")[None]))[0]
    assert torch.equal(ours, published_transform(Image.open(io.BytesIO(data)), side))


def test_photographs_are_seen_as_the_reference_sees_them(shared: Path) -> None:
    photographs = sorted((shared / "data" / "images" / "coco" / "val2014").glob("*.jpg"))
    assert photographs
    for path in photographs:
        ours = normalise(torch.from_numpy(decode(path.read_bytes(), 448, path.name)[None]))[0]
        assert torch.equal(ours, published_transform(Image.open(path), 448))


def test_photographs_are_seen_as_clips_own_processor_sees_them_without_its_crop(shared: Path) -> None:
    """An implementation that is not ours: transformers' image processor on Pillow, told not to crop."""
    processor = CLIPImageProcessorPil(
        size={"height": 224, "width": 224}, resample=Image.Resampling.BICUBIC, do_center_crop=False
    )
    photographs = sorted((shared / "data" / "images" / "full_size").glob("*.*"))
    assert photographs
    for path in photographs:
        ours = normalise(torch.from_numpy(decode(path.read_bytes(), 224, path.name)[None]))[0].numpy()
        (theirs,) = processor(Image.open(path).convert("RGB"), return_tensors="np")["pixel_values"]
        assert np.abs(ours - theirs).max() < 1e-5


@pytest.mark.parametrize("side", [224, 448])
def test_the_fast_way_gives_photographs_a_rounding_step_away(shared: Path, side: int) -> None:
    """Those among them that this Pillow scales columns first differ by more; no more than resizing in another order."""
    photographs = sorted((shared / "data" / "images" / "coco" / "val2014").glob("*.jpg"))
    assert photographs
    for path in photographs:
        data = path.read_bytes()
        fast, exact = (decode(data, side, path.name, how).astype(int) for how in ("fast", "exact"))
        with Image.open(path) as image:
            wide = image.width >= image.height
        assert np.abs(fast - exact).max() <= (2 if wide else 12)
        assert 10 * np.log10(255**2 / ((fast - exact) ** 2).mean()) >= (70 if wide else 50)


@pytest.mark.parametrize(
    ("mode", "format_name"),
    [("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "GIF"), ("1", "PNG"), ("RGB", "WEBP")],
)
def test_what_is_no_ordinary_jpeg_is_decoded_exactly_by_the_fast_way_too(mode: str, format_name: str) -> None:
    data = encoded(mode, format_name)
    assert np.array_equal(decode(data, 48, "here", "fast"), decode(data, 48, "here"))


def test_a_grey_jpeg_is_grey_by_the_fast_way_too() -> None:
    fast = decode(encoded("L", "JPEG"), 48, "here", "fast").astype(int)
    assert np.abs(fast - decode(encoded("L", "JPEG"), 48, "here")).max() <= 2
    assert (fast[0] == fast[2]).all()


def test_a_jpeg_of_too_many_pixels_is_refused_by_the_fast_way_too() -> None:
    data = bytearray(encoded("RGB", "JPEG"))
    size = data.index(b"\xff\xc0") + 5
    data[size : size + 4] = (65500).to_bytes(2) * 2
    with pytest.raises(DataError, match=r"bomb, key7: \d+ bytes that do not decode as an image \(Image size"):
        decode(bytes(data), 8, "bomb, key7", "fast")


def test_an_image_turned_by_exif_is_not_turned_back() -> None:
    image = Image.fromarray(np.arange(12 * 8 * 3, dtype=np.uint8).reshape(8, 12, 3))
    exif = image.getexif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif)
    as_stored = np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.array_equal(decode(stream.getvalue(), 8, "here"), as_stored)


@pytest.mark.parametrize(
    "data", [b"", b"<html>gone</html>", encoded("RGB", "JPEG")[:200], encoded("RGB", "PNG")[:-40]], ids=range(4)
)
@pytest.mark.parametrize("decoding", ["exact", "fast"])
def test_bytes_that_are_no_image_are_named(data: bytes, decoding: Decoding) -> None:
    with pytest.raises(DataError, match=r"00003.tar, key7: \d+ bytes that do not decode"):
        decode(data, 8, "00003.tar, key7", decoding)


def test_an_image_inside_a_shard_is_read_from_its_offset(tmp_path: Path) -> None:
    data, shard = encoded("RGB", "JPEG"), tmp_path / "00000.tar"
    shard.write_bytes(b"x" * 512 + data + b"x" * 100)
    pixels = ImageReader(16).read(ImageReference(str(shard), 512, len(data)), "key")
    assert np.array_equal(pixels, decode(data, 16, "here"))


def test_a_truncated_shard_is_named_with_the_key(tmp_path: Path) -> None:
    shard = tmp_path / "00000.tar"
    shard.write_bytes(b"x" * 600)
    with pytest.raises(DataError, match=r"00000.tar, key7: only 88 of 200 bytes at offset 512.*truncated"):
        ImageReader(16).read(ImageReference(str(shard), 512, 200), "key7")


def test_a_missing_image_is_named_with_the_key(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.jpg, key7: no such image file"):
        ImageReader(16).read(ImageReference(str(tmp_path / "gone.jpg")), "key7")


def test_the_cache_keeps_what_was_used_last_and_no_more_than_fits(tmp_path: Path) -> None:
    images = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        path.write_bytes(encoded("RGB", "PNG", (20 + number, 20)))
        images.append(ImageReference(str(path)))
    reader = ImageReader(8, cache_bytes=2 * 8 * 8 * 3)
    kept, dropped = reader.read(images[0], "a"), reader.read(images[1], "b")
    assert reader.read(images[0], "a") is kept
    reader.read(images[2], "c")
    assert reader.read(images[0], "a") is kept
    again = reader.read(images[1], "b")
    assert again is not dropped
    assert np.array_equal(again, dropped)


def test_a_picture_that_is_kept_outlives_the_memory_it_was_decoded_in(tmp_path: Path) -> None:
    images = []
    for number, size in enumerate([(50, 31), (64, 64)]):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(encoded("RGB", "JPEG", size))
        images.append(ImageReference(str(path)))
    reader = ImageReader(8, "fast")
    read = [reader.read(image, "key") for image in images]
    for image, pixels in zip(images, read, strict=True):
        assert np.array_equal(pixels, decode(Path(image.path).read_bytes(), 8, "here", "fast"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_byte_becomes_the_value_that_the_published_transform_gives_it(dtype: torch.dtype) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    picture = Image.fromarray(pixels[0].permute(1, 2, 0).numpy().copy())
    batch = Batch(pixels, *[torch.zeros(2, 1)] * 3)
    assert torch.equal(batch.images(dtype=dtype), published_transform(picture, 16).to(dtype).expand(2, 3, 16, 16))


def test_no_pictures_have_no_values() -> None:
    assert normalise(torch.empty(0, 3, 8, 8, dtype=torch.uint8)).shape == (0, 3, 8, 8)
