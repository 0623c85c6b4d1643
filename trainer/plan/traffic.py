"""What a step sends over the network, from the algorithm's passes. No torch here.

The convention of nccl-tests: a reduce-scatter or an all-gather of n elements over N ranks sends (N - 1) / N · n of them
from each rank, an all-reduce twice that; divided by bus bandwidth that is seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..config.cost import Cost

# of DeepSpeed's stage 3: parameters that stay gathered until they are used again, at most so many elements of them
MAX_GATHERED = 1_000_000_000


@dataclass(frozen=True)
class Wire:
    """Bytes that one rank sends in a step."""

    reductions: float
    """Gradients, each summed over ranks."""
    publications: float
    """The working copy, each time that it is written."""
    gathers: float
    """At stage 3, the weights that a pass gathers as it comes to them."""
    packet: float
    """Sums of a step, as its method and the losses' means need them."""

    @property
    def total(self) -> float:
        return self.reductions + self.publications + self.gathers + self.packet


def wire_bytes(
    stage: int,
    num_parameters: int,
    num_ranks: int,
    cost: Cost,
    *,
    num_micro_batches: int = 1,
    weight_bytes: int = 4,
    reduce_bytes: int = 4,
    num_persistent: int = 0,
    num_tensors: int = 0,
    num_sums: int = 3,
) -> Wire:
    """What one rank sends in one step with these passes.

    num_parameters: that train, padding included. num_micro_batches: of one rank's batch of one loss. weight_bytes: of
    an element of the working copy; reduce_bytes: of what gradients are summed in. num_persistent: of the parameters,
    those that stage 3 keeps whole on every rank. num_tensors: whose sums a packet has, num_sums each (fp64).

    Stages 1 and 2 reduce-scatter a loss's gradient once, whatever its micro-batches, and all-gather a publication.
    Stage 3 reduce-scatters in every micro-batch and gathers what is persistent at a publication, what is not for every
    micro-batch of a gradient. After a forward pass weights stay gathered until a backward pass or a publication, so
    that passes one after another gather once, and those before a gradient nothing (`Cost.forward_gathers`). A model of
    more elements than stay gathered (`MAX_GATHERED`) gathers for each forward and each backward pass. Counted on ranks
    for models below that; above it an estimate.
    """
    sent = (num_ranks - 1) / num_ranks
    gradient = sent * num_parameters * reduce_bytes
    packet = 2 * sent * 8 * num_tensors * num_sums
    if stage < 3:
        publication = sent * num_parameters * weight_bytes
        return Wire(cost.gradients * gradient, cost.publications * publication, 0.0, packet)
    gathered = num_parameters - num_persistent
    gather = sent * gathered * weight_bytes
    passes = cost.gradients * num_micro_batches + cost.forward_gathers
    if gathered > MAX_GATHERED:
        passes = (2 * cost.gradients + cost.forwards) * num_micro_batches
    return Wire(
        reductions=cost.gradients * num_micro_batches * gradient,
        publications=cost.publications * sent * num_persistent * weight_bytes,
        gathers=passes * gather,
        packet=packet,
    )
