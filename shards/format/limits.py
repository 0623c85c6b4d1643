"""How much a sample may hold."""

MAX_SAMPLE_BYTES = 1 << 28
MAX_KEY_BYTES = 4096
