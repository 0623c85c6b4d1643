"""Completion, asked of a real bash."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from erasediff.launch.cli import main


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch, (path := tmp_path_factory.mktemp("shell") / "script").open("w") as file:
        patch.setattr("sys.stdout", file)
        assert main(["completion", "bash"]) == 0
    return path


@pytest.mark.parametrize(
    ("words", "found", "not_found"),
    [
        (["sc"], {"scrub"}, {"sample"}),
        ([""], {"scrub", "launch", "shards", "compare"}, {"slurm"}),
        (["launch", "s"], {"slurm", "status", "sweep"}, {"split"}),
        (["scrub", "--train.max-t"], {"--train.max-train-steps"}, {"--train.seed"}),
        (["scrub", "run.toml", "--dry"], {"--dry-run"}, set()),
        (["evaluate", "--judge.num"], {"--judge.num-forget-samples-per-class"}, {"--forget"}),
        (["launch", "local", "-n", "2", "scrub", "--engine.zero"], {"--engine.zero-stage"}, {"--num-processes"}),
        (["launch", "slurm", "--tim"], {"--timeout-min"}, set()),
        (["sample", "--output", "a-f"], {"a-file.png"}, set()),
    ],
)
def test_bash_is_offered_what_fits(
    script: Path, tmp_path: Path, words: list[str], found: set[str], not_found: set[str]
) -> None:
    (tmp_path / "a-file.png").touch()
    quoted = " ".join(f"'{word}'" for word in ["erasediff", *words])
    asked = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; _erasediff"
    code = f"source {script}; {asked}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    offered = set(done.stdout.split())
    assert found <= offered and not (not_found & offered) and not done.stderr


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
def test_zsh_reads_its_script(script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    code = f"autoload -Uz compinit && compinit -u; source {tmp_path / 'script'}; whence _erasediff"
    assert subprocess.run(["zsh", "-fc", code], capture_output=True, text=True, check=True).stdout


def test_zshs_script_is_bashs_behind_what_lets_zsh_read_it(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    first, _, rest = capsys.readouterr().out.partition("\n")
    assert first == "autoload -U +X bashcompinit && bashcompinit" and rest == script.read_text()
    assert main(["completion", "fish"]) == 2
    assert "completion fish: name the shell, bash or zsh" in capsys.readouterr().err
