"""Read images in processes of their own, in batches ahead of their use.

What is read is a set of `stages/components/images`; what becomes of a batch is its caller's.

1. A small server, which has seen no GPU and no threads, forks the readers; they live through all epochs. It leaves the
   command's process group, so that Ctrl-C does not end readers before the command has answered (`forkserver_preload`).
   Readers end with the command however it ends, and the server with the last of them.
2. A reader is handed a set and numbers: sets are small when pickled, and names travel as shared memory.
3. It notes the image that it opens in shared memory, so that a decoder that ends its process can be told by the image
   (`worker_trace`).
4. Each reader is up to four batches ahead. Batches that wait take 2 GB at most for each process that trains or embeds,
   and half of what is free in /dev/shm between all of a machine; where that is too little, fewer processes read
   (`num_workers`). A reader that finds it full says so in the batch's place.
   While no batch comes, readers are looked at every few seconds: one that died, or all that open nothing for minutes,
   are an error, and a stop that is asked for is answered.
5. A GPU is sent the next batch while it computes, and its embeddings come back one batch late (`prefetch`).
"""
