"""What is shown of a sample is what training reads of it: every token, and whether it is learned."""

import base64
import io
import re
from pathlib import Path

from PIL import Image
from transformers import PreTrainedTokenizerFast

from tinygptv.data.batches.showing import Piece, Shown, line, pieces, write_gallery
from tinygptv.data.prompting.prompts import render
from tinygptv.data.prompting.sequences import Sequences
from tinygptv.definitions.recipe import Inputs
from tinygptv.sample import ImageReference, Sample, Turn

INPUTS = Inputs(image_size=16, max_text_tokens=99, template="[INST] {} [/INST]", end_symbol="###")


def shown(tokenizer: PreTrainedTokenizerFast, image: Path) -> Shown:
    turns = (Turn("[refer] the dog", "{<25><50><75><100>}"), Turn("Who\nis it?", "<b>me</b>"))
    sample = Sample("a\nkey", (ImageReference(str(image)),), turns, boxes=((0.25, 0.5, 0.75, 1.0),))
    texts = Sequences(tokenizer, INPUTS, 4).training([render(sample, "conversation", INPUTS)])
    return Shown("made_up", "conversation", sample.key, pieces(texts, tokenizer), sample.images, sample.boxes)


def test_tokens_are_cut_where_their_treatment_changes(byte_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    begin = byte_tokenizer.bos_token
    one = shown(byte_tokenizer, tmp_path / "picture.png")
    assert one.pieces == [
        Piece("masked", f"{begin}[INST] <Img>"),
        Piece("image", "4 image tokens"),
        Piece("masked", "</Img> [refer] the dog [/INST]"),
        Piece("learned", "{<25><50><75><100>}###"),
        Piece("masked", f"{begin}[INST] Who⏎is it? [/INST]"),
        Piece("learned", "<b>me</b>###"),
    ]
    assert "«{<25><50><75><100>}###»" in line(one, coloured=False)
    assert line(one, coloured=False).startswith("made_up conversation a⏎key\n    ")
    assert line(one, coloured=False).count("\n") == 1
    coloured = line(one, coloured=True)
    assert "\x1b[1;32m{<25><50><75><100>}###\x1b[0m" in coloured
    assert "\x1b[2m</Img> [refer] the dog [/INST]\x1b[0m" in coloured


def test_the_page_draws_the_boxes_and_escapes_what_strangers_wrote(
    byte_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    Image.new("RGB", (400, 200), "white").save(tmp_path / "picture.png")
    write_gallery(tmp_path / "page.html", "a title", [shown(byte_tokenizer, tmp_path / "picture.png")])
    page = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;me&lt;/b&gt;###" in page
    (data,) = re.findall(r"base64,([A-Za-z0-9+/=]+)", page)
    with Image.open(io.BytesIO(base64.b64decode(data))) as drawn:
        picture = drawn.convert("RGB")
    width, height = picture.size
    on_the_edge = picture.getpixel((width // 4, 3 * height // 4))
    inside = picture.getpixel((width // 2, 3 * height // 4))
    assert isinstance(on_the_edge, tuple)
    assert isinstance(inside, tuple)
    assert on_the_edge[2] < 120
    assert min(inside) > 220


def test_a_picture_that_cannot_be_read_does_not_end_the_page(
    byte_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (tmp_path / "page.png").write_text("<html>gone</html>")
    write_gallery(tmp_path / "page.html", "a title", [shown(byte_tokenizer, tmp_path / "page.png")])
    assert "picture not readable" in (tmp_path / "page.html").read_text()
