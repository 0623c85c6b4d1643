"""The sharded engine: gradients, displacements and the outer step on ZeRO shards."""
