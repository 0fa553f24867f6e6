"""Keep artifacts on disk: drafts, shards, leases, locks, commits, and remembered digests of files outside.

1. A draft is a folder ``.draft-<fingerprint>`` under a lock that dies with its process.
2. Files are written whole (temporary name, fsync, rename) and noted in its journal with their hash; a killed run goes
   on from there.
3. ``artifact.json`` is written last, then the folder is renamed into place; a commit that is killed between the two is
   finished by the next call.
4. A damaged artifact is turned back into a draft, and what is whole in it is kept.
5. The lock of a run names the artifacts that it reads, also those that it made or found on its way; ``gc`` leaves them.
6. Processes that join a run hold that lock together. Each has a draft of its own below ``joint/workers/``; they share
   whole shards, leases and what is done below ``joint/<key>/``; the draft of the one that commits is the artifact.
7. The newest artifact of a stage is the one last made or asked for: a file beside an artifact notes the latter.

Files under ``logs/`` hold times, and are left out of the digest. A run's own output is not read again to verify it: its
hash was taken at the commit. Digests of files outside are remembered by place, inode, size and times.
"""
