"""`python -m erasediff.launch`: the command, for launchers that start a module on every rank (torchrun)."""

import os
import sys

from .cli import main

status = main()
if os.environ.get("WORLD_SIZE", "1") != "1" and "torch" in sys.modules:
    from ..trainer.ranks.collectives import end_process

    end_process(status)
sys.exit(status)
