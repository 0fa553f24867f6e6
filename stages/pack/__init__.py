"""Before stage two: pictures shrunk and put one behind the other, so that training reads them quickly."""
