"""The commands: parse, call, print. Modules here import click alone; the rest is imported when a
command runs, so that ``--help`` answers at once."""
