"""Before stage two: images shrunk and put one behind the other, so that training reads them quickly."""
