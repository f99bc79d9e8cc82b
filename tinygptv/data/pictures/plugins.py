"""Optional decoders: one package per format, imported when the first such picture is read."""

import importlib
import logging
import threading
from types import ModuleType

from tinygptv.data.pictures.formats import Format

logger = logging.getLogger(__name__)

_PACKAGES: dict[Format, str] = {"heic": "pillow_heif", "jxl": "pillow_jxl"}
"""Each package is installed by the extra with the format's name."""

NOTICE = "to read them: pip install"
"""Part of the warning about a missing package; the process that starts decoders searches their logs for it."""

_imported: dict[Format, ModuleType | None] = {}
_lock = threading.Lock()


def plugin(kind: Format) -> ModuleType | None:
    """The package that decodes a format; None if it is not installed, which is logged once."""
    with _lock:
        if kind not in _imported:
            try:
                _imported[kind] = importlib.import_module(_PACKAGES[kind])
            except ImportError:
                _imported[kind] = None
                logger.warning(
                    "pictures of format %s are dropped as unsupported_format; %s 'tinygptv[%s]'",
                    *(kind, NOTICE, kind),
                )
        return _imported[kind]
