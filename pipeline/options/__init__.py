"""Make the command line, files, Python keywords and completion from dataclasses of options.

Values come from flags, a file (`config_file`) or Python; one reader (`values`) puts them into the same dataclasses.
``artifact=`` says which stage's artifact an option names: `run` then fills it in from the stages before.
"""
