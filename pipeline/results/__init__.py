"""Show what was made beside what it was measured at: a row for each artifact, in a table.

1. `rows` reads the artifacts that another stage measures, such as students: their options, and the figures of both.
2. `columns` finds a column by its name, for conditions and sorting; `groups` makes one row of those that differ in a
   seed alone.
3. `table` chooses the columns that tell rows apart, and `formats` writes them.
"""
