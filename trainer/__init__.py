"""The algorithm: models, objectives, the sharded engine, methods, the loop."""
