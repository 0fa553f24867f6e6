"""The page of an evaluation, `report.html`: tables, curves and galleries, made from the report alone."""
