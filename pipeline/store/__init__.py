"""Artifacts on disk: drafts, locks, commits, and remembered digests of files outside."""
