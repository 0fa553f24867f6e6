"""Keep stores and files in object stores: conditional writes, a local cache, what errors mean.

A store with a URL is a local one with an object store behind it (`remote_store`): `find` and `fetch` bring an artifact
here, `share` puts a committed one there, its files first and its record last, created on the condition that there is
none. The runner asks any store for the same; a local one has nothing to fetch or to share.
"""
