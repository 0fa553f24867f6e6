"""Where and in which numbers work is done.

Devices, precision, processes that train together, random numbers by key, work beside work.
"""
