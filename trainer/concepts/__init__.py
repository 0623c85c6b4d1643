"""Concepts that prompts name: the model itself draws what is to be forgotten and what must stay."""
