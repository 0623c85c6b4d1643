"""`erasediff delta`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Delta:
    """Write the tensors that a scrub has changed as one file, to be loaded over the original model."""

    base: str
    """The model that was scrubbed: a pipeline folder or a Hub id."""
    model: Path
    """The scrubbed model's folder."""
    output: Path
    """The .safetensors file to write; must not exist."""
    revision: str | None = None
    """Hub revision of the base."""
    variant: str | None = None
    """Of the weights' files, such as fp16, where the folders have no others."""

    def run(self) -> None:
        """Writes the file and says what is in it; raises ConfigError."""
        from ..trainer.config import ModelConfig
        from ..trainer.errors import ConfigError
        from ..trainer.files import check_place
        from ..trainer.models.delta import write_delta

        if self.output.suffix != ".safetensors":
            raise ConfigError(f"--output {self.output}: the file ends in .safetensors")
        check_place(self.output, "--output")
        if self.output.exists():
            raise ConfigError(f"--output {self.output}: exists already; choose another")
        tensors = write_delta(ModelConfig(self.base, self.revision, variant=self.variant), self.model, self.output)
        count = sum(value.numel() for value in tensors.values())
        print(f"delta: {len(tensors):,} tensors, {count:,} numbers, in {self.output}")
