from pipeline.sizes import human_size, human_time


def test_human_size__has_three_digits_or_so():
    sizes = {0: "0 B", 999: "999 B", 1500: "1.5 kB", 2_340_000: "2.3 MB", 7.1e9: "7.1 GB", 3e12: "3.0 TB"}
    assert {size: human_size(size) for size in sizes} == sizes


def test_human_time__is_in_the_unit_that_people_would_choose():
    times = {0.25: "0.2 s", 12.4: "12 s", 60: "1 min", 3599: "1 h 00 min", 7500: "2 h 05 min"}
    assert {seconds: human_time(seconds) for seconds in times} == times
