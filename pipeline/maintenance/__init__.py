"""Repair damaged artifacts, here and in object stores.

A record holds how its inputs were named, and from which folder, so that ``verify --repair`` can ask for the same again.
Repairs delete nothing.
"""
