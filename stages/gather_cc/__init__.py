"""Download a folder of images and its manifest from a table of captions and URLs.

It is not a stage: the network's answers are no function of the request, so it makes a folder and not an artifact.

1. Rows are read as the run has room for them (`url_table`).
2. One loop (`crawl_loop`) lets hosts take turns (`host_queues`); a redirect or a retry is a new turn of its host, so
   nothing waits while it holds a connection.
3. `client` requests one URL once and follows nothing; `http_result` says what each exception means.
4. Bodies go to processes that decode, check, shrink and write images (`decoders`, `image_writer`).
5. Outcomes are written in blocks, after their images are on disk (`outcome_journal`), and become ``status.parquet``
   and ``manifest.tsv`` when all rows have one (`results`). Outcomes without an answer are held back until any host
   answers (`host_health`), so that no row fails because the network is down.
"""
