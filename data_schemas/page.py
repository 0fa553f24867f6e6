"""Name of the HTML page of an artifact, for people to open."""

PAGE_NAME = "report.html"
