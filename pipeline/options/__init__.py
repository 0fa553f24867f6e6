"""Make the command line, files, Python keywords and completion from dataclasses of options.

Values come from flags, a file (`config_file`) or Python, and go through one reading (`values`) into the same
dataclasses. ``artifact=`` says whose artifact an option names: `run` then fills it in from the stages before.
"""
