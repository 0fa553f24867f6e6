"""Make a folder of images and its manifest from captions and addresses of images.

It is no stage: what the network gives is no function of a request, so it makes a folder and not an artifact.

1. Rows are read as the run has room for them (`url_table`).
2. One loop (`crawl_loop`) lets hosts take turns (`host_queues`); a redirect or a retry is a new turn of its host, so
   nothing waits while it holds a connection.
3. `client` asks for one URL once and follows nothing; what an exception means stands in `http_result`.
4. Bodies go to processes that decode, judge, shrink and write (`decoders`, `image_writer`).
5. Outcomes are written in blocks, after the images that they speak of are on disk (`outcome_journal`), and become
   ``status.parquet`` and ``manifest.tsv`` when all rows have one (`results`). Outcomes without an answer are held back
   until any host answers (`host_health`): a network that is gone costs no row.
"""
