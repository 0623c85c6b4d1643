"""A small text-to-image pipeline made from nothing: its words, its autoencoder, its parts."""
