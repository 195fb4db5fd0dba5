"""Whether this machine can train at all: its packages, devices, network.

Doors: `doctor.examine/tell`, `finding.Finding`, `package_names` (before anything else is imported).
"""
