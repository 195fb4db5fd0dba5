"""The config: read with its line numbers, merged, checked, frozen.

Doors: `run_config` (Config, load, edit, build, plain, dump, difference, require_*), `messages.expectation`.
"""
