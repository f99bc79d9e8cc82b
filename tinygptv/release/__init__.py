"""A trained stage → a merged model folder, its int8 variant, and answers from either."""

from typing import Literal, get_args

Layout = Literal["tinygptv", "reference", "peft", "merged"]
"""Layouts that `tinygptv convert` writes. Defined here because the command line must not import torch."""

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
