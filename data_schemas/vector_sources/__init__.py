"""Vectors that another tool computed: tables with a column of lists, and arrays beside a table of their keys.

A source is a file, a folder of such, or a pattern. Each of its parts has its keys, which fit in memory, and its
vectors, which are read a block at a time.
"""
