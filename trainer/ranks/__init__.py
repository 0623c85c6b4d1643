"""The processes of a run: what they agree on, when they meet, who is missing."""
