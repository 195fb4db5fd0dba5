"""The Transformer as one list of layers, attention, initialisation, loss, accounting. Imports torch alone."""
