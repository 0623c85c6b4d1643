"""Which of a module's parameters train: the field's names for parts of a U-Net, or patterns of parameters' names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from ..errors import ConfigError

# the choices of the research code for Stable Diffusion (arXiv 2303.07345 and what followed it), on diffusers' names of
# the same modules: its output_blocks.6 and .8 are the first and last attention of up_blocks.2, its input_blocks.4 and
# .7 the first of down_blocks.1 and .2
_CROSS, _SELF = r"\.attn2\.", r"\.attn1\."
_TIME_AND_OUT = r"^(time_embedding|conv_norm_out|conv_out)\."
NAMED = {
    "full": r"",
    "xattn": _CROSS,
    "noxattn": rf"^(?!.*{_CROSS})(?!{_TIME_AND_OUT})",
    "selfattn": _SELF,
    "notime": rf"^(?!{_TIME_AND_OUT})",
    "xlayer": r"^up_blocks\.2\.attentions\.[02]\..*\.attn2\.",
    "selflayer": r"^down_blocks\.[12]\.attentions\.0\..*\.attn1\.",
}


def chosen(module: nn.Module, layers: Sequence[str], option: str) -> dict[str, nn.Parameter]:
    """The parameters that train: those that one of `layers` names, as far as the module lets them.

    layers: keys of `NAMED`, or patterns such as "mid_block.*". Raises ConfigError, naming `option`, for one that
    matches no parameter.
    """
    parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
    found: set[str] = set()
    for layer in layers:
        of_layer = {name for name in parameters if _matches(name, layer)}
        if not of_layer:
            raise ConfigError(
                f"{option}: {layer!r} names none of the model's {len(parameters):,} parameters; known are "
                f"{', '.join(NAMED)}, or give a pattern of their names, such as "
                f"{next(iter(parameters), 'conv_in').partition('.')[0] + '.*'!r}"
            )
        found |= of_layer
    if not found:
        raise ConfigError(f"{option} names no layers: leave it out, or give 'full'")
    return {name: value for name, value in parameters.items() if name in found}


def train_only(module: nn.Module, layers: Sequence[str], option: str) -> None:
    """Lets no parameter train but those that are `chosen`."""
    names = chosen(module, layers, option)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in names)


def _matches(name: str, layer: str) -> bool:
    return bool(re.search(NAMED[layer], name)) if layer in NAMED else fnmatchcase(name, layer)
