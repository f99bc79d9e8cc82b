"""The layouts that `tinygptv convert` writes."""

from typing import Literal, get_args

Layout = Literal["tinygptv", "reference", "peft", "merged"]
"""A folder a stage starts from, the published code's `.pth`, an adapter folder of PEFT, a release with its decoder."""

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
