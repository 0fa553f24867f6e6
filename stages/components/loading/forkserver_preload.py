"""What the server that readers are forked from imports first: it leaves the process group of the command.

Ctrl-C in a terminal, torchrun and most schedulers signal a whole group. The command answers, and needs its readers
while it does; they end with it. Nothing else imports this module.
"""

import os

os.setpgid(0, 0)
