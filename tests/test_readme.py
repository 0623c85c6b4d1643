"""The README's Python runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_python_snippet_runs(digits: Path, base_model: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model").symlink_to(base_model)
    (tmp_path / "sets").symlink_to(digits / "split")
    # as written, but for the number of steps
    code = code.replace("max_train_steps=100", "max_train_steps=2")
    # torch's compiler takes seconds to import, and nothing of it runs
    code += "import sys, torch\nassert 'torch._inductor.compile_fx' not in sys.modules\n"
    code += "assert torch.compile.__name__ == 'compile', 'it stays for who wants it'"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scrubbed" / "model_index.json").exists()
    assert (tmp_path / "scrubbed" / "erasediff.json").exists()


def test_the_commands_it_names_exist() -> None:
    from erasediff.launch.cli import COMMANDS

    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", README.read_text(), re.DOTALL))
    command = r"^(?:.*-m erasediff\.launch|erasediff) (\w+(?: (?:build|split|doctor|slurm|status))?)"
    named = re.findall(command, blocks, re.MULTILINE)
    assert len(named) >= 6
    assert set(named) <= set(COMMANDS)
