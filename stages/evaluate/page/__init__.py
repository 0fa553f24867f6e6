"""Draw the page of an evaluation, `report.html`, from the report alone: tables, curves, galleries."""
