"""What we use of peft, imported without bitsandbytes.

Where that is installed, peft imports it for the first adapter: two seconds and 60 MB in every process, also in those
that keep no map in 4 bits. Ours need no special adapters (see `nf4`), so peft may believe that it is not there: it asks
once and remembers the answer.
"""

import sys

_HIDDEN = "bitsandbytes"

sys.modules.setdefault(_HIDDEN, None)  # type: ignore[arg-type]
try:
    from peft import LoraConfig, inject_adapter_in_model
    from peft.import_utils import is_bnb_available
    from peft.tuners.lora import LoraLayer
    from peft.utils.other import ModulesToSaveWrapper as SavedModule

    is_bnb_available()
finally:
    if sys.modules[_HIDDEN] is None:
        del sys.modules[_HIDDEN]

__all__ = ["LoraConfig", "LoraLayer", "SavedModule", "inject_adapter_in_model"]
