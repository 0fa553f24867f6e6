"""Leave the command's process group: the server that readers are forked from imports this module first.

Ctrl-C in a terminal, torchrun and most schedulers signal a whole group. The command handles the signal, and needs its
readers meanwhile; they end with it. Nothing else imports this module.
"""

import os

os.setpgid(0, 0)
