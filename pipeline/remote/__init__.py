"""Stores and files in object stores: conditional writes, a local cache, and what their errors mean."""
