"""The file of an artifact that people open."""

PAGE_NAME = "report.html"
