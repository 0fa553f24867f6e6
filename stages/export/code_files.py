"""The files of this package that lie beside an exported model and build it."""

CODE_NAME = "modeling_protorkd.py"
CODE_NAMES = (CODE_NAME, "networks_protorkd.py")
