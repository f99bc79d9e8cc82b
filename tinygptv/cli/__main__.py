"""`python -m tinygptv.cli`: the command line without its script."""

import sys

from tinygptv.cli.main import main

sys.exit(main())
