"""peft as we use it."""

import subprocess
import sys

_ATTACH = """
import sys
import torch
from tinygptv.models.lora import LoraConfig, LoraLayer, inject_adapter_in_model

model = inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"]), torch.nn.Sequential(torch.nn.Linear(4, 4)))
assert isinstance(model[0], LoraLayer)
assert "bitsandbytes" not in sys.modules
import bitsandbytes
"""


def test_adapters_are_attached_without_the_library_of_4_bits_which_is_there_for_others() -> None:
    done = subprocess.run([sys.executable, "-c", _ATTACH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
