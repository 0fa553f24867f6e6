"""The frozen text teacher: found and identified by its bytes, loaded, and put to work on captions."""
