"""What the look at near copies finds and what it confuses: distinct pictures of one layout, and harmless changes.

    python benchmarks/near_copies.py

Layouts are drawn: families of pictures that differ only in what is written or drawn on them; none is a copy of another.
Photographs are those beside the checkout. Each is changed as hosts change pictures, stored as a download stores it, and
held against its original as the filter does: hashes within four bits, then a look. `hash` is the share of copies with
near hashes, the most that a look can confirm; `means` is what the means of 16 x 16 colours alone would confirm; `look`
is what is confirmed. The tables are in docs/near_copies.md.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from comparison import PHOTOGRAPHS
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from tinygptv.data.pictures.likeness import Look, is_like_any, look
from tinygptv.data.pictures.phash import distance
from tinygptv.data.pictures.storing import store_picture
from tinygptv.definitions.source import Download

WITHIN = 4
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono")
WORDS = [
    *("river", "mountain", "table", "green", "walk", "paper", "lamp", "window", "circle"),
    *("bread", "ocean", "quiet", "engine", "seven", "market", "garden", "stone"),
]
CYRILLIC = ["река", "гора", "стол", "лампа", "окно", "хлеб", "море", "двигатель", "рынок", "сад", "камень", "письмо"]
MOST_DIFFERENCE = 8.0


class Stored(NamedTuple):
    """What is compared of a stored picture."""

    phash: int
    look: Look


def font(size: int, number: int = 0) -> ImageFont.FreeTypeFont:
    """One of four fonts, which hold Latin, Greek, Cyrillic, Hebrew and Arabic letters."""
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts/ttf" / f"{FONTS[number % 4]}.ttf"), size)


def canvas(width: int, height: int, colour: str | tuple[int, ...]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty picture."""
    picture = Image.new("RGB", (width, height), colour)
    return picture, ImageDraw.Draw(picture)


