"""Keep stores and files in object stores: conditional writes, a local cache, what errors mean.

A store with a URL is a local one with an object store behind it (`remote_store`): `find` and `fetch` bring an artifact
here; `share` uploads a committed one, its files first and its record last, which is created only if there is none. The
runner makes the same calls on any store; a local one has nothing to fetch or to share.
"""
