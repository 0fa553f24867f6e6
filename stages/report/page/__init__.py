"""Draw the page of a report, `report.html`, from the report and thumbnails alone."""
