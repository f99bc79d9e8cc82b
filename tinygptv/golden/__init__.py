"""Golden cases: what a published implementation computed, recorded as data, against what we compute.

A case is one stage of one model family. A family's folder holds `backbones/`, `tokenizer/` and the stages' folders;
only its layout is known here: sizes, parts and texts come from the files themselves.
"""

from tinygptv.golden.checks import Outcome, check_folder

__all__ = ["Outcome", "check_folder"]
