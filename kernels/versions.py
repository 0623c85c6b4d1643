"""Which Triton goes with which torch. No torch here."""

# pairs that were tried: what the CUDA wheels of torch ask for, as their metadata has it; the CPU wheels ask for none
TRITON_OF_TORCH = {"2.11.0": "3.6.0", "2.13.0": "3.7.1"}
