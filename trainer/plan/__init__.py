"""What a scrub will take of memory, time and network, counted from its settings and the model's configuration."""
