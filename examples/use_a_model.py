"""Use a released model from Python: load it once, ask it about several pictures.

    python examples/use_a_model.py MODEL '[vqa] what colour is the circle?' picture1.png picture2.png

MODEL is a folder that `tinygptv export` or `tinygptv quantize` made; its path is printed there.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tinygptv.release.answering import answer_all
from tinygptv.release.folder import load_release
from tinygptv.sample import ImageReference, Sample, Turn


def ask(model: Path, question: str, pictures: Sequence[Path], max_new_tokens: int = 64) -> list[str]:
    """The model's answer for each picture, or the reason why there is none."""
    release = load_release(model)
    samples = [
        Sample(picture.name, (ImageReference(str(picture), upright=True),), (Turn(question, ""),))
        for picture in pictures
    ]
    return [str(answer) for answer in answer_all(release, samples, "conversation", max_new_tokens)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one answer per picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("question")
    parser.add_argument("pictures", type=Path, nargs="+")
    options = parser.parse_args(arguments)
    for picture, answer in zip(options.pictures, ask(options.model, options.question, options.pictures), strict=True):
        print(f"{picture}: {answer}")


if __name__ == "__main__":
    main()