def sign(number: int) -> Image.Image:
    """A speed limit."""
    picture, draw = canvas(400, 400, (0, 90, 0))
    draw.ellipse([40, 40, 360, 360], fill="white", outline="red", width=30)
    draw.text((200, 200), str(5 * (number + 1)), fill="black", font=font(90, number // 20), anchor="mm")
    return picture


def calendar(number: int) -> Image.Image:
    """A leaf of a calendar."""
    picture, draw = canvas(400, 500, "white")
    draw.rectangle([0, 0, 400, 110], fill=(190, 30, 30))
    draw.text((120, 30), "March", fill="white", font=font(50))
    draw.text((200, 290), str(number + 1), fill="black", font=font(130), anchor="mm")
    return picture


def slide(number: int) -> Image.Image:
    """Four lines below a title."""
    chance, (picture, draw) = np.random.default_rng(number), canvas(640, 480, (20, 40, 110))
    draw.rectangle([0, 0, 640, 70], fill=(240, 180, 40))
    draw.text((30, 22), "Quarterly numbers", fill="black", font=font(28))
    words = CYRILLIC if number % 2 else WORDS
    for line in range(4):
        draw.text((60, 120 + 70 * line), "- " + " ".join(chance.choice(words, 4)), fill="white", font=font(22))
    return picture


def label(number: int) -> Image.Image:
    """A packet with one word."""
    picture, draw = canvas(500, 500, "white")
    draw.rounded_rectangle([150, 90, 350, 420], 20, fill=(200, 200, 205), outline="gray", width=3)
    word = (WORDS + CYRILLIC + ["שמן", "מלח", "ملح", "زيت"])[number]
    draw.text((250, 250), word.upper()[:5], fill="black", font=font(48), anchor="mm")
    return picture


def product(number: int) -> Image.Image:
    """A shaded box with a small model number."""
    chance, (picture, draw) = np.random.default_rng(number), canvas(600, 600, "white")
    for row in range(320):
        draw.line([140, 150 + row, 460, 150 + row], fill=(60 + row // 4, 70 + row // 4, 90 + row // 4))
    draw.ellipse([220, 200, 380, 360], fill=(30, 30, 34), outline=(120, 120, 120), width=4)
    draw.text(
        (300, 420),
        f"{chance.choice(['XR', 'GT', 'MK'])}-{chance.integers(100, 999)}",
        fill="white",
        font=font(30),
        anchor="mm",
    )
    return picture


def fine_print(number: int) -> Image.Image:
    """A box with a model number as small as can be read."""
    picture, draw = canvas(640, 640, "white")
    draw.rounded_rectangle([120, 140, 520, 500], 30, fill=(70, 75, 85))
    draw.text((320, 430), f"MODEL X{100 + 7 * number}", fill="white", font=font(18), anchor="mm")
    return picture


def jersey(number: int) -> Image.Image:
    """A shirt with a number."""
    picture, draw = canvas(500, 560, (235, 235, 235))
    draw.polygon(
        [(120, 80), (380, 80), (470, 180), (400, 230), (390, 500), (110, 500), (100, 230), (30, 180)],
        fill=(20, 60, 170),
    )
    draw.text((250, 300), str(number + 1), fill="white", font=font(120, 1), anchor="mm")
    return picture


def plate(number: int) -> Image.Image:
    """A licence plate."""
    chance, (picture, draw) = np.random.default_rng(number), canvas(520, 240, (90, 90, 95))
    draw.rounded_rectangle([40, 60, 480, 180], 12, fill="white", outline="black", width=4)
    draw.rectangle([44, 64, 84, 176], fill=(0, 50, 160))
    text = "".join(chance.choice(list("ABCDEFGHKLMNPRSTUVXYZ"), 2)) + f" {chance.integers(1000, 9999)}"
    draw.text((280, 120), text, fill="black", font=font(70, 3), anchor="mm")
    return picture


def chart(number: int) -> Image.Image:
    """Bars of another height."""
    chance, (picture, draw) = np.random.default_rng(number // 2), canvas(640, 480, "white")
    draw.line([60, 40, 60, 430, 610, 430], fill="black", width=3)
    heights = chance.integers(100, 360, 8)
    heights[3] += 30 * (number % 2)
    for bar, height in enumerate(heights.tolist()):
        draw.rectangle([85 + 64 * bar, 430 - height, 125 + 64 * bar, 428], fill=(50, 110, 190))
    return picture


def line_chart(number: int) -> Image.Image:
    """A curve over a grid."""
    chance, (picture, draw) = np.random.default_rng(number), canvas(640, 480, "white")
    for step in range(9):
        draw.line([60, 40 + 48 * step, 610, 40 + 48 * step], fill=(210, 210, 210))
    values = 240 + np.cumsum(chance.normal(0, 14, 40))
    draw.line([(60 + 14 * x, float(y)) for x, y in enumerate(values)], fill=(200, 40, 40), width=3)
    return picture


def map_pin(number: int) -> Image.Image:
    """One map, the pin at another place."""
    chance, (picture, draw) = np.random.default_rng(0), canvas(600, 450, (235, 230, 215))
    for _ in range(30):
        ends = chance.integers(0, 600, 4).tolist()
        draw.line(ends, fill=(255, 255, 255), width=8)
    draw.polygon([(0, 300), (200, 340), (420, 280), (600, 330), (600, 380), (0, 360)], fill=(150, 190, 230))
    x, y = np.random.default_rng(number + 1).integers([40, 40], [560, 410]).tolist()
    draw.ellipse([x - 14, y - 14, x + 14, y + 14], fill=(210, 30, 30))
    return picture


def meme(number: int) -> Image.Image:
    """One photograph-like template with another line of text."""
    chance = np.random.default_rng(7)
    picture = Image.fromarray(chance.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        (640, 480), Image.Resampling.BICUBIC
    )
    text = " ".join(np.random.default_rng(number).choice(WORDS, 3)).upper()
    ImageDraw.Draw(picture).text(
        (320, 430), text, fill="white", font=font(34, 1), anchor="mm", stroke_width=3, stroke_fill="black"
    )
    return picture


def screenshot(number: int) -> Image.Image:
    """A form in which one field differs."""
    picture, draw = canvas(800, 600, (246, 246, 248))
    draw.rectangle([0, 0, 800, 48], fill=(45, 50, 60))
    for row in range(6):
        draw.text(
            (60, 90 + 78 * row),
            ["Name", "Street", "City", "Order", "Amount", "Date"][row],
            fill=(60, 60, 60),
            font=font(20),
        )
        draw.rectangle([240, 82 + 78 * row, 720, 122 + 78 * row], fill="white", outline=(180, 180, 190))
    draw.text(
        (256, 90 + 78 * 4), f"{np.random.default_rng(number).integers(100, 9999)}.00 EUR", fill="black", font=font(22)
    )
    return picture


def comic(number: int) -> Image.Image:
    """Two figures, another word in the bubble."""
    picture, draw = canvas(480, 480, (250, 240, 200))
    for x, colour in ((90, (200, 80, 60)), (320, (70, 90, 190))):
        draw.ellipse([x, 220, x + 80, 300], fill=(240, 200, 170), outline="black", width=3)
        draw.rectangle([x, 300, x + 80, 470], fill=colour, outline="black", width=3)
    draw.ellipse([60, 40, 420, 180], fill="white", outline="black", width=3)
    draw.text(
        (240, 110),
        f"{WORDS[number % 17]} {WORDS[(number * 5 + 3) % 17]}!",
        fill="black",
        font=font(30, number),
        anchor="mm",
    )
    return picture


def scoreboard(number: int) -> Image.Image:
    """A score and a clock."""
    chance, (picture, draw) = np.random.default_rng(number), canvas(640, 360, (15, 15, 20))
    draw.text((120, 60), "HOME", fill="white", font=font(44), anchor="mm")
    draw.text((520, 60), "GUEST", fill="white", font=font(44), anchor="mm")
    for x in (120, 520):
        draw.text((x, 170), str(chance.integers(0, 10)), fill=(255, 180, 0), font=font(110, 3), anchor="mm")
    draw.text(
        (320, 290),
        f"{chance.integers(0, 60):02}:{chance.integers(0, 60):02}",
        fill=(255, 60, 40),
        font=font(60, 3),
        anchor="mm",
    )
    return picture


def shirt_colour(number: int) -> Image.Image:
    """One shirt in other colours, some of them of equal brightness."""
    picture, draw = canvas(500, 560, "white")
    colour = [(200, 40, 40), (40, 105, 40), (60, 70, 230), (89, 89, 89), (120, 75, 60), (150, 60, 130)][number]
    draw.polygon(
        [(120, 80), (380, 80), (470, 180), (400, 230), (390, 500), (110, 500), (100, 230), (30, 180)], fill=colour
    )
    return picture


FAMILIES: list[tuple[Callable[[int], Image.Image], int]] = [
    *((each, 20) for each in (sign, calendar, slide, label, product, jersey, plate, chart, line_chart, map_pin, meme)),
    *((each, 20) for each in (screenshot, comic, scoreboard)),
    (fine_print, 20),
    (shirt_colour, 6),
]


def coded(kind: str, **options: object) -> Callable[[Image.Image], bytes]:
    """As a file."""

    def save(picture: Image.Image) -> bytes:
        stream = io.BytesIO()
        picture.save(stream, kind, **options)
        return stream.getvalue()

    return save


def changed(change: Callable[[Image.Image], Image.Image]) -> Callable[[Image.Image], bytes]:
    """Changed, then coded as most hosts do."""
    return lambda picture: coded("JPEG", quality=85)(change(picture))


def scaled(across: float, down: float) -> Callable[[Image.Image], bytes]:
    """Another size."""
    return changed(
        lambda one: one.resize((round(one.width * across), round(one.height * down)), Image.Resampling.LANCZOS)
    )


def cropped(share: float) -> Callable[[Image.Image], bytes]:
    """The middle of a picture."""

    def crop(one: Image.Image) -> Image.Image:
        left, top = round(one.width * (1 - share) / 2), round(one.height * (1 - share) / 2)
        return one.crop((left, top, one.width - left, one.height - top))

    return changed(crop)


def with_logo(share: float) -> Callable[[Image.Image], bytes]:
    """A small white mark with a black word in a corner."""

    def mark(one: Image.Image) -> Image.Image:
        one, width, height = one.copy(), round(one.width * share), round(one.height * share / 2)
        box = [one.width - width - 6, one.height - height - 6, one.width - 6, one.height - 6]
        ImageDraw.Draw(one).rectangle(box, fill="white")
        ImageDraw.Draw(one).text(
            (box[0] + 2, box[1]), "photos.example", fill="black", font=font(max(height * 2 // 3, 8))
        )
        return one

    return changed(mark)


def gamma(power: float) -> Callable[[Image.Image], bytes]:
    """Another tone curve."""
    return changed(lambda one: one.point([round(255 * (value / 255) ** power) for value in range(256)] * 3))


CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG, quality 95": coded("JPEG", quality=95),
    "JPEG, quality 50": coded("JPEG", quality=50),
    "JPEG, quality 30": coded("JPEG", quality=30),
    "JPEG, colours at full size": coded("JPEG", quality=80, subsampling=0),
    "PNG": coded("PNG"),
    "WebP, quality 60": coded("WEBP", quality=60),
    "scaled to 0.3": scaled(0.3, 0.3),
    "scaled to 0.5": scaled(0.5, 0.5),
    "scaled to 2": scaled(2, 2),
    "2 % wider": scaled(1.02, 1),
    "10 % wider": scaled(1.1, 1),
    "cropped to 99 %": cropped(0.99),
    "cropped to 97 %": cropped(0.97),
    "cropped to 95 %": cropped(0.95),
    "border of 2 px": changed(lambda one: ImageOps.expand(one, 2, "white")),
    "border of 3 %": changed(lambda one: ImageOps.expand(one, one.width * 3 // 100, "white")),
    "brightness 90 %": changed(lambda one: ImageEnhance.Brightness(one).enhance(0.9)),
    "brightness 110 %": changed(lambda one: ImageEnhance.Brightness(one).enhance(1.1)),
    "contrast 90 %": changed(lambda one: ImageEnhance.Contrast(one).enhance(0.9)),
    "contrast 110 %": changed(lambda one: ImageEnhance.Contrast(one).enhance(1.1)),
    "colour 80 %": changed(lambda one: ImageEnhance.Color(one).enhance(0.8)),
    "gamma 0.9": gamma(0.9),
    "gamma 1.1": gamma(1.1),
    "sharpened": changed(lambda one: one.filter(ImageFilter.UnsharpMask(2, 100, 0))),
    "blurred by 1 px": changed(lambda one: one.filter(ImageFilter.GaussianBlur(1))),
    "blurred by 2 px": changed(lambda one: one.filter(ImageFilter.GaussianBlur(2))),
    "grey": changed(lambda one: one.convert("L").convert("RGB")),
    "logo of 8 % in a corner": with_logo(0.08),
    "logo of 20 % in a corner": with_logo(0.2),
}


def stored(body: bytes) -> Stored:
    """A file, stored as a download stores it."""
    picture = store_picture(body, Download(min_side=1, max_aspect=100.0))
    return Stored(picture.phash, look(picture.jpeg))


def is_near(one: Stored, other: Stored) -> bool:
    """By the hash."""
    return distance(one.phash, other.phash) <= WITHIN


def confirmed_by_means(one: Stored, other: Stored) -> bool:
    """By the hash and the means of colours."""
    difference = one.look.colours.astype(np.float32) - other.look.colours
    return is_near(one, other) and bool(np.sqrt(np.square(difference).mean()) <= MOST_DIFFERENCE)


def confirmed_by_look(one: Stored, other: Stored) -> bool:
    """By the hash and the look, as the filter does."""
    return is_near(one, other) and is_like_any(one.look, other.look.colours[None], lambda _: other.look.detail)


WAYS = (is_near, confirmed_by_means, confirmed_by_look)


def dropped(pictures: list[Stored], is_copy: Callable[[Stored, Stored], bool]) -> int:
    """How many are copies of a survivor, one after the other."""
    survivors: list[Stored] = []
    for picture in pictures:
        if not any(is_copy(picture, survivor) for survivor in survivors):
            survivors.append(picture)
    return len(pictures) - len(survivors)


def photographs() -> list[bytes]:
    """All that are none of another's copies."""
    paths = sorted(path for path in PHOTOGRAPHS.rglob("*.jpg") if "repo_fixtures" not in str(path))
    return [path.read_bytes() for path in paths]


def main() -> None:
    """Print both tables."""
    print("| distinct pictures | number | dropped by hash | by means | by look |\n|---|---|---|---|---|")
    files = {draw.__name__: [coded("PNG")(draw(number)) for number in range(count)] for draw, count in FAMILIES}
    layouts = [body for bodies in files.values() for body in bodies[::5]]
    real = photographs()
    totals = np.zeros(len(WAYS), int)
    for name, bodies in (files | {"photographs": real}).items():
        pictures = [stored(body) for body in bodies]
        counts = [dropped(pictures, way) for way in WAYS]
        totals += counts
        print(f"| {name.replace('_', ' ')} | {len(bodies)} | {' | '.join(map(str, counts))} |")
    print(f"| all | {sum(map(len, files.values())) + len(real)} | {' | '.join(map(str, totals))} |\n")

    print("| change | photographs: hash | means | look | layouts: hash | means | look |\n|---|---|---|---|---|---|---|")
    originals = [[(body, stored(body)) for body in bodies] for bodies in (real[::12], layouts)]
    for name, change in CHANGES.items():
        shares = []
        for those in originals:
            pairs = [(one, stored(change(Image.open(io.BytesIO(body)).convert("RGB")))) for body, one in those]
            shares += [f"{sum(way(*pair) for pair in pairs) / max(len(pairs), 1):.0%}" for way in WAYS]
        print(f"| {name} | {' | '.join(shares)} |")


if __name__ == "__main__":
    main()
