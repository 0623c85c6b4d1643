"""Diffusion models in and out: families, schedules, conditions, sampling, and what a model's folder says of it."""
