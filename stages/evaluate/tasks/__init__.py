"""Turn a set and its embeddings into an entry of the report, by the task's name.

Every metric that is a mean or a median over images keeps its images: ``outcomes.parquet`` holds what each image or
caption came to, and `compare` pairs two evaluations without running anything again, and without torch.
"""
