"""`python -m erasediff.launch`: the command, for launchers that start a module on every rank (torchrun)."""

import sys

from .cli import main

sys.exit(main())
