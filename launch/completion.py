"""`erasediff completion`: a script by which a shell completes commands, their options, and files."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..trainer.errors import ConfigError

_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"
_SCRIPT = """\
_erasediff() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} command="" options="" i pair
    for ((i = 1; i < COMP_CWORD; i++)); do
        pair="${{COMP_WORDS[i]}} ${{COMP_WORDS[i + 1]}}"
        case $pair in
{pairs}
        esac
        case ${{COMP_WORDS[i]}} in
{singles}
        esac
    done
    case $command in
{options}
    esac
    if [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$current"))
    elif [[ -z $command ]]; then
        case ${{COMP_WORDS[COMP_CWORD - 1]}} in
{groups}
            *) options="{first}" ;;
        esac
        COMPREPLY=($(compgen -W "$options" -- "$current"))
    else
        COMPREPLY=($(compgen -f -- "$current"))
    fi
}}
complete -o filenames -F _erasediff erasediff
"""


@dataclass(frozen=True)
class Completion:
    """Print a script for a shell: eval "$(erasediff completion bash)", or zsh, in its startup file.

    It completes commands, options of the command that stands before, and files.
    """

    shell: str

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Completion:
        if words and words[0] in ("-h", "--help"):
            print(f"usage: {prog} bash|zsh\n\n{cls.__doc__}\nOptions are those of this version: print it anew after")
            print("an upgrade, or keep it in a file.")
            raise SystemExit(0)
        if [*words] not in (["bash"], ["zsh"]):
            raise ConfigError(f"{prog} {' '.join(words)}: name the shell, bash or zsh".replace(" :", ":"))
        return cls(words[0])

    def run(self) -> None:
        print((_ZSH if self.shell == "zsh" else "") + script(), end="")


def script() -> str:
    from .cli import COMMANDS

    names = [*COMMANDS]
    pairs = [f'        "{name}") command="{name}" ;;' for name in names if " " in name]
    singles = [f'        {name}) command="{name}" ;;' for name in names if " " not in name]
    groups: dict[str, list[str]] = {}
    for group, member in (name.split() for name in names if " " in name):
        groups.setdefault(group, []).append(member)
    options = [f'        "{name}") options="{" ".join(_options(name, COMMANDS[name]))}" ;;' for name in names]
    return _SCRIPT.format(
        pairs="\n".join(pairs),
        singles="\n".join(singles),
        options="\n".join(options),
        first=" ".join(dict.fromkeys(name.split()[0] for name in names)),
        groups="\n".join(f'            {group}) options="{" ".join(members)}" ;;' for group, members in groups.items()),
    )


def _options(name: str, command: tuple[str, str, str]) -> list[str]:
    """Those that its --help tells."""
    from .cli import read

    module, kind, _ = command
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        read(module, kind, name, ["--help"])
    return sorted(set(re.findall(r"--[a-z][a-z0-9.-]*[a-z0-9]", told.getvalue())))
