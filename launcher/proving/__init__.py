"""`headrace prove`: what headrace promises, shown on the user's own config, text and machine.

Door: `prove.prove`.
"""
