"""Decoders that are installed on wish: one package for each format, imported when its first picture comes."""

import importlib
import logging
import threading
from types import ModuleType

from tinygptv.data.pictures.formats import Format

logger = logging.getLogger(__name__)

_PACKAGES: dict[Format, str] = {"heic": "pillow_heif", "jxl": "pillow_jxl"}
"""The extra of ours that installs a package has the format's name."""

NOTICE = "to read them: pip install"
"""In the line that says what is not installed; whoever starts the process that decodes may look for it."""

_imported: dict[Format, ModuleType | None] = {}
_lock = threading.Lock()


def plugin(kind: Format) -> ModuleType | None:
    """The package that reads a format; None if it is not installed, which is logged once."""
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
