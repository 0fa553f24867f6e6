"""Hold all students of a store against one another: the command ``runs``, its table and its page."""
