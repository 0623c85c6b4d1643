"""The `erasediff` command: finds the subcommand, reads its options, and turns a user's mistake into one clear line.

Imports nothing heavy, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import os
import sys
from collections.abc import Iterable
from typing import Protocol

from ..shards.errors import DataError
from ..trainer.errors import (
    ConfigError,
    Interrupted,
    LostRankError,
    NotShownError,
    OneRankError,
    TrainingError,
)
from ..trainer.ranks.last_words import leave_word
from .options import parse

EXIT_NOT_SHOWN = 3


class Command(Protocol):
    def run(self) -> None: ...


# name: (module, class of options, one line)
COMMANDS = {
    "demo": ("demo", "Demo", "erase a digit from a model trained here on real digits, and show it"),
    "init": ("init", "Init", "write a commented settings file to start from"),
    "erase": ("erase", "Erase", "carry an erasure request from its list to a published model"),
    "shards build": ("shards", "Build", "make WebDataset shards from images"),
    "shards split": ("shards", "Split", "cut a dataset into a forget and a remain set"),
    "shards verify": ("shards", "Verify", "look for damage in a dataset, and for leaks between two"),
    "shards inspect": ("shards", "Inspect", "count a dataset's samples and draw a contact sheet"),
    "concept generate": ("concept", "Generate", "draw a forget and a remain set with the model, from prompts"),
    "pretrain": ("train", "Pretrain", "train a small diffusion model on a dataset"),
    "scrub": ("train", "Scrub", "erase the forget set's influence from a model"),
    "plan": ("plan", "Plan", "say what memory, traffic and time a scrub will take, without the weights"),
    "bench": ("bench", "Bench", "time a scrub's iterations here, by its settings, and take them apart"),
    "verify-record": ("verify", "VerifyRecord", "look whether a record and its model are what was written"),
    "delta": ("delta", "Delta", "write the tensors that a scrub has changed as one file"),
    "launch local": ("local", "Local", "run a command on several processes of this machine"),
    "launch slurm": ("slurm.submit", "Slurm", "submit a command to a SLURM cluster"),
    "launch sweep": ("slurm.sweep", "Sweep", "submit many runs as an array"),
    "launch status": ("slurm.watch", "Status", "say what became of a run's jobs"),
    "launch logs": ("slurm.watch", "Logs", "show what the ranks of a run's job said, the first error on top"),
    "launch cancel": ("slurm.watch", "Cancel", "end a run's job, saved where it can be"),
    "launch doctor": ("doctor.command", "Doctor", "look whether this machine, or every node of a job, can carry a run"),
    "doctor": ("doctor.command", "Doctor", "the same; so a launcher names it: erasediff launch local -n 2 doctor"),
    "sample": ("evaluate", "Sample", "generate a grid of images"),
    "compare": ("compare", "Compare", "scrub one model by several methods, and write the table"),
    "ablate": ("compare", "Ablate", "the same for a method's options, one changed after the other"),
    "evaluate": ("evaluate", "Evaluate", "measure a scrubbed model beside the one it came from"),
    "completion": ("completion", "Completion", "print a script that completes commands and options in a shell"),
}


def usage(names: Iterable[str] = COMMANDS) -> str:
    lines = ["usage: erasediff COMMAND [OPTIONS]", "", "Remove training data's influence from diffusion models.", ""]
    width = max(map(len, COMMANDS)) + 2
    lines += [f"  {name:<{width}}{COMMANDS[name][2]}" for name in names]
    return "\n".join(
        [*lines, "", "erasediff COMMAND --help lists a command's options; erasediff --version. Pages: docs/README.md."]
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit status.

    0, or 2 for a user's mistake, 1 for a run that could not go on or a threshold that fails, 3 where none fails and
    forgetting is not shown, 75 (EX_TEMPFAIL) for a run that was asked to stop, saved and can be continued, 69
    (EX_UNAVAILABLE) for a rank that lost another one.
    """
    # its notices are of packages that nothing here needs
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    if words == ["--version"]:
        print(f"erasediff {importlib.metadata.version('erasediff')}")
        return 0
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS), None)
    if name is None:
        group = [known for known in COMMANDS if known.startswith(words[0] + " ")]
        if group and words[1:2] in (["-h"], ["--help"]):
            print(usage(group))
            return 0
        asked = " ".join(words[: 2 if group else 1])
        close = [] if asked == words[0] and group else difflib.get_close_matches(asked, COMMANDS, n=1, cutoff=0.7)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(group)}" if group else ""
        return fail(ConfigError(f"no command {asked!r}; {hint or 'erasediff --help lists them'}"), 2)
    module, options, _ = COMMANDS[name]
    rest = words[len(name.split()) :]
    try:
        read(module, options, name, rest).run()
    except (ConfigError, DataError) as error:
        return fail(error, 2)
    except LostRankError as error:
        return fail(error, os.EX_UNAVAILABLE)
    except NotShownError as error:
        return fail(error, EXIT_NOT_SHOWN)
    except TrainingError as error:
        return fail(error, 1)
    except Interrupted as stop:
        return fail(stop, os.EX_TEMPFAIL)
    except KeyboardInterrupt:
        print("erasediff: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # what we print into has closed: head, a pager
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (RuntimeError, MemoryError) as error:
        from ..trainer.bench.memory import is_short

        if not is_short(error):
            raise
        lower = (
            "lower --num-images or --sampling.batch-size"
            if name == "sample"
            else "lower engine.forward_batch_size or judge.sampling.batch_size, set engine.activation_checkpointing = "
            "'all', or raise engine.zero_stage on more ranks; erasediff plan says what fits"
        )
        told = f"out of memory ({str(error).splitlines()[0] if str(error) else type(error).__name__}): {lower}"
        return fail(OneRankError(told), 1)
    except NotADirectoryError as error:
        return fail(ConfigError(f"'{error.filename}': one of its folders is a file: name another"), 2)
    except OSError as error:  # a full disk, a folder that may not be written: the system's own words name it
        return fail(error, 1)
    return 0


def read(module: str, options: str, name: str, words: list[str]) -> Command:
    """The command's options from its words; ConfigError for words it does not know, SystemExit for --help."""
    kind = getattr(importlib.import_module(f".{module}", __package__), options)
    if hasattr(kind, "read"):  # options that also come from a file
        return kind.read(words, prog=f"erasediff {name}")
    return parse(kind, words, prog=f"erasediff {name}")


def fail(error: BaseException, status: int) -> int:
    """Says an error in one line, on the rank that is to say it, on every rank where no launcher would; the status."""
    is_told = leave_word(str(error), status)
    rank = os.environ.get("RANK", "0")
    with contextlib.suppress(OSError):  # stderr is a log on the same disk
        if rank == "0":
            print(f"erasediff: {error}", file=sys.stderr, flush=True)
        elif not is_told or isinstance(error, OneRankError | LostRankError | OSError):
            print(f"erasediff: rank {rank}: {error}", file=sys.stderr, flush=True)
    return status
