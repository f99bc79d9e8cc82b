"""The image transform equals the published one to the last bit for ordinary files; others are seen as curation stores
them, or refused as it refuses them."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from tinygptv.data.batches.batching import Batch
from tinygptv.data.pictures.formats import PictureError
from tinygptv.data.pictures.normalising import normalise
from tinygptv.data.pictures.pixels import ImageReader, decode
from tinygptv.data.pictures.storing import store_picture
from tinygptv.definitions.recipe import Decoding
from tinygptv.definitions.source import Download
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
    with pytest.raises(DataError, match=r"bomb, key7: \d+ bytes that do not decode as an image \(too_many_pixels\)"):
        decode(bytes(data), 8, "bomb, key7", "fast")


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def ramp(mode: str = "RGB") -> Image.Image:
    """Dark at the left, bright at the right, with a red corner where there are colours."""
    image = Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))).convert("RGB")
    image.paste((220, 20, 20), (0, 0, 16, 12))
    return image.convert(mode)


def half_transparent(mode: str = "RGBA") -> Image.Image:
    """The ramp, black and transparent on its right half: white to whoever looks."""
    image = ramp("RGBA")
    image.paste((0, 0, 0, 0), (32, 0, 64, 48))
    return image.convert(mode)


def sixteen_bits() -> np.ndarray:
    return np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (48, 1))


def sixteen_bit_colours() -> bytes:
    """A PNG of 16 bits a channel, with alpha; Pillow writes none."""
    levels = sixteen_bits()
    opaque = np.where(np.arange(64) < 32, 65535, 0).astype(np.uint16) + np.zeros_like(levels)
    rows = np.stack([levels, levels[:, ::-1], levels, opaque], axis=-1).astype(">u2").tobytes()
    lines = b"".join(b"\0" + rows[start : start + 512] for start in range(0, len(rows), 512))
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", 64, 48, 16, 6, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    )
    chunks = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def small_frame() -> bytes:
    """A GIF whose screen is larger than its frame."""
    body = bytearray(saved(ramp("P").crop((0, 0, 40, 30)), "GIF"))
    body[6:10] = struct.pack("<HH", 64, 48)
    return bytes(body)


UNUSUAL = {
    "grey of 16 bits": saved(Image.fromarray(sixteen_bits()), "PNG"),
    "colours of 16 bits and alpha": sixteen_bit_colours(),
    "a TIFF of 16 bits": saved(Image.fromarray(sixteen_bits()), "TIFF"),
    "a TIFF of 16 bits, white is zero": saved(Image.fromarray(sixteen_bits()), "TIFF", tiffinfo={262: 0}),
    "alpha": saved(half_transparent(), "PNG"),
    "grey and alpha": saved(half_transparent("LA"), "PNG"),
    "a transparent colour of a palette": saved(ramp("P"), "PNG", transparency=0),
    "a transparent grey": saved(ramp("L"), "PNG", transparency=0),
    "a transparent GIF": saved(half_transparent(), "GIF"),
    "a transparent WebP": saved(half_transparent(), "WEBP", lossless=True),
    "a transparent TIFF": saved(half_transparent(), "TIFF"),
    "a transparent AVIF": saved(half_transparent(), "AVIF", quality=100),
    "a GIF that leaves some of its screen": small_frame(),
    "an animation": saved(ramp(), "PNG", save_all=True, append_images=[half_transparent("RGB")]),
    "CMYK": saved(ramp("CMYK"), "JPEG", quality=95),
    "a CMYK TIFF": saved(ramp("CMYK"), "TIFF"),
    "one bit": saved(ramp("1"), "PNG"),
    "a BMP": saved(ramp(), "BMP"),
}


@pytest.mark.parametrize("kind", UNUSUAL)
@pytest.mark.parametrize("decoding", ["exact", "fast"])
def test_an_unusual_picture_is_seen_as_curation_stores_it(kind: str, decoding: Decoding) -> None:
    stored = store_picture(UNUSUAL[kind], Download(image_size=64, min_side=1, jpeg_quality=100)).jpeg
    seen = decode(UNUSUAL[kind], 32, kind, decoding).astype(int)
    assert np.abs(seen - decode(stored, 32, kind)).mean() < 4
    assert 20 < seen.mean() < 235


def test_sixteen_bits_are_scaled_to_eight() -> None:
    seen = decode(UNUSUAL["grey of 16 bits"], 64, "here")
    assert np.array_equal(
        seen, decode(saved(Image.fromarray((sixteen_bits() >> 8).astype(np.uint8)), "PNG"), 64, "here")
    )


def test_what_is_transparent_is_white() -> None:
    seen = decode(UNUSUAL["alpha"], 64, "here")
    assert (seen[:, :, 40:] == 255).all()
    assert seen[:, :, :24].mean() < 128


@pytest.mark.parametrize(
    "data",
    [
        saved(ramp(), "JPEG2000"),
        saved(ramp(), "ICO"),
        b"8BPS\0\1" + bytes(40),
        saved(ramp("F"), "TIFF"),
        saved(ramp(), "PPM"),
        saved(ramp(), "JPEG")[:-200],
        saved(ramp(), "JPEG")[:-2],
        saved(ramp(), "PNG")[:-60],
        saved(ramp(), "GIF")[:400],
        saved(ramp(), "BMP")[:-100],
        saved(ramp(), "JPEG").replace(b"\xff\xc0", b"\xff\xc9", 1),
        b"",
        b"<html>gone</html>",
    ],
    ids=range(13),
)
@pytest.mark.parametrize("decoding", ["exact", "fast"])
def test_what_curation_refuses_is_refused_for_the_same_reason(data: bytes, decoding: Decoding) -> None:
    with pytest.raises(PictureError) as refused:
        store_picture(data, Download(min_side=1))
    with pytest.raises(DataError, match=rf"here: {len(data)} bytes that do not decode .*\({refused.value.reason}[;)]"):
        decode(data, 8, "here", decoding)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {"quality": 100, "subsampling": 0})])
@pytest.mark.parametrize("decoding", ["exact", "fast"])
def test_an_image_turned_by_exif_is_turned_back_only_on_demand(
    kind: str, options: dict[str, Any], decoding: Decoding
) -> None:
    image = ramp()
    exif = image.getexif()
    exif[0x0112] = 6
    data = saved(image, kind, exif=exif, **options)
    as_coded = decode(saved(image, kind, **options), 32, "here", decoding)
    assert np.array_equal(decode(data, 32, "here", decoding), as_coded)
    upright = decode(data, 32, "here", decoding, upright=True).astype(int)
    assert np.abs(upright - np.rot90(as_coded, -1, axes=(1, 2))).max() <= 2
    assert np.array_equal(
        decode(saved(image, kind, **options), 32, "here", upright=True),
        decode(saved(image, kind, **options), 32, "here"),
    )


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
