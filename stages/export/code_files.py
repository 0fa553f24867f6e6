"""The files of this package that lie beside an exported model and build it, and a folder that they read."""

CODE_NAME = "modeling_protorkd.py"
CODE_NAMES = (CODE_NAME, "networks_protorkd.py")
CALIBRATION_FOLDER = "2_ProtoRKDCalibration"
