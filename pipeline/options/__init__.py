"""Options from dataclasses: the command line, files, Python and completion are made from their lines."""
