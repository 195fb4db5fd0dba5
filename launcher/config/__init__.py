"""The config: read with its line numbers, merged, checked, frozen.

Doors: `run_config` (Config, load, edit, build, plain, dump), `require`, `compare` (what differs, and whether
it makes another run), `resolved` (each key with the place that it comes from), `timetable` (when
steps, tokens and minutes fall due), `messages.expectation`, `yaml_reader.Key/dotted`.
"""
