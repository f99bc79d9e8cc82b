"""Helpers of these tests are plain modules beside them, for tests and for the ranks they start."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
