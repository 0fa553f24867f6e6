"""Read image-caption pairs in every usual form to one table.

`kinds.find_source` tells by the path which form it is. A `PairSource` then gives one `Manifest` in every case: row,
image, caption, and rejections by one rule (`blocks`). A form is a function from a file to blocks of records, and a line
of `KINDS`. The image of a pair is a path, or a locator: a container's path followed by the record's name. Since no path
leads below a file, a locator needs no mark, and everything downstream passes paths on unchanged.
"""
