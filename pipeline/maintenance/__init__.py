"""Repair of damaged artifacts, here and in object stores."""
